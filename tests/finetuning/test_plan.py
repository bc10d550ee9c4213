import pytest

from tlab.core.errors import UserError
from tlab.finetuning import Until, build_plan

STAGES = ("stem", "layer1", "layer2")
HEAD = {"train": "head", "epochs": 2}
REST = {"train": "all", "epochs": None, "lr_scale": 0.1}


def table(phases, epochs, stages=STAGES, **options):
    """(first epoch, epochs, name, stages that train, rate scale of each group) of every phase."""
    plan = build_plan(phases, epochs, stages, **options)
    return [
        (
            start,
            plan.length(index, start),
            phase.name,
            " ".join(stage for stage in stages if stage in phase.trained),
            tuple(plan.rate_scales(phase).values()),
        )
        for index, (start, phase) in enumerate(zip(plan.starts, plan.phases, strict=True))
    ]


def test_linear_probe_then_fine_tune():
    assert table({"head": HEAD, "all": REST}, 4, backbone_lr_scale=0.5) == [
        (0, 2, "head", "", (0.0, 0.0, 0.0, 1.0)),
        (2, 2, "all", "stem layer1 layer2", (0.05, 0.05, 0.05, 0.1)),
    ]


def test_gradual_unfreezes_one_stage_at_a_time():
    phases = {"head": HEAD, "unfreeze": {"train": "gradual", "epochs": None, "lr_scale": 0.5}}
    assert table(phases, 10) == [
        (0, 2, "head", "", (0.0, 0.0, 0.0, 1.0)),
        (2, 2, "unfreeze/layer2", "layer2", (0.0, 0.0, 0.5, 0.5)),
        (4, 2, "unfreeze/layer1", "layer1 layer2", (0.0, 0.5, 0.5, 0.5)),
        (6, 4, "unfreeze/stem", "stem layer1 layer2", (0.5, 0.5, 0.5, 0.5)),
    ]


def test_early_stopping_ends_the_last_phase_alone():
    stop = Until("val/acc", 2, mode="max")
    phases = {"head": HEAD, "unfreeze": {"train": "gradual", "epochs": None}}
    plan = build_plan(phases, 10, STAGES, early_stopping=stop)
    assert [phase.until for phase in plan.phases] == [None, None, None, stop]
    own = {"until": {"monitor": "val/loss"}}
    head_too = build_plan({"head": {**HEAD, **own}, "all": REST}, 4, STAGES, early_stopping=stop)
    assert [phase.until for phase in head_too.phases] == [Until(), stop]
    with pytest.raises(UserError, match=r"trainer\.early_stopping=2 and finetune\.phases\.unfreeze\.until both"):
        build_plan({**phases, "unfreeze": {**phases["unfreeze"], **own}}, 10, STAGES, early_stopping=stop)


def test_gradual_of_fixed_length_before_another_phase():
    phases = {"unfreeze": {"train": "gradual", "epochs": 4}, "all": {"train": "all", "epochs": None}}
    assert [row[:4] for row in table(phases, 6)] == [
        (0, 1, "unfreeze/layer2", "layer2"),
        (1, 1, "unfreeze/layer1", "layer1 layer2"),
        (2, 2, "unfreeze/stem", "stem layer1 layer2"),
        (4, 2, "all", "stem layer1 layer2"),
    ]


def test_gradual_with_more_stages_than_epochs_unfreezes_several_at_once():
    stages = tuple("abcdefg")
    assert [row[:4] for row in table({"unfreeze": {"train": "gradual", "epochs": None}}, 3, stages)] == [
        (0, 1, "unfreeze/f", "f g"),
        (1, 1, "unfreeze/c", "c d e f g"),
        (2, 1, "unfreeze/a", "a b c d e f g"),
    ]


@pytest.mark.parametrize(
    ("train", "stages"),
    [
        ("head", ""),
        (0, ""),
        (1, "layer2"),
        (["layer1"], "layer1"),
        ("layer2", "layer2"),
        ("all", "stem layer1 layer2"),
    ],
)
def test_what_a_phase_trains(train, stages):
    (row,) = table({"only": {"train": train, "epochs": None}}, 1)
    assert row[3] == stages


@pytest.mark.parametrize(
    ("options", "scales"),
    [
        ({}, (1.0, 1.0, 1.0, 1.0)),
        ({"stage_lr_decay": 0.5}, (0.25, 0.5, 1.0, 1.0)),
        ({"stage_lr_decay": 0.5, "backbone_lr_scale": 0.1}, (0.025, 0.05, 0.1, 1.0)),
        ({"stage_lr_scales": [0.0, 0.2, 0.7]}, (0.0, 0.2, 0.7, 1.0)),
        ({"stage_lr_scales": {"stem": 0.1}, "stage_lr_decay": 0.5}, (0.1, 1.0, 1.0, 1.0)),
        ({"stage_lr_scales": {"layer1": 0.3}, "backbone_lr_scale": 0.5}, (0.5, 0.15, 0.5, 1.0)),
    ],
)
def test_one_rate_per_stage(options, scales):
    (row,) = table({"all": {"train": "all", "epochs": None}}, 1, **options)
    assert row[4] == pytest.approx(scales)


