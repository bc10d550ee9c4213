"""Hyper-parameter search: the space, the study with its trials, the workers, and what it comes to."""
