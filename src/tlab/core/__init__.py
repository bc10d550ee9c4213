"""Utilities that import nothing else of tlab: errors, files, locks, hardware, processes."""