def test_a_phase_of_no_epochs_is_left_out():
    assert [row[2] for row in table({"head": {"train": "head", "epochs": 0}, "all": REST}, 2)] == ["all"]


def test_the_rest_grows_when_a_phase_before_has_ended_sooner():
    phases = {"head": {"train": "head", "epochs": 6, "until": {"patience": 1}}, "all": REST, "end": HEAD}
    plan = build_plan(phases, 12, STAGES)
    assert plan.starts == (0, 6, 10)
    assert [plan.length(1, epoch) for epoch in (6, 3)] == [4, 7]
    assert plan.epochs == 12


@pytest.mark.parametrize(
    ("monitor", "min_delta", "values", "better"),
    [
        ("val/loss", 0.0, [1.0, 0.9, 0.9, 0.95], [True, True, False, False]),
        ("val/acc", 0.0, [0.5, 0.6, 0.6, 0.55], [True, True, False, False]),
        ("val/loss", 0.2, [1.0, 0.9, 0.79, 0.6], [True, False, True, False]),
    ],
)
def test_what_counts_as_an_improvement(monitor, min_delta, values, better):
    until = {"monitor": monitor, "min_delta": min_delta, "mode": None}
    (phase,) = build_plan({"all": {**REST, "until": until}}, 3, STAGES).phases
    best, seen = None, []
    for value in values:
        seen.append(phase.until.improves(value, best))
        best = value if seen[-1] else best
    assert seen == better


UNTIL = {"train": "head", "epochs": 2, "until": {"patience": 0}}


@pytest.mark.parametrize(
    ("phases", "epochs", "options", "words"),
    [
        ({"head": HEAD, "all": REST}, 2, {}, "trainer.max_epochs=2 is too short"),
        ({"head": HEAD, "more": HEAD}, 3, {}, "trainer.max_epochs=3 is too short"),
        ({"a": REST, "b": REST}, 9, {}, "finetune.phases a and b"),
        ({"head": {"train": "head", "epochs": 0}}, 3, {}, "leaves no epoch"),
        ({"head": {"train": "head", "epochs": -1}}, 3, {}, "finetune.phases.head.epochs=-1"),
        ({"all": {**REST, "lr_scale": -1}}, 3, {}, "finetune.phases.all.lr_scale=-1"),
        ({"all": {**REST, "weight_decay": -1}}, 3, {}, "finetune.phases.all.weight_decay=-1"),
        ({"all": {"train": 1.5, "epochs": None}}, 3, {}, "finetune.phases.all.train=1.5"),
        ({"all": REST}, 0, {}, "trainer.max_epochs=0"),
        ({"a/b": REST}, 2, {}, "finetune.phases.a/b: a name cannot have a /"),
        ({"head": UNTIL}, 2, {}, "finetune.phases.head.until needs a patience"),
        ({"head": {**UNTIL, "until": {"mode": "up"}}}, 2, {}, "finetune.phases.head.until.mode=up"),
        ({"all": REST}, 2, {"head_first": True}, "finetune.phases.all unfreezes the backbone before the head"),
        ({"all": REST}, 2, {"backbone_lr_scale": -1}, "finetune.backbone_lr_scale=-1"),
        ({"all": REST}, 2, {"stage_lr_decay": 1.5}, "finetune.stage_lr_decay=1.5"),
        ({"all": REST}, 2, {"stage_lr_scales": [1.0]}, "finetune.stage_lr_scales has 1 number for 3 stages"),
        ({"all": REST}, 2, {"stage_lr_scales": {"layer9": 1}}, "finetune.stage_lr_scales names layer9"),
        ({"all": REST}, 2, {"stage_lr_scales": {"stem": -1}}, "finetune.stage_lr_scales must not be negative"),
    ],
)
def test_a_plan_that_cannot_be_names_its_key(phases, epochs, options, words):
    with pytest.raises(UserError, match=words.replace(".", r"\.")):
        build_plan(phases, epochs, STAGES, **options)


@pytest.mark.parametrize("train", ["layer9", ["stem", "layer9"], 4])
def test_a_stage_that_is_not_there_lists_those_that_are(train):
    with pytest.raises(UserError, match=r"finetune\.phases\.top\.train.*stem, layer1, layer2"):
        build_plan({"top": {"train": train, "epochs": None}}, 1, STAGES)
