"""Whole runs of which some phases are compiled, by a backend that runs each graph as it is."""

import json
import logging
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from tlab.assembly.precision_and_compile import choose_compiled, images_per_epoch, long_phases
from tlab.core.errors import UserError
from tlab.finetuning.plan import Phase, Plan
from tlab.models.autotune import compiled as compiling
from tlab.models.autotune import precision
from tlab.runs.directory import RunDirectory
from tlab.train import train

ALL, TOP = frozenset({"stem", "top", "head"}), frozenset({"top", "head"})
GRADUAL = Plan(
    (
        Phase("probe", frozenset({"head"}), epochs=2),
        Phase("top", TOP, epochs=3),
        Phase("all", ALL, epochs=4),
        Phase("top again", TOP),
    ),
    max_epochs=10,
    group_scales={},
)


@pytest.fixture
def graphs(monkeypatch):
    """What is compiled, with nothing gained by it."""
    torch._dynamo.reset()
    found = []

    def backend(graph, inputs):
        found.append(graph)
        return graph.forward

    compiler = compiling.compiler
    monkeypatch.setattr(compiling, "compiler", lambda name: compiler(backend))
    monkeypatch.setattr(compiling, "check_compiler", lambda device: None)
    return found


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


def assert_alike(some: Path, other: Path) -> None:
    a, b = weights(some), weights(other)
    assert list(a) == list(b)
    assert [key for key in a if not torch.equal(a[key], b[key])] == []


def compiled(run: Path) -> list[str]:
    return json.loads((run / "run.json").read_text())["compiled"]


@pytest.mark.parametrize(
    ("done", "steps", "top", "all_", "phases"),
    [
        (0, 50, 1.0, 1.0, []),  # 200 s each
        (0, 100, 1.5, 1.5, []),  # 600 s each
        (0, 100, 1.0, 1.6, ["all"]),
        (0, 100, 1.6, 1.5, ["top", "top again"]),  # of which neither is long, but they share a graph
        (0, 100, 9.0, 9.0, ["top", "all", "top again"]),
        (5, 100, 1.6, 1.6, ["all"]),  # the first of them is over
        (7, 100, 9.0, 3.1, ["top", "all", "top again"]),
        (7, 100, 5.0, 2.9, []),
        (10, 100, 1e9, 1e9, []),
    ],
)
def test_phases_are_long_that_have_more_than_ten_minutes_left(done, steps, top, all_, phases):
    assert long_phases(GRADUAL, done, steps, {TOP: top, ALL: all_}) == phases


def test_a_plan_of_which_nothing_was_timed_has_no_long_phase():
    assert long_phases(GRADUAL, 0, 1e9, {}) == []


@pytest.mark.parametrize(
    ("plan", "phases"),
    [
        (["finetune=lp_ft", "trainer.max_epochs=3", "finetune.ema=0.9"], ["all"]),
        (
            ["finetune=gradual", "trainer.max_epochs=5", "backbone.upto=null"],
            ["unfreeze/layer4", "unfreeze/layer3", "unfreeze/layer1", "unfreeze/stem"],
        ),
        (["finetune=last", "features.cache=off", "trainer.max_epochs=2"], ["last"]),
    ],
    ids=lambda value: value[0],
)
def test_a_compiled_run_ends_as_the_same_run_that_is_not(compose_run, tmp_path, graphs, plan, phases):
    """36 images: two whole batches and one of four."""
    options = (*plan, "data.batch_size=16", "head.dropout=0.5")
    plain = train(compose_run(*options, "trainer.compile=false", run_dir=tmp_path / "plain"))
    assert graphs == []
    metrics = train(compose_run(*options, "trainer.compile=true", run_dir=tmp_path / "compiled"))
    assert (compiled(tmp_path / "plain"), compiled(tmp_path / "compiled")) == ([], phases)
    assert len(graphs) == len(phases)
    assert_alike(tmp_path / "plain", tmp_path / "compiled")
    assert {**metrics, "fit_seconds": 0} == {**plain, "fit_seconds": 0}


def test_only_the_phases_that_were_chosen_are_compiled(compose_run, tmp_path, graphs, monkeypatch):
    monkeypatch.setattr("tlab.assembly.precision_and_compile.choose_compiled", lambda *args: ["unfreeze/stem"])
    train(compose_run("finetune=gradual", "trainer.max_epochs=5", "trainer.compile=auto"))
    assert compiled(tmp_path / "run") == ["unfreeze/stem"]
    assert len(graphs) == 1


def on_cuda(cfg, begun=None, done=0, plan=GRADUAL):
    return choose_compiled(cfg, None, plan, "bf16-mixed", 600, begun or {}, done)


@pytest.fixture
def timed(monkeypatch):
    """Let there be a GPU on which a step takes 10 s, 20 s of the whole network; return what was timed."""
    asked = []

    def step_seconds(net, groups, *batch):
        asked.append((groups, *batch))
        return 20.0 if groups == ALL else 10.0

    monkeypatch.setattr(compiling, "step_seconds", step_seconds)
    monkeypatch.setattr(precision, "find_accelerator", lambda asked: "cuda")
    return asked


