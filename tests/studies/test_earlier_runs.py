"""Which runs of earlier commands a study's figure takes."""

import shutil

import pytest
from hydra.utils import instantiate

from tlab.config.hydra import compose
from tlab.config.provenance import plain
from tlab.data.contents import read_contents
from tlab.runs.directory import RunDirectory
from tlab.studies.earlier_runs import earlier_runs, had_other_images
from tlab.studies.study_runs import StudyRun
from tlab.sweeps.resume import Finished


@pytest.fixture
def root(photos, tmp_path):
    """The training images of `photos`, of which val is drawn."""
    return shutil.copytree(photos / "train", tmp_path / "root")


@pytest.fixture
def add(root, tmp_path):
    """Return a function that adds a finished run over the images that there are."""

    def added(limit, seed):
        overrides = (f"data.root={root}", f"data.limit={limit}", f"seed={seed}")
        run = RunDirectory(tmp_path / "study" / f"data.limit={limit}" / f"seed={seed}")
        cfg = compose([*overrides, f"run_dir={run.path}"])
        contents = read_contents(instantiate(cfg.data.module.source, _convert_="all"), decode=False)
        run.write_config("", [*overrides])
        run.write_data(contents)
        run.update(
            status="finished",
            seed=seed,
            class_names=list(contents.classes),
            config=plain(cfg),
            data={"root": str(root), "images": contents.numbers(), "content": contents.fingerprint()},
        )
        return {StudyRun("accuracy", limit, overrides): run}

    return added


def test_runs_over_the_images_that_there_are_now_join_and_others_are_counted(add, root, tmp_path):
    before = {**add("2", 0), **add("null", 1)}
    own = add("3", 0)
    found, remarks = earlier_runs("data.limit", own, tmp_path / "study", Finished(None))
    assert {run.path for run in found.values()} == {run.path for run in before.values()}
    assert remarks == ["With 2 runs of earlier commands."]
    for name in ("red", "green", "blue"):
        shutil.copy(root / name / "00.png", root / name / "new.png")
    own = add("4", 0)
    found, remarks = earlier_runs("data.limit", own, tmp_path / "study", Finished(None))
    assert found == {}
    assert remarks == ["3 runs in the folder left out, with other images than there are now."]


def test_other_images_are_fine_with_resume_anyway_and_where_all_are_gone(add, root, caplog):
    ((study_run, run),) = add("null", 0).items()
    (root / "red" / "00.png").unlink()
    assert had_other_images(run, study_run.overrides, Finished(None))
    assert not had_other_images(run, (*study_run.overrides, "resume=anyway"), Finished(None))
    assert "resume=anyway" not in caplog.text  # of which the run itself has warned
    shutil.rmtree(root)
    assert not had_other_images(run, study_run.overrides, Finished(None))
