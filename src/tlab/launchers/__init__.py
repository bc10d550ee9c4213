"""Carrying the runs of a sweep out elsewhere: what travels there, and what comes back.

A run's directory is the same as on this machine, so it must lie on a disk that all machines share. What a job
leaves there decides what became of it; the launchers only wait, and note what ended without a word.
"""
