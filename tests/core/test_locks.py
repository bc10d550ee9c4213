"""Locks on files: between processes, until the process goes, and where there are none."""

import errno
import subprocess
import sys

import pytest

from tlab.core.errors import UserError
from tlab.core.locks import FileLock, lock

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such locks")

HOLDER = """
import sys
from pathlib import Path
from tlab.core.locks import FileLock
lock = FileLock(Path(sys.argv[1]))
print(lock.acquire(wait=False), flush=True)
sys.stdin.readline()
"""


def holder(path):
    """Start a process that tries for the lock; returns it and whether it has it."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    return process, process.stdout.readline() == "True\n"


def test_one_process_holds_it_until_it_is_gone(tmp_path):
    path = tmp_path / "folder" / "lock"
    process, has_it = holder(path)
    assert has_it
    mine = FileLock(path)
    assert not mine.acquire(wait=False)
    process.kill()
    process.communicate()
    assert mine.acquire(wait=False)
    other, has_it = holder(path)
    other.communicate("")
    assert not has_it


def test_what_is_released_is_free(tmp_path):
    with FileLock(tmp_path / "lock").held():
        process, has_it = holder(tmp_path / "lock")
        process.communicate("")
        assert not has_it
    process, has_it = holder(tmp_path / "lock")
    process.communicate("")
    assert has_it


def test_a_locked_file_keeps_what_is_in_it(tmp_path):
    (tmp_path / "lock").write_text("12")
    with FileLock(tmp_path / "lock").held():
        assert (tmp_path / "lock").read_text() == "12"


@pytest.mark.parametrize("refusal", [errno.ENOLCK, errno.ENOTSUP, errno.EPERM, errno.EINVAL])
def test_without_locks_everybody_gets_it_or_there_is_a_way_out(tmp_path, monkeypatch, refusal):
    def lockf(*_):
        raise OSError(refusal, "No locks available")

    monkeypatch.setattr("tlab.core.locks.fcntl.lockf", lockf)
    mine = FileLock(tmp_path / "lock")
    assert mine.acquire(wait=False)
    assert not mine.excludes
    with pytest.raises(UserError, match=r"lock cannot be locked \(No locks available\); take another folder"):
        FileLock(tmp_path / "lock", "take another folder").acquire()
    with (tmp_path / "lock").open("w") as file, pytest.raises(OSError, match="No locks"):
        lock(file)
