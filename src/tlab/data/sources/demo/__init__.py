"""The built-in sample: photographs that are drawn."""
