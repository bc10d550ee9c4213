import os
from pathlib import Path

import pytest

from tlab.config.provenance import plain
from tlab.core.errors import RunDirectoryLocked, UserError
from tlab.runs.directory import RunDirectory

CONFIG = {"seed": 0, "optimizer": {"lr": 0.1}, "data": {"num_workers": 2}, "run_dir": "a"}


def test_status_follows_the_run(tmp_path):
    run = RunDirectory(tmp_path / "run")
    assert run.status is None
    with run.recording(CONFIG):
        assert run.status == "running"
        run.finish({"val/acc": 0.5})
    assert run.status == "finished"
    assert run.metrics() == {"val/acc": 0.5}
    with pytest.raises(ZeroDivisionError), RunDirectory(tmp_path / "other").recording(CONFIG):
        1 / 0  # noqa: B018
    assert RunDirectory(tmp_path / "other").status == "failed"
    assert "ZeroDivisionError" in RunDirectory(tmp_path / "other").record["error"]


def test_a_checkpoint_leads_to_its_run(tmp_path, monkeypatch):
    run = RunDirectory(tmp_path / "run")
    run.update(class_names=["a", "b"])
    run.checkpoints.mkdir()
    monkeypatch.chdir(run.checkpoints)
    for checkpoint in (run.refit, Path("best.ckpt")):
        assert RunDirectory.of_checkpoint(checkpoint, ("a", "b")).path == run.path
    lone = (run.path / "best.ckpt", tmp_path / "checkpoints" / "best.ckpt", run.checkpoints / "old" / "best.ckpt")
    assert [RunDirectory.of_checkpoint(each, ("a", "b")) for each in lone] == [None] * 3
    assert RunDirectory.of_checkpoint(run.best, ("b", "a")) is None  # of another run, and moved here


def test_what_may_differ_between_two_halves_of_a_run(tmp_path):
    run = RunDirectory(tmp_path)
    assert not run.is_finished(CONFIG, "auto")
    with run.recording(CONFIG):
        run.finish({})
    assert run.is_finished({**CONFIG, "data": {"num_workers": 0}, "run_dir": "b"}, "auto")
    with pytest.raises(UserError, match=r"holds a run with another optimizer\.lr"):
        run.is_finished({**CONFIG, "optimizer": {"lr": 0.2}}, "auto")
    with pytest.raises(UserError, match="already holds a run"):
        run.is_finished(CONFIG, "never")


@pytest.mark.parametrize(
    "override", ["data.store=off", "data.num_workers=1", "checkpoint.every_n_steps=7", "logger=csv", "find_lr=true"]
)
def test_what_a_run_may_be_told_on_the_way(compose_run, tmp_path, override):
    """Among it all that a message advises to a run that is under way."""
    run = RunDirectory(tmp_path / "run")
    with run.recording(plain(compose_run())):
        run.finish({})
    assert run.is_finished(plain(compose_run(override)), "auto")


def test_a_key_that_the_older_run_did_not_have_refuses_it_only_where_it_changes_something(tmp_path):
    run = RunDirectory(tmp_path)
    with run.recording({**CONFIG, "trainer": {"devices": 1}}):
        run.finish({})
    own = {"head": {"normalize": False}, "backbone": {"kwargs": {}}}
    newer = {**CONFIG, **own, "trainer": {"devices": 1, "num_nodes": 1}}
    assert run.is_finished(newer, "auto")
    for changed in ({"head": {"normalize": True}}, {"trainer": {"devices": 1, "num_nodes": 2}}):
        with pytest.raises(UserError, match="holds a run with another"):
            run.is_finished({**newer, **changed}, "auto")
    for value in (0.1, False):  # of a builder's argument each value says something
        with pytest.raises(UserError, match=r"another backbone\.kwargs\.x"):
            run.is_finished({**newer, "backbone": {"kwargs": {"x": value}}}, "auto")
    with pytest.raises(UserError, match=r"another optimizer\.nesterov"):
        run.is_finished({**newer, "optimizer": {"lr": 0.1, "nesterov": True}}, "auto")


@pytest.mark.parametrize("where", ["auto", "device"])
def test_a_run_that_had_keys_that_are_gone_goes_on(tmp_path, where):
    run = RunDirectory(tmp_path)
    module = {"augment_on": "${data.augment_on}", "decode_on": "${data.decode_on}"}
    with run.recording({**CONFIG, "data": {"augment_on": where, "decode_on": where, "module": module}}):
        run.finish({})
    assert run.is_finished({**CONFIG, "data": {"module": {}}}, "auto")


def test_a_run_from_before_tlab_chose_what_to_compile_goes_on(tmp_path):
    run = RunDirectory(tmp_path)
    with run.recording({**CONFIG, "trainer": {"compile": False}}):
        run.finish({})
    assert run.is_finished({**CONFIG, "trainer": {"compile": "auto"}}, "auto")
    with pytest.raises(UserError, match=r"another trainer\.compile"):
        run.is_finished({**CONFIG, "trainer": {"compile": True}}, "auto")


