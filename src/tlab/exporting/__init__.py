"""A trained run as a model that others can run, and its card."""
