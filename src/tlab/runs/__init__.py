"""The run directory: write, read, resume."""
