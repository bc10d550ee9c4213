"""Where the runs of a sweep lie, and that they stay there when the sweep grows."""

import re

import pytest

from tlab.config.overrides import run_name
from tlab.core.errors import UserError
from tlab.runs.manifest import SweepManifest, read_manifest
from tlab.sweeps.jobs import constants, make_jobs, override_cover

FIRST = [["data.root=photos", "aug=none", "trainer.max_epochs=3", f"seed={seed}"] for seed in (0, 1)]


def places(runs, note, tmp_path):
    return [str(job.run.path.relative_to(tmp_path)) for job in make_jobs(runs, "0", tmp_path, note)]


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["seed=3"], "default"),
        (["backbone=vgg16", "seed=1", "aug=none"], "aug=none,backbone=vgg16"),
        (
            ["backbone.weights=../a b/resnet.pth", "data.root=photos"],
            "backbone.weights=resnet.pth-bb9d,data.root=photos",
        ),
        (["+x=[1,2]"], "x=_1,2_"),
    ],
)
def test_a_run_of_a_sweep_has_a_readable_name(overrides, name):
    assert run_name(overrides) == name


def test_a_long_name_is_cut_and_stays_unique():
    long = [f"key{i}={i}" for i in range(40)]
    first, second = run_name(long), run_name([*long, "last=1"])
    assert first != second
    assert max(len(first), len(second)) <= 120
    assert re.fullmatch(r"[\w.=,+-]+", first)


def test_what_all_runs_share_is_in_no_name(tmp_path):
    note = SweepManifest(constants(FIRST))
    assert note.constants == {"data.root": "photos", "aug": "none", "trainer.max_epochs": "3"}
    assert places(FIRST, note, tmp_path) == ["default/seed=0", "default/seed=1"]


def test_an_override_that_gets_a_second_value_leaves_the_runs_of_the_first_where_they_are(tmp_path):
    note = SweepManifest(constants(FIRST))
    grown = [*FIRST, *[[o.replace("aug=none", "aug=strong") for o in run] for run in FIRST]]
    assert places(grown, note, tmp_path) == [
        "default/seed=0",
        "default/seed=1",
        "aug=strong/seed=0",
        "aug=strong/seed=1",
    ]
    longer = [[o.replace("max_epochs=3", "max_epochs=9") for o in run] for run in FIRST]
    assert places(longer, note, tmp_path) == [f"trainer.max_epochs=9/seed={seed}" for seed in (0, 1)]
    added = [[*run, "optimizer.lr=0.1"] for run in FIRST]
    assert places(added, note, tmp_path) == [f"optimizer.lr=0.1/seed={seed}" for seed in (0, 1)]


def test_what_changes_no_result_is_in_a_name_only_where_it_differs(tmp_path):
    note = SweepManifest(constants(FIRST))
    other = [[*run, "data.num_workers=2", "logger=none", "checkpoint.every_n_steps=5"] for run in FIRST]
    assert places(other, note, tmp_path) == ["default/seed=0", "default/seed=1"]
    both = [[*FIRST[0], f"data.num_workers={n}"] for n in (0, 2)]
    assert places(both, note, tmp_path) == ["data.num_workers=0/seed=0", "data.num_workers=2/seed=0"]


def test_a_command_without_what_all_runs_have_had_is_refused(tmp_path):
    note = SweepManifest(constants(FIRST))
    with pytest.raises(UserError, match=r"begun with trainer\.max_epochs=3, which this command does not give"):
        make_jobs([run[:2] for run in FIRST], "0", tmp_path, note)


def test_what_changes_no_result_need_not_be_given_again(tmp_path):
    """A sweep that tlab began before it knew that of `data.store`."""
    note = SweepManifest({**constants(FIRST), "data.store": "on"})
    for store in ([], ["data.store=on"], ["data.store=off"]):
        runs = [[*run, *store] for run in FIRST]
        assert places(runs, note, tmp_path) == ["default/seed=0", "default/seed=1"]


def test_a_key_that_is_gone_need_not_be_given_again(tmp_path):
    note = SweepManifest({**constants(FIRST), "data.augment_on": "cpu"})
    assert places(FIRST, note, tmp_path) == ["default/seed=0", "default/seed=1"]


def test_the_same_run_twice_is_one_and_two_runs_share_no_directory(tmp_path):
    assert len(make_jobs([*FIRST, *FIRST], "0", tmp_path, SweepManifest())) == 2
    with pytest.raises(UserError, match="would share the directory"):
        make_jobs([["a=x/y"], ["a='x/y'"]], "0", tmp_path, SweepManifest())


def test_a_few_runs_have_every_value_of_the_grid(tmp_path):
    grid = [[f"a={a}", f"b={b}", f"seed={s}"] for a in range(4) for b in range(3) for s in range(5)]
    few = override_cover(make_jobs(grid, "0", tmp_path, SweepManifest()))
    assert {o for job in few for o in job.overrides} == {o for run in grid for o in run}
    assert len(few) < 12


def test_the_note_is_read_back_and_a_damaged_one_is_named(tmp_path):
    assert read_manifest(tmp_path) is None
    SweepManifest({"aug": "none"}, "-m aug=none").write(tmp_path)
    assert read_manifest(tmp_path).constants == {"aug": "none"}
    (tmp_path / "sweep.json").write_text('{"const')
    with pytest.raises(UserError, match=r"sweep\.json is damaged"):
        read_manifest(tmp_path)
