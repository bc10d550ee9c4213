"""The one exception that stands for a mistake the user can mend, and the exit code of a stopped command."""

INTERRUPTED = 130  # exit code of a command that Ctrl-C has stopped


class UserError(Exception):
    """A mistake in the configuration, the data or the command line.

    Its message is one sentence that names the key or the file at fault and the way out. The command line
    prints it without a traceback and exits with code 2 (`debug=true` shows the traceback).
    """
