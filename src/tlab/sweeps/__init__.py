"""Sweeps, many runs from one command: their names, what is left to do, running it, and the result.

All that is known of a run comes from its directory, so a sweep is resumed by giving its command again.
"""
