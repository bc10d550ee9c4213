"""A network cut into stages: traced, then split."""
