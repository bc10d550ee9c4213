"""The ground: what imports nothing else of tlab."""
