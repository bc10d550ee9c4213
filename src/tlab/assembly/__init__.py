"""The parts of a run and the order of its callbacks, from its configuration."""
