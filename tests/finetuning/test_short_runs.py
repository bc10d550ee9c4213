"""Plans in runs of 1 to 4 epochs: the head first, then at least one epoch of what follows."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from test_resume import assert_alike, crashing
from tlab.assembly.build import make_plan
from tlab.config.hydra import compose
from tlab.core.errors import UserError
from tlab.finetuning import BackboneFinetuning
from tlab.train import train

STAGES = ("stem", "layer1", "layer2")
# Plan -> the phase of each epoch in runs of 1, 2, 3 and 4 epochs; None: it cannot be that short.
BY_STEPS = {
    "head": ["head", "head head", "head head head", "head head head head"],
    "lp_ft": [None, "head all", "head head all", "head head head all"],
    "last": ["last", "last last", "last last last", "last last last last"],
    "gradual": [None, "head unfreeze/stem", "head head unfreeze/stem", "head head head unfreeze/stem"],
    "full": ["all", "all all", "all all all", "all all all all"],
    "scratch": ["all", "all all", "all all all", "all all all all"],
}
SOLVED = BY_STEPS | {
    "head": ["head"] * 4,
    "lp_ft": [None, *["head all"] * 3],
    "gradual": [None, *["head unfreeze/stem"] * 3],
}


@pytest.fixture(scope="module")
def short(photos):
    """Compose a run as a command does, of three steps an epoch."""

    def composed(*overrides, run_dir="run"):
        quick = (
            *(
                f"data.root={photos}",
                "data.image_size=32",
                "data.batch_size=12",
                "data.num_workers=0",
                "logger=none",
            ),
            *("backbone.weights=null", "backbone.upto=layer1", "trainer=cpu", "trainer.precision=32-true"),
        )
        return compose([*quick, f"run_dir={run_dir}", *overrides])

    return composed


def layout(cfg, epochs=None, solver="sgd"):
    """Return the phase of each epoch."""
    cfg.head.solver, cfg.trainer.max_epochs = solver, epochs or cfg.trainer.max_epochs
    plan = make_plan(cfg, SimpleNamespace(stage_names=STAGES))
    lengths = [plan.length(index, start) for index, start in enumerate(plan.starts)]
    return " ".join(phase.name for phase, length in zip(plan.phases, lengths, strict=True) for _ in range(length))


@pytest.mark.parametrize("plan", BY_STEPS)
def test_a_plan_fits_itself_to_a_short_run(short, plan):
    cfg = short(f"finetune={plan}")
    for solver, expected in (("sgd", BY_STEPS[plan]), ("lbfgs", SOLVED[plan])):
        for epochs, phases in enumerate(expected, 1):
            if phases is None:
                with pytest.raises(UserError, match=r"max_epochs=1 is too short.* give trainer\.max_epochs=2 or"):
                    layout(cfg, epochs, solver)
            else:
                assert layout(cfg, epochs, solver) == phases


def test_a_length_that_was_asked_for_is_kept(short):
    cfg = short("finetune.head_epochs=3")
    assert layout(cfg, 4) == "head head head all"
    with pytest.raises(UserError, match=r"trainer\.max_epochs=3 is too short.* shorten finetune\.head_epochs"):
        layout(cfg, 3)


@contextmanager
def noting_rates():
    """Give a table of what is trained in the block: a line per epoch, with each group's rates in its steps."""
    table, begin = [], BackboneFinetuning.on_train_batch_start

    def note(self, trainer, pl_module, batch, batch_idx):
        begin(self, trainer, pl_module, batch, batch_idx)
        if batch_idx == 0:
            table.append({"phase": self.state.phase.name})
        for group, rate in self.state.rates.items():
            table[-1].setdefault(group, []).append(round(rate, 5))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BackboneFinetuning, "on_train_batch_start", note)
        yield table


TWO_EPOCHS = ("trainer.max_epochs=2", "checkpoint.every_n_steps=1")


@pytest.fixture(scope="module")
def solved(short, tmp_path_factory):
    """Return a run of two epochs and the table of its rates."""
    run = tmp_path_factory.mktemp("solved")
    with noting_rates() as table:
        train(short(*TWO_EPOCHS, run_dir=run), [])
    return run, table


def test_after_a_solved_head_one_epoch_has_a_whole_schedule(solved):
    assert solved[1] == [
        {"phase": "head"},
        {"phase": "all", "stem": [0.0054, 0.00405, 0.00135], "layer1": [0.009, 0.00675, 0.00225]}
        | {"head": [0.009, 0.00675, 0.00225]},
    ]


def test_two_epochs_warm_up_and_one_does_not(short, tmp_path):
    with noting_rates() as table:
        train(short("trainer.max_epochs=3", "finetune=gradual", "optimizer.lr=1.0", run_dir=tmp_path))
    still = [0.0, 0.0, 0.0]
    assert table == [
        {"phase": "head", "stem": still, "layer1": still, "head": [0.5, 1.0, 0.90451]},
        {"phase": "head", "stem": still, "layer1": still, "head": [0.65451, 0.34549, 0.09549]},
        {"phase": "unfreeze/stem", "stem": [0.18, 0.135, 0.045], "layer1": [0.3, 0.225, 0.075]}
        | {"head": [0.3, 0.225, 0.075]},
    ]


def test_a_short_run_goes_on_where_it_crashed(short, solved, tmp_path, monkeypatch):
    cfg = short(*TWO_EPOCHS, run_dir=tmp_path)
    with crashing(monkeypatch, 2):
        train(cfg, [])
    train(cfg, [])
    assert_alike(tmp_path, solved[0])
