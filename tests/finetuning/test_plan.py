import pytest

from tlab.errors import UserError
from tlab.finetuning import build_plan

STAGES = ("stem", "layer1", "layer2")
HEAD = {"train": "head", "epochs": 2}
REST = {"train": "all", "epochs": None, "lr_scale": 0.1}


def table(phases, epochs, scale=1.0):
    plan = build_plan(phases, epochs, scale)
    return [
        (epoch, phase.name, sorted(phase.groups(STAGES)), plan.rate_scales(phase, STAGES))
        for epoch in range(plan.epochs)
        for phase in [plan.phase_at(epoch)]
    ]


def test_linear_probe_then_fine_tune():
    frozen = {"stem": 0.0, "layer1": 0.0, "layer2": 0.0, "head": 1.0}
    tuned = {"stem": 0.05, "layer1": 0.05, "layer2": 0.05, "head": 0.1}
    everything = ["head", "layer1", "layer2", "stem"]
    assert table({"head": HEAD, "all": REST}, 4, scale=0.5) == [
        (0, "head", ["head"], frozen),
        (1, "head", ["head"], frozen),
        (2, "all", everything, tuned),
        (3, "all", everything, tuned),
    ]


@pytest.mark.parametrize(
    ("train", "groups"),
    [
        ("head", ["head"]),
        (0, ["head"]),
        (1, ["head", "layer2"]),
        (["layer1"], ["head", "layer1"]),
        ("layer2", ["head", "layer2"]),
        ("all", ["head", "layer1", "layer2", "stem"]),
    ],
)
def test_what_a_phase_trains(train, groups):
    (row,) = table({"only": {"train": train, "epochs": None}}, 1)
    assert row[2] == groups


def test_a_phase_of_no_epochs_is_left_out():
    assert [row[1] for row in table({"head": {"train": "head", "epochs": 0}, "all": REST}, 2)] == ["all", "all"]


def test_past_the_end_the_last_phase_holds():
    assert build_plan({"head": HEAD, "all": REST}, 4).phase_at(99).name == "all"


@pytest.mark.parametrize(
    ("phases", "epochs", "words"),
    [
        ({"head": HEAD, "all": REST}, 2, "trainer.max_epochs=2 is too short"),
        ({"head": HEAD, "more": HEAD}, 3, "trainer.max_epochs=3 is too short"),
        ({"a": REST, "b": REST}, 9, "finetune.phases a and b"),
        ({"head": {"train": "head", "epochs": 0}}, 3, "leaves no epoch"),
        ({"head": {"train": "head", "epochs": -1}}, 3, "finetune.phases.head.epochs=-1"),
        ({"all": {**REST, "lr_scale": -1}}, 3, "finetune.phases.all.lr_scale=-1"),
        ({"all": {"train": 1.5, "epochs": None}}, 3, "finetune.phases.all.train=1.5"),
        ({"all": REST}, 0, "trainer.max_epochs=0"),
    ],
)
def test_a_plan_that_cannot_be_names_its_key(phases, epochs, words):
    with pytest.raises(UserError, match=words.replace(".", r"\.")):
        build_plan(phases, epochs)


@pytest.mark.parametrize("train", ["layer9", ["stem", "layer9"], 4])
def test_a_stage_that_is_not_there_lists_those_that_are(train):
    (phase,) = build_plan({"top": {"train": train, "epochs": None}}, 1).phases
    with pytest.raises(UserError, match=r"finetune\.phases\.top\.train.*stem, layer1, layer2"):
        phase.groups(STAGES)
