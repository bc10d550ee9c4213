"""What a run says about itself."""

import json

import pytest

from tlab.assembly.describe import settings, swept_keys
from tlab.runs.manifest import SweepManifest
from tlab.sweeps.jobs import constants

QUOTED = ["data.root='/a b'", "seed=0"]
OVERRIDES = ["data.root=photos", "aug=none", "+optimizer.foo=1", "seed=0", "sweep=s"]


@pytest.mark.parametrize(
    ("note", "content", "swept"),
    [
        (None, {}, {"data.root", "aug", "optimizer.foo", "seed", "sweep"}),
        ("sweep.json", {"constants": {"data.root": "photos", "aug": "strong"}}, {"aug", "optimizer.foo", "seed"}),
        (
            "study.json",
            {"searched": {"aug": "none,light", "+optimizer.foo": "1,2"}},
            {"aug", "optimizer.foo", "seed"},
        ),
        ("sweep.json", {"constants": {"data.root": "photos", "aug": "none", "optimizer.foo": "1"}}, {"seed"}),
        ("sweep.json", {"constant": {}}, {"data.root", "aug", "optimizer.foo", "seed", "sweep"}),
        ("study.json", [], {"data.root", "aug", "optimizer.foo", "seed", "sweep"}),
    ],
)
def test_what_sets_a_run_apart(tmp_path, note, content, swept):
    if note:
        (tmp_path / note).write_text(json.dumps(content))
    assert swept_keys(tmp_path / "aug=none" / "seed=0", OVERRIDES) == swept


def test_a_group_is_shown_by_its_choice(compose_run):
    cfg = compose_run("optimizer=adamw", "optimizer.lr=0.5")
    groups = {"head": "linear", "optimizer": "adamw", "scheduler": "cosine", "aug": "light", "finetune": "lp_ft"}
    shown = settings(cfg, ["optimizer.lr=0.5"], {**groups, "backbone": "resnet18", "experiment": None})
    assert {group: shown[group] for group in groups} == groups
    assert (shown["optimizer.lr"], shown["backbone.name"]) == (0.5, "resnet18")
    held = settings(cfg, [], {})  # of a run that was composed outside a command
    assert (held["optimizer"], held["aug"], held["finetune"]) == ("AdamW", "crop flip", "head all")


def test_a_value_in_quotes_is_the_one_that_the_sweep_shares(tmp_path):
    SweepManifest(constants([QUOTED, [*QUOTED[:1], "seed=1"]])).write(tmp_path)
    assert swept_keys(tmp_path / "default" / "seed=0", QUOTED) == {"seed"}
