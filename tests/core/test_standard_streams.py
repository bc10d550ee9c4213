"""A command prints any text, and goes on when nobody reads what it prints any more."""

import io
import subprocess
import sys

import pytest

from tlab.core.standard_streams import guard_streams

PRINTING = """
import logging, sys
from pathlib import Path
from tlab.core.standard_streams import guard_streams
guard_streams()
logging.basicConfig(stream=sys.stdout, level=logging.INFO)
for line in range(20_000):
    print("line", line)
    logging.info("logged")
    print("line", line, file=sys.stderr)
Path(sys.argv[1]).write_text("done")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell")
@pytest.mark.parametrize(
    "streams", ["| head -1", "2>&1 | head -1", ">/dev/full 2>&1", ">&- 2>&-", "2>&1 >&- | cat", "0>&- >&- 2>&-"]
)
def test_a_command_outlasts_its_reader(tmp_path, streams):
    command = [sys.executable, "-c", PRINTING, tmp_path / "done"]
    ran = subprocess.run(
        ["bash", "-c", f'set -o pipefail; "$@" {streams}', "bash", *command], capture_output=True, text=True
    )
    assert ran.returncode == 0
    assert (tmp_path / "done").read_text() == "done"
    assert "Error" not in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize(
    ("encoding", "printed"),
    [
        ("utf-8", "1–2 × кошка café \\xe9"),
        ("latin-1", r"1-2 × \u043a\u043e\u0448\u043a\u0430 café \xe9"),
        ("ascii", r"1-2 x \u043a\u043e\u0448\u043a\u0430 caf\xe9 \xe9"),
    ],
)
def test_a_terminal_gets_what_it_can_show(encoding, printed, monkeypatch):
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding))
    monkeypatch.setattr(sys, "stderr", io.StringIO())  # without an encoding, as in a notebook
    guard_streams()
    print("1–2 × кошка café \udce9", end="", flush=True)
    assert shown.getvalue().decode(encoding) == printed