@pytest.mark.parametrize(("done", "phases"), [(0, ["top", "all", "top again"]), (5, ["all"]), (8, [])])
def test_on_cuda_a_step_of_each_set_of_groups_is_timed(compose_run, timed, caplog, done, phases):
    """20 steps in an epoch: 400 s where all train, 200 s where the top does."""
    cfg = compose_run("trainer.compile=auto", "trainer.limit_train_batches=20")
    with caplog.at_level(logging.INFO):
        assert on_cuda(cfg, done=done) == phases
    assert sorted(timed, key=str) == sorted(
        [(groups, 12, 32, "cuda", "bf16-mixed", True) for groups in (TOP, ALL)], key=str
    )
    if phases:
        assert f"torch.compile in phase {', '.join(phases)}: more than 600 s of training are left" in caplog.text


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, ValueError])
def test_where_no_step_can_be_timed_nothing_is_compiled(compose_run, timed, monkeypatch, error):
    monkeypatch.setattr(compiling, "step_seconds", Mock(side_effect=error))
    assert on_cuda(compose_run("trainer.compile=auto")) == []


def test_a_run_that_moves_to_another_kind_of_device_asks_anew(compose_run, timed):
    cfg = compose_run("trainer.compile=auto")
    assert on_cuda(cfg, {"device": "cuda:0", "compiled": ["top"]}) == ["top"]
    assert on_cuda(cfg, {"device": "cuda:0"}) == []  # of a tlab that compiled nothing
    assert timed == []
    assert on_cuda(cfg, {"device": "cpu", "compiled": []}) == ["top", "all", "top again"]


@pytest.mark.parametrize("option", ["trainer.sync_batchnorm=true", "trainer.compile=false"])
def test_on_cuda_nothing_is_timed_where_nothing_may_be_compiled(compose_run, timed, option):
    assert on_cuda(compose_run("trainer.compile=auto", option)) == []
    assert timed == []


def test_a_plan_that_trains_only_the_head_times_nothing(compose_run, timed):
    assert on_cuda(compose_run("trainer.compile=auto"), plan=Plan(GRADUAL.phases[:1], 2, {})) == []
    assert timed == []


@pytest.mark.parametrize("accelerator", ["cpu", "mps"])
def test_elsewhere_than_on_cuda_nothing_is_timed(compose_run, timed, monkeypatch, accelerator):
    monkeypatch.setattr(precision, "find_accelerator", lambda asked: accelerator)
    assert on_cuda(compose_run("trainer.compile=auto")) == []
    assert timed == []


def test_a_run_goes_on_compiled_as_it_has_begun(compose_run, tmp_path, graphs, monkeypatch):
    """Also one that an earlier tlab has begun to compile on a CPU, where nothing is now."""
    options = ("head.dropout=0.5", "trainer.max_epochs=3")
    train(compose_run(*options, "trainer.compile=true", run_dir=tmp_path / "whole"))
    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "write_history", Mock(side_effect=[None, RuntimeError("a power cut")]))
        patch.setattr("tlab.assembly.precision_and_compile.choose_compiled", lambda *args: ["all"])
        with pytest.raises(RuntimeError, match="power cut"):
            train(compose_run(*options, "trainer.compile=auto", run_dir=tmp_path / "run"))
    before = len(graphs)
    train(compose_run(*options, "trainer.compile=auto", run_dir=tmp_path / "run"))
    assert compiled(tmp_path / "run") == ["all"]
    assert len(graphs) > before
    assert_alike(tmp_path / "whole", tmp_path / "run")


def test_looking_for_a_rate_compiles_nothing(compose_run, tmp_path, graphs):
    options = ("head.dropout=0.5", "finetune=full", "trainer.compile=true")
    train(compose_run(*options, run_dir=tmp_path / "plain"))
    before = len(graphs)
    train(compose_run(*options, "find_lr=true", run_dir=tmp_path / "run"))
    assert len(graphs) == 2 * before
    assert_alike(tmp_path / "plain", tmp_path / "run")


def test_a_run_without_a_compiler_says_so_before_it_trains(compose_run, tmp_path, monkeypatch):
    def compile_(*args, **options):
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(compiling.torch, "compile", compile_)
    with pytest.raises(UserError, match=r"trainer\.compile=true: torch\.compile does not work here"):
        train(compose_run("trainer.compile=true"))
    assert not (tmp_path / "run/history.csv").exists()


@pytest.mark.parametrize("value", ["sometimes", "1", "null"])
def test_another_value_is_a_mistake(compose_run, value):
    with pytest.raises(UserError, match=r"trainer\.compile=\w+ is not one of auto, true, false$"):
        train(compose_run(f"trainer.compile={value}"))


@pytest.mark.parametrize(("limit", "images"), [("null", 50), ("2", 24), ("100", 50), ("0.5", 25), ("1.0", 50)])
def test_how_many_images_an_epoch_has(compose_run, limit, images):
    assert images_per_epoch(compose_run(f"trainer.limit_train_batches={limit}", "trainer=ddp"), 100) == images
