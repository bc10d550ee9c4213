"""The exceptions that stand for a mistake the user can mend, and the exit codes of a command."""

FAILED = 1  # some runs of a sweep
MISTAKEN = 2  # before anything ran
INTERRUPTED = 130  # exit code of a command that Ctrl-C has stopped


class UserError(Exception):
    """A mistake in the configuration, the data or the command line.

    Its message is one sentence that names the key or the file at fault and the way out. The command line
    prints it without a traceback and exits with code 2 (`debug=true` shows the traceback).
    """


class RunDirectoryConflict(UserError):  # noqa: N818 - named for what there is
    """A run directory is another run's, which is to be left as it is."""


class RunDirectoryLocked(RunDirectoryConflict):
    """Another process is at work in a run directory."""
