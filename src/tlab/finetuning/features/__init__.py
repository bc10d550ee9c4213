"""Cached output of frozen stages, computed once per image and view."""
