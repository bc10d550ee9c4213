"""Measured choices for this machine: precision and compilation."""
