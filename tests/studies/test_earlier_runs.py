"""Which runs of earlier commands a study's figure takes."""

import pytest

from tlab.runs.directory import RunDirectory
from tlab.studies.earlier_runs import earlier_runs
from tlab.studies.study_runs import StudyRun


@pytest.fixture
def add(tmp_path):
    """Return a function that adds a finished run, of which it returns the part that a study of `x` knows."""

    def added(x, place, seed, *, sizes="s", group=None, **images):
        overrides = [f"{x}={place}", f"seed={seed}"]
        run = RunDirectory(tmp_path / f"{x}={place}" / f"seed={seed}")
        run.write_config("", overrides)
        limit = place if x == "data.limit" else None
        run.update(
            status="finished",
            seed=seed,
            class_names=["a", "b"],
            config={"data": {"limit": limit, "group": group}},
            data={"images": {"train": 20, "val": 8, "test": 8} | images, "sizes": sizes},
        )
        return {StudyRun("accuracy", place, tuple(overrides)): run}

    return added


def test_along_the_limit_train_may_be_any_and_the_others_are_as_many(add, tmp_path):
    own = add("data.limit", "5", 0, train=10)
    same = {**add("data.limit", "null", 0, sizes="t"), **add("data.limit", "5", 1, train=10)}
    add("data.limit", "7", 0, train=14, val=6)
    add("data.limit", "7", 1, train=14, test=9)
    found, remarks = earlier_runs("data.limit", own, tmp_path)
    assert {run.path for run in found.values()} == {run.path for run in same.values()}
    assert remarks == ["With 2 runs of earlier commands.", "2 runs in the folder left out, with other images."]


def test_along_another_key_all_images_are_the_same(add, tmp_path):
    own = add("trainer.max_epochs", "5", 0)
    add("trainer.max_epochs", "9", 0)
    add("trainer.max_epochs", "9", 1, sizes="t")
    found, remarks = earlier_runs("trainer.max_epochs", own, tmp_path)
    assert [(run.x, directory.record["seed"]) for run, directory in found.items()] == [("9", 0)]
    assert remarks[1:] == ["1 run in the folder left out, with other images."]


def test_groups_may_be_drawn_in_other_numbers_by_another_seed(add, tmp_path):
    own = add("trainer.max_epochs", "5", 0, group="[0-9]+")
    add("trainer.max_epochs", "9", 0, group="[0-9]+", train=21, val=7)
    add("trainer.max_epochs", "9", 1, group="[0-9]+", train=21, val=7)
    add("trainer.max_epochs", "9", 2, group="[0-9]+", sizes="t")
    found, remarks = earlier_runs("trainer.max_epochs", own, tmp_path)
    assert [directory.record["seed"] for directory in found.values()] == [1]
    assert remarks[1:] == ["2 runs in the folder left out, with other images."]