def test_a_soup_without_the_checkpoint_to_go_on_from_is_not_the_next_result(tmp_path):
    run = RunDirectory(tmp_path)
    run.checkpoints.mkdir()
    for file in (run.last, run.soup):
        file.touch()
    with run.recording(CONFIG):
        assert run.selected == run.soup  # of this very run, which goes on
    run.last.unlink()
    with run.recording(CONFIG):
        assert run.selected == run.best


def test_a_run_that_begins_anew_has_nothing_of_the_one_before_it(tmp_path):
    """Else a run that fails in its first epoch would predict with another one's weights."""
    run = RunDirectory(tmp_path)
    run.checkpoints.mkdir()
    with run.recording(CONFIG):
        for stage in (run, run.refitting):
            for file in (stage.best, stage.last, stage.head):
                file.touch()
            stage.write_history([{"epoch": 0}])
        for split in ("val", "test", "test_fog"):
            run.write_confusion(split, [])
        run.val_predictions_file.touch()
    before = {*tmp_path.rglob("*")}
    with run.recording(CONFIG):
        assert {*tmp_path.rglob("*")} == before  # it goes on
    run.last.unlink()
    with run.recording(CONFIG):
        left = {file.name for file in tmp_path.rglob("*") if file.is_file()}
    assert left == {"run.json", ".lock"}


@pytest.mark.parametrize("content", ["null", "5", "[1]"])
def test_a_record_that_is_none_is_named(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(UserError, match=r"run\.json is damaged"):
        _ = RunDirectory(tmp_path).record


def test_a_damaged_record_is_named(tmp_path):
    (tmp_path / "run.json").write_text('{"status": "runn')
    with pytest.raises(UserError, match=r"run\.json is damaged"):
        _ = RunDirectory(tmp_path).status


@pytest.mark.parametrize(
    ("limits", "known"),
    [
        ({}, {"train", "val", "test", "test/b"}),
        ({"limit_train_batches": 1.0, "limit_val_batches": None}, {"train", "val", "test", "test/b"}),
        ({"limit_train_batches": 3, "limit_val_batches": 1}, {"test", "test/b"}),
        ({"limit_test_batches": 0.5}, {"train", "val"}),
    ],
)
def test_the_numbers_of_images_are_those_that_were_measured(tmp_path, limits, known):
    run = RunDirectory(tmp_path)
    run.update(
        config={"trainer": limits},
        data={"images": {"train": 9, "val": 3, "test": 4}},
        tests={"b": {"images": 2}},
    )
    assert run.images().keys() == known


def test_history_keeps_columns_that_come_later(tmp_path):
    run = RunDirectory(tmp_path)
    run.write_history([{"epoch": 0, "a": 1}, {"epoch": 1, "a": 2, "b": 3}])
    assert run.history() == [{"epoch": "0", "a": "1", "b": ""}, {"epoch": "1", "a": "2", "b": "3"}]


def test_a_run_that_another_process_has_just_finished_is_not_recorded_again(tmp_path):
    run = RunDirectory(tmp_path)
    assert not run.is_finished(CONFIG, "auto")
    with RunDirectory(tmp_path).recording(CONFIG):  # the other one, in between
        run.finish({"val/acc": 0.5})
    with pytest.raises(RunDirectoryLocked, match="just finished"), run.recording(CONFIG):
        pass
    assert run.status == "finished"
    run.record_failure(RuntimeError())
    assert run.status == "finished"


def test_what_kept_a_run_from_beginning_is_recorded(tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.record_failure(ValueError("no"))
    assert (run.status, run.record["error"]) == ("failed", "ValueError: no")
    assert "ValueError: no" in run.traceback_file.read_text()
    with run.recording(CONFIG):
        assert not run.traceback_file.exists()


def in_memory(file: Path) -> bool:
    """Tell whether the system has the start of a file in memory."""
    with file.open("rb") as opened:
        try:
            return os.preadv(opened.fileno(), [bytearray(1)], 0, os.RWF_NOWAIT) == 1
        except BlockingIOError:
            return False


@pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="Linux tells what is in memory")
def test_a_finished_run_gives_back_the_memory_of_its_checkpoints(tmp_path):
    run = RunDirectory(tmp_path / "run")
    with run.recording(CONFIG):
        run.last.parent.mkdir(parents=True)
        for file in (run.best, run.last):
            with file.open("wb") as opened:
                opened.write(b"x" * 100_000)
                opened.flush()
                os.fsync(opened.fileno())
        try:
            assert in_memory(run.last)
        except OSError as error:
            pytest.skip(f"this file system does not tell: {error}")
        run.finish({})
    assert not in_memory(run.last)
    assert not in_memory(run.best)
    assert run.last.read_bytes() == b"x" * 100_000
