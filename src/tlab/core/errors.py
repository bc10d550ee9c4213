"""Exceptions for mistakes that the user can correct, and the exit codes of a command."""

FAILED = 1  # the command, or some runs of a sweep, failed
MISTAKEN = 2  # the command was refused before anything ran
INTERRUPTED = 130  # Ctrl-C


class UserError(Exception):
    """A mistake in the configuration, the data or the command line.

    Its message is one sentence that names the key or the file at fault and the remedy. The command line
    prints it without a traceback and exits with code 2 (`debug=true` shows the traceback).
    """


class RunFailed(UserError):  # noqa: N818 - named for what there is
    """A run or command that had begun could not be carried out; the command exits with code 1."""


class RunDirectoryConflict(UserError):  # noqa: N818 - named for what there is
    """A run directory belongs to another run, which must not be overwritten."""


class RunDirectoryLocked(RunDirectoryConflict):
    """A run directory is in use by another process."""
