"""Hyper-parameter search: the space, the study with its trials, the workers, and the summary."""
