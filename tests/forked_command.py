"""A command of tlab in a fork of this process, which has imported torch already, as a new one would for seconds."""

import importlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import IO, NoReturn

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from tlab.core.signals import STOPPING


class ForkedCommand:
    """What `subprocess.Popen([sys.executable, "-m", module, *arguments])` is, as far as tests ask for it."""

    def __init__(self, module: str, *arguments: str, cwd: Path | None = None) -> None:
        """Start the command.

        Args:
            module: For example `tlab.train`.
            arguments: Its arguments.
            cwd: Where it runs; None: here.
        """
        self._printed = [tempfile.TemporaryFile("w+", encoding="utf-8") for _ in ("stdout", "stderr")]  # noqa: SIM115
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            _carry_out(module, arguments, cwd or Path.cwd(), self._printed)

    def poll(self) -> int | None:
        """Return the exit code, None while the command runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float = 120) -> int:
        """Wait for the end, and return the exit code.

        Raises:
            TimeoutError: It takes longer than `timeout` seconds; the command is killed.
        """
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                self.send_signal(signal.SIGKILL)
                raise TimeoutError(f"the command is not over after {timeout} s")
            time.sleep(0.01)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def communicate(self, timeout: float = 120) -> tuple[str, str]:
        """Wait for the end, and return standard output and standard error."""
        self.wait(timeout)
        for file in self._printed:
            file.seek(0)
        stdout, stderr = (file.read() for file in self._printed)
        return stdout, stderr


def run_forked(module: str, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, as `subprocess.run` does."""
    process = ForkedCommand(module, *arguments, cwd=cwd)
    stdout, stderr = process.communicate(timeout=600)
    assert process.returncode is not None
    return subprocess.CompletedProcess([module, *arguments], process.returncode, stdout, stderr)


def _carry_out(module: str, arguments: tuple[str, ...], cwd: Path, printed: list[IO[str]]) -> NoReturn:
    """Be the command, without what the tests have set up around it."""
    code = 1
    try:
        for number in STOPPING:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number, file in enumerate(printed, 1):
            os.dup2(file.fileno(), number)
        sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))  # noqa: SIM115
        logging.root.handlers.clear()
        warnings.showwarning = _show_warning
        for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", category)  # as Python does outside tests
        GlobalHydra.instance().clear()
        HydraConfig.instance().cfg = None
        os.environ.pop("TLAB_THIS_COMMAND", None)
        os.chdir(cwd)
        command = importlib.import_module(module)
        sys.argv = [str(command.__file__), *arguments]
        command.main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)  # nothing of pytest's goes on here


def _show_warning(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object) -> None:
    sys.stderr.write(warnings.formatwarning(message, category, filename, lineno))
