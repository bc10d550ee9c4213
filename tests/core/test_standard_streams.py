"""A command goes on when nobody reads what it prints any more."""

import subprocess
import sys

import pytest

PRINTING = """
import logging, sys
from pathlib import Path
from tlab.core.standard_streams import outlast_readers
outlast_readers()
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
