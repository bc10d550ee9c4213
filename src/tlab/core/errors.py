"""Exceptions for mistakes that the user can correct and for what a machine refuses, and a command's exit codes."""

FAILED = 1  # the command, or some runs of a sweep, failed
MISTAKEN = 2  # the command was refused before anything ran
INTERRUPTED = 130  # Ctrl-C


class UserError(Exception):
    """A mistake in the configuration, the data or the command line.

    Its message is one sentence that names the key or the file at fault and the remedy. The command line
    prints it without a traceback and exits with its `exit_code` (`debug=true` shows the traceback).
    """

    exit_code = MISTAKEN


class RunFailed(UserError):  # noqa: N818 - named for what there is
    """The machine refused what a run or a command needs."""

    exit_code = FAILED


class NotFinite(UserError):  # noqa: N818 - named for what there is
    """A loss is no finite number; the remedy is that of training."""


class OutOfMemory(RunFailed):
    """Memory ran out; the message says which command needs less."""


class DownloadFailed(UserError):  # noqa: N818 - named for what there is
    """Pretrained weights cannot be fetched.

    Attributes:
        needs: Which file is needed, and why it is not there.
    """

    def __init__(self, needs: str, remedy: str = "") -> None:
        super().__init__(f"{needs}; {remedy}" if remedy else needs)
        self.needs = needs


class ImagesGone(UserError):  # noqa: N818 - named for what there is
    """The images of a run cannot be listed any more."""


class RunDirectoryConflict(UserError):  # noqa: N818 - named for what there is
    """A run directory belongs to another run, which must not be overwritten."""


class RunDirectoryLocked(RunDirectoryConflict):
    """A run directory is in use by another process."""
