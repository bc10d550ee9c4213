"""Which runs of a sweep are passed over: those that are finished on the images that there are now."""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from tlab.config.digest import config_digest
from tlab.config.provenance import plain
from tlab.data.contents import read_contents
from tlab.data.sources import folder
from tlab.data.sources.csv_table import csv_index
from tlab.data.sources.evaluation_sources import fingerprints, sources_of_tests
from tlab.runs.directory import RunDirectory
from tlab.sweeps.jobs import Job
from tlab.sweeps.resume import Finished

SEEDS = (0, 1, 2)


@pytest.fixture
def images(photos, tmp_path) -> Path:
    """root/<class>/, which each seed splits in another way."""
    return shutil.copytree(photos / "train", tmp_path / "photos")


@pytest.fixture
def looks(monkeypatch) -> list[str]:
    """Where images were looked for."""
    seen: list[str] = []
    true = folder.folder_index
    monkeypatch.setattr(
        folder, "folder_index", lambda root, *rest, **options: seen.append(root) or true(root, *rest, **options)
    )
    return seen


@pytest.fixture
def finish(compose_run, tmp_path) -> Callable[..., list[Job]]:
    """Return a function that writes what a sweep over seeds leaves in `run.json`."""

    def finish_(root: str, listed: bool = True, extra: Sequence[str] = ()) -> list[Job]:
        jobs = []
        for seed in SEEDS:
            overrides = (f"data.root={root}", f"seed={seed}", *extra)
            contents = read_contents(lambda: folder.folder_index(root, seed=seed), decode=False)  # noqa: B023
            data = {"images": contents.numbers()} | ({"content": contents.fingerprint()} if listed else {})
            run = RunDirectory(tmp_path / f"sweep/{len(extra)}/seed={seed}")
            known = {"composition": config_digest(overrides, "yaml"), "config": plain(compose_run(*overrides))}
            run.update(status="finished", data=data, class_names=list(contents.classes), **known)
            jobs.append(Job(overrides, "default", str(seed), run))
        return jobs

    return finish_


def finished(jobs: list[Job]) -> list[bool]:
    knows = Finished("yaml")
    return [knows.has(job) for job in jobs]


def test_a_finished_sweep_looks_at_the_images_once(images, finish, looks):
    jobs = finish(str(images))
    looks.clear()
    assert finished(jobs) == [True, True, True]
    assert looks == [str(images)]


def test_on_other_images_no_run_is_finished(images, finish, looks):
    jobs = finish(str(images))
    shutil.copy(images / "red/00.png", images / "red/01.png")
    looks.clear()
    assert finished(jobs) == [False, False, False]
    assert looks == [str(images)]


def test_folds_share_a_look_and_limits_of_several_seeds_do_not(images, finish, looks):
    jobs = finish(str(images), extra=["data.folds=3", "data.fold=1"])
    for job in jobs:
        job.run.val_predictions_file.touch()
    looks.clear()
    assert finished(jobs) == [True, True, True]
    assert len(looks) == 1
    jobs = finish(str(images), extra=["data.limit=3"])
    looks.clear()
    assert finished(jobs) == [False, False, False], "of the whole of which they have a list here"
    assert len(looks) == 3


def test_a_run_on_a_table_is_finished_while_the_table_divides_alike(images, compose_run, tmp_path):
    files = sorted(images.rglob("*.png"))
    rows = [f"{f.parent.name}/{f.name},{f.parent.name},{('train', 'val')[f.stem < '04']}" for f in files]
    table = images / "labels.csv"
    table.write_text("\n".join(["id,label,set", *rows]))
    jobs = []
    for own in ({}, {"split_column": "set"}, {"group": "set"}, {"group": r"/(\d)"}):
        keys = [f"data.{key}='{value}'" for key, value in own.items()]
        overrides = (f"data.root={images}", "data=csv", "data.images=.", *keys)
        found = read_contents(partial(csv_index, images, images=".", **own), decode=False)
        run = RunDirectory(tmp_path / f"sweep/{len(jobs)}/seed=0")
        run.write_data(found)
        data = {"images": found.numbers(), "content": found.fingerprint()}
        known = {"composition": config_digest(overrides, "yaml"), "config": plain(compose_run(*overrides))}
        run.update(status="finished", data=data, class_names=list(found.classes), **known)
        jobs.append(Job(overrides, "default", "0", run))
    assert finished(jobs) == [True] * 4
    for job in jobs:
        job.run.data_file.rename(job.run.path / "kept.csv")
    assert finished(jobs) == [True, False, False, False]
    for job in jobs:
        (job.run.path / "kept.csv").rename(job.run.data_file)
    table.write_text("\n".join(["id,label,set", rows[0].replace("val", "train"), *rows[1:]]))
    assert finished(jobs) == [True, False, False, True], "which image is in which split"


