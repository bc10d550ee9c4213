"""What a machine refuses, in one sentence, and what is no such thing."""

import errno
import multiprocessing
import os

import pytest
from hydra.errors import InstantiationException

from tlab.core.error_messages import as_told, exit_code, is_mistake, user_message
from tlab.core.errors import UserError
from tlab.core.files import atomic_path, check_writable, write_text
from tlab.core.machine_failures import machine_failure

TORCH = "unable to {} shared memory{} </torch_1_2>{}: {}"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left", "/etc/a.csv"), ["/etc/a.csv", "disk is full", "MB are free"]),
        (OSError(errno.ENOSPC, "No space left"), ["disk is full", "make room"]),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "a.csv"), ["a.csv", "quota"]),
        (OSError(errno.EROFS, "Read-only file system", "a.csv"), ["a.csv", "Read-only file system"]),
        (OSError(errno.EIO, "Input/output error", "a.jpg"), ["a.jpg", "Input/output error"]),
        (OSError(errno.ENAMETOOLONG, "File name too long", "a.csv"), ["a.csv", "File name too long"]),
        (OSError(errno.EMFILE, "Too many open files"), ["data.num_workers=0", "ulimit -n"]),
        (RuntimeError(TORCH.format("open", " object", " in mode", "Too many open files (24)")), ["ulimit -n"]),
        (ValueError("(sqlite3.OperationalError) database or disk is full\n[SQL: INSERT]"), ["disk is full"]),
        (FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"), ["TMPDIR=DIR"]),
        (RuntimeError("received 0 items of ancdata"), ["ulimit -n"]),
        (
            RuntimeError(TORCH.format("allocate", "(shm)", "", "No space left (28)")),
            ["num_workers=0", "--shm-size"],
        ),
        (RuntimeError("DataLoader worker (pid 1) is killed by signal: Bus error. It"), ["Bus error", "--shm-size"]),
        (RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed. "), ["Killed", "data.num_workers=0"]),
        (
            RuntimeError("DataLoader worker (pid 1) is killed by signal: Segmentation fault. "),
            ["ended early (is killed by signal: Segmentation fault): give data.num_workers=0 to see where"],
        ),
        (RuntimeError("DataLoader worker (pid(s) 1, 3) exited unexpectedly"), ["data.num_workers=0"]),
    ],
)
def test_what_the_machine_refuses_is_one_sentence_and_exit_code_1(error, words):
    assert is_mistake(error)
    assert exit_code(error) == 1
    said = user_message(error)
    assert [word for word in words if word not in said] == []
    assert "\n" not in said
    told = as_told(error)  # to another process
    assert (user_message(told), exit_code(told)) == (said, 1)
    wrapped = InstantiationException("full_key: data")
    wrapped.__cause__ = error
    assert (user_message(wrapped), exit_code(wrapped)) == (said, 1)


def test_shared_memory_that_cannot_be_written_is_named(monkeypatch):
    def refuse(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("_multiprocessing.SemLock", refuse)
    with pytest.raises(OSError, match="Read-only") as raised:
        multiprocessing.get_context("fork").Lock()
    assert "data.num_workers=0" in user_message(raised.value)
    assert exit_code(raised.value) == 1


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes differ"), FileNotFoundError(errno.ENOENT, "none", "a"), ValueError("Bus error")]
)
def test_other_errors_keep_their_traceback(error):
    assert machine_failure(error) is None
    assert not is_mistake(error)


def test_a_mistake_has_exit_code_2():
    assert exit_code(UserError("give another")) == exit_code(as_told(UserError("give another"))) == 2


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("of torch")])
def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, error):
    target = tmp_path / "a.csv"
    write_text(target, "old")

    def write():
        with atomic_path(target) as temporary:
            temporary.write_text("new")
            raise error

    with pytest.raises(type(error)) as raised:
        write()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.csv"]  # noqa: PTH208
    assert isinstance(error, RuntimeError) or raised.value.filename == str(target)


def test_a_pipe_is_written_to_and_a_link_stays_one(tmp_path):
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_text(pipe, "text")
        assert os.read(reader, 9) == b"text"
    finally:
        os.close(reader)
    assert pipe.is_fifo()
    (tmp_path / "file").write_text("old")
    link.symlink_to("file")
    write_text(link, "new")
    assert link.is_symlink()
    assert (tmp_path / "file").read_text() == "new"
    assert len([*tmp_path.iterdir()]) == 3


def test_a_place_is_tried_before_it_is_needed(tmp_path):
    check_writable(tmp_path / "a" / "b", "give output=DIR")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/below cannot be written \(Not a directory\); give output=DIR"):
        check_writable(tmp_path / "file" / "below", "give output=DIR")
