"""A disk that is full while a run writes: a limit on the size of files fails in the same way."""

import errno
import json
import os
import sys
from contextlib import contextmanager

import pytest
import torch

from tlab.core.machine_failures import machine_failure
from tlab.dashboards.event_files import RunWriter
from tlab.runs.checkpoints import AtomicCheckpointIO
from tlab.runs.directory import RunDirectory
from tlab.train import run, train

resource = pytest.importorskip("resource")

SMALL = ("backbone.upto=layer1", "finetune=full", "trainer.max_epochs=2", "checkpoint.every_n_steps=1")


@contextmanager
def largest_file(size):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_run_says_what_is_full_and_goes_on_when_there_is_room(
    compose_run, tmp_path, run_entry_point, capsys, photos
):
    here = RunDirectory(tmp_path / "run")
    quick = (f"data.root={photos}", "data.image_size=32", "data.batch_size=36", "data.num_workers=0", "trainer=cpu")
    quick += ("backbone.weights=null", "trainer.precision=32-true", "logger=none", f"hydra.run.dir={here.path}")
    with largest_file(1_000_000), pytest.raises(SystemExit) as end:
        run_entry_point(run, "train", *quick, *SMALL)
    said = capsys.readouterr().err.splitlines()[-1]
    assert end.value.code == 1
    assert f"{here.last} cannot be written" in said
    assert "a checkpoint takes" in said
    assert json.loads(here.record_file.read_text())["status"] == "failed"
    assert [path.name for path in here.path.rglob(".*") if path.name not in (".lock", ".hydra")] == []
    run_entry_point(run, "train", *quick, *SMALL)
    assert here.status == "finished"
    writes = []

    def full(*arguments):
        writes.append(arguments)
        raise OSError(errno.ENOSPC, "No space left on device")

    here.update(status="running")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tlab.runs.directory.write_text", full)
        here.record_failure(RuntimeError("the first"))  # what counts is the error that it is called for
    assert writes
    assert here.status == "running"


def test_what_the_best_checkpoint_takes_meanwhile_is_told(tmp_path):
    here = RunDirectory(tmp_path)
    writer = AtomicCheckpointIO(here)
    checkpoint = {"state_dict": {"weight": torch.zeros(250_000)}}
    writer.save_checkpoint(checkpoint, here.best)
    with largest_file(100_000), pytest.raises(OSError, match="File too large") as caught:
        writer.save_checkpoint(checkpoint, here.last)
    assert "(a checkpoint takes 1.0 MB, best.ckpt 1.0 MB more, " in machine_failure(caught.value)


@pytest.mark.parametrize("refusal", [errno.EPERM, errno.ENOTSUP, errno.EMLINK])
def test_without_links_the_checkpoint_before_is_copied(compose_run, tmp_path, monkeypatch, refusal):
    def link(*_):
        raise OSError(refusal, os.strerror(refusal))

    monkeypatch.setattr(os, "link", link)
    monkeypatch.setattr(RunDirectory, "finish", lambda self, metrics, **entries: None)  # which removes it
    train(compose_run(*SMALL, "data.batch_size=36"))
    assert RunDirectory(tmp_path / "run").previous.stat().st_size > 500_000


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX")
def test_event_files_end_where_the_disk_is_full(tmp_path, caplog, capfd):
    board = RunWriter(str(tmp_path))
    board.add_scalar("a", 1.0, 0)
    board.flush()
    with largest_file(500):
        for step in range(100):
            board.add_text("text", "x" * 300, step)
        board.flush()
    board.add_scalar("a", 1.0, 1)
    board.close()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "Traceback" not in capfd.readouterr().err