def test_what_a_finished_run_has_lost_is_left_to_the_run(images, finish):
    jobs = finish(str(images), extra=["data.folds=3", "data.fold=1"])
    for job in jobs[1:]:
        job.run.val_predictions_file.touch()
    assert finished(jobs) == [False, True, True]
    jobs = finish(str(images), extra=["refit=true"])
    jobs[0].run.update(refit={"epochs": 1})
    jobs[0].run.checkpoints.mkdir()
    jobs[0].run.refit.touch()
    assert finished(jobs) == [True, False, False]


@pytest.mark.parametrize("typed", ["data.tests={fog: 'far off/fog'}", "data.tests.fog='far off/fog'"])
def test_other_images_of_a_further_test_are_left_to_the_run(images, finish, tmp_path, monkeypatch, capsys, typed):
    monkeypatch.chdir(tmp_path)
    fog = Path(shutil.copytree(images, tmp_path / "far off/fog"))
    jobs = finish("photos", extra=[typed])
    assert finished(jobs) == [False] * 3, "none is measured"
    classes = jobs[0].run.record["class_names"]
    tests = sources_of_tests(partial(folder.folder_index, images), {"fog": str(fog)})
    for job in jobs[:2]:
        prints = fingerprints(tests, classes)
        job.run.update(tests={name: {"fingerprint": each} for name, each in prints.items()})
    assert finished(jobs) == [True, True, False]
    (tmp_path / "new").mkdir()
    monkeypatch.chdir(tmp_path / "new")
    shutil.copytree(images, "photos")
    assert finished(jobs) == [False] * 3, "there is no such folder here"
    monkeypatch.chdir(tmp_path)
    (fog / "red").rename(fog / "swapped")
    (fog / "blue").rename(fog / "red")
    (fog / "swapped").rename(fog / "blue")
    assert finished(jobs) == [False] * 3
    shutil.rmtree(fog)
    capsys.readouterr()
    assert finished(jobs) == [True, True, False]
    assert capsys.readouterr().err.count("further tests fog, which were measured") == 1


def test_other_settings_of_the_images_are_another_look(images, finish, looks):
    jobs = [*finish(str(images)), *finish(str(images), extra=["data.exclude=[red/00.png]"])]
    looks.clear()
    finished(jobs)
    assert looks == [str(images)] * 2


def test_a_relative_folder_is_where_the_command_is_given(images, finish, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    jobs = finish("photos")
    copied = shutil.copytree(tmp_path / "photos", tmp_path / "elsewhere/photos")
    for file in copied.rglob("*.png"):
        os.utime(file, (1, 1))
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert finished(jobs) == [True, True, True]
    (copied / "red/00.png").unlink()
    assert finished(jobs) == [False, False, False]


def test_images_that_are_gone_are_left_to_the_run_to_tell(images, finish):
    jobs = finish(str(images))
    shutil.rmtree(images)
    assert finished(jobs) == [False, False, False]


def test_of_runs_without_a_list_the_numbers_are_compared_and_one_warning_given(images, finish, capsys):
    jobs = finish(str(images), listed=False)
    assert finished(jobs) == [True, True, True]
    assert capsys.readouterr().err.count("no list of the images") == 1
    (images / "red/00.png").unlink()
    assert finished(jobs) == [False, False, False]


@pytest.mark.parametrize(
    "evil",
    [
        {"source": {"_target_": "torch.save", "obj": 1, "f": "evil"}},
        {"module": {"source": {"_target_": "torch.save", "obj": 1, "f": "evil"}}},
        {"labels": {"_target_": "torch.save", "obj": 1, "f": "evil"}, "source": {"root": "${data.labels}"}},
        {"labels": "$", "source": {"root": "${data.labels}{oc.env:A_ROOT}"}},
    ],
)
def test_a_run_json_builds_nothing_but_what_tlab_lists(images, finish, tmp_path, monkeypatch, evil):
    """It may be a stranger's; `tlab.train` then builds what is typed, and tells."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("A_ROOT", str(images))
    jobs = finish(str(images))
    config = jobs[0].run.record["config"]
    source = {"_target_": "tlab.data.sources.folder.folder_index", "_partial_": True, **evil.get("source", {})}
    jobs[0].run.update(config={**config, "data": {**config["data"], **evil, "source": source}})
    jobs[0] = replace(jobs[0], overrides=("seed=0",))
    jobs[0].run.update(composition=config_digest(("seed=0",), "yaml"))
    assert finished(jobs) == [False, True, True]
    assert not (tmp_path / "evil").exists()
