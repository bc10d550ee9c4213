"""Running a sweep on a cluster: what is sent to each job, and what comes back.

A run's directory lies on a disk that all machines share. What a job leaves there decides its outcome; the launchers
only wait, and record the jobs that ended without a word.
"""
