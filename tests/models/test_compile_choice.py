import json

import pytest
import torch
from torch import nn

from tlab.cache import cache_dir
from tlab.models import compile_choice, compile_trial, precision
from tlab.models.classifier import Classifier
from tlab.models.compile_choice import note_seconds, worth_compiling
from tlab.models.compile_trial import Setting, Trial, eager_speed, try_out
from tlab.models.head import Head
from tlab.models.precision import fastest_precision
from tlab.models.stages import IMAGENET_MEAN, IMAGENET_STD, Pretraining, StagedBackbone

ALL = frozenset({"stem", "top", "head"})
TOP = frozenset({"top", "head"})
EAGER = 100.0  # images per second


@pytest.fixture
def net():
    stages = {
        "stem": nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)),
        "top": nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU()),
    }
    backbone = StagedBackbone(stages, Pretraining(input_size=8), image_size=8)
    return Classifier(backbone, Head(6, 2), IMAGENET_MEAN, IMAGENET_STD)


@pytest.fixture
def setting(request):
    return Setting(request.node.name, 8, 4, "cpu", "32-true", True)  # each test has a memory of its own


@pytest.fixture
def measured(monkeypatch):
    """Let measuring say what a test wants, and count how often it is asked."""
    asked = {"eager": 0, "trial": 0}
    says = {"compiled": 120.0, "seconds": 40.0, "again": 2.0}

    def eager(net, setting):
        asked["eager"] += 1
        return EAGER

    def trial(net, setting):
        asked["trial"] += 1
        return Trial(EAGER, says["compiled"], says["seconds"], says["again"])

    monkeypatch.setattr(compile_choice, "eager_speed", eager)
    monkeypatch.setattr(compile_choice, "try_out", trial)
    return asked, says


def test_a_short_run_tries_nothing_and_its_speed_is_remembered(net, setting, measured):
    asked, _ = measured
    for _ in range(2):
        chosen, why = worth_compiling(net, {ALL: 3000}, setting)
        assert chosen == frozenset()
        assert why == "the 30 s or so that training takes here are too few for it to pay"
    assert asked == {"eager": 1, "trial": 0}


def test_a_speed_that_the_choice_of_the_precision_has_measured_is_not_measured_again(
    net, setting, measured, monkeypatch
):
    asked, _ = measured
    monkeypatch.setattr(precision, "measure", lambda *args: {"32-true": 50.0, "bf16-mixed": 10.0})
    fastest_precision(net, setting.image_size, "cpu", setting.channels_last, setting.name)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    _, why = worth_compiling(net, {ALL: 3000}, setting)
    assert why.startswith("the 15 s or so")
    assert asked["eager"] == 0


def test_a_long_run_tries_it_once_and_compiles_where_it_saves_more_than_it_takes(net, setting, measured):
    asked, _ = measured
    long, short = 10_000_000, 11_000  # of half of the stages: 9 s saved by the short one for 20 s of compiling
    assert worth_compiling(net, {ALL: long, TOP: short}, setting)[0] == {ALL}
    chosen, why = worth_compiling(net, {ALL: long, TOP: long}, setting)
    assert chosen == {ALL, TOP}
    assert why == (
        "120 images per second compiled, 100 without, measured here; "
        "compiling takes 22 s and saves 25000 s of this run"
    )
    assert asked["trial"] == 1


def test_a_short_run_compiles_what_an_earlier_one_has_left_in_the_cache(net, setting, measured):
    worth_compiling(net, {ALL: 10_000_000}, setting)
    few = {ALL: 3000, TOP: 3000}  # 5 s and 2.5 s saved, for 2 s and 20 s
    assert worth_compiling(net, few, setting)[0] == {ALL}
    note_seconds(net, setting, TOP, 1.0)
    assert worth_compiling(net, few, setting)[0] == {ALL, TOP}
    note_seconds(net, setting, ALL, 40.0)  # the cache was emptied
    assert worth_compiling(net, few, setting)[0] == {TOP}


def test_another_head_is_compiled_anew(net, setting, measured):
    worth_compiling(net, {ALL: 10_000_000}, setting)
    net.head = Head(6, 2, dropout=0.3)
    assert worth_compiling(net, {ALL: 3000}, setting)[0] == frozenset()  # 5 s saved, for 40 s
    assert measured[0]["trial"] == 1


@pytest.mark.parametrize("compiled", [70.0, 100.0, 104.0])
def test_no_clear_gain_is_none_however_long_the_run(net, setting, measured, monkeypatch, compiled):
    asked, says = measured
    says["compiled"] = compiled
    for command in range(5):
        monkeypatch.setenv("TLAB_THIS_COMMAND", str(command))
        chosen, why = worth_compiling(net, {ALL: 10**9}, setting)
        assert chosen == frozenset()
        assert why.endswith("(no clear gain)")
    assert worth_compiling(net, {ALL: 30}, setting)[1].endswith("(no clear gain)")
    assert asked["trial"] == 3


def test_the_runs_of_a_command_get_one_answer(net, setting, measured):
    asked, says = measured
    says["compiled"] = 90.0
    assert worth_compiling(net, {ALL: 10**9}, setting)[0] == frozenset()
    says["compiled"] = 120.0
    assert worth_compiling(net, {ALL: 10**9}, setting)[0] == frozenset()
    assert asked["trial"] == 1


def test_what_another_process_has_slowed_down_is_tried_again_by_the_next_command_with_a_long_run(
    net, setting, measured, monkeypatch
):
    asked, says = measured
    says["compiled"] = 90.0
    assert worth_compiling(net, {ALL: 10**9}, setting)[0] == frozenset()
    says["compiled"] = 120.0
    monkeypatch.setenv("TLAB_THIS_COMMAND", "the next")
    assert worth_compiling(net, {ALL: 30}, setting)[0] == frozenset()
    assert asked["trial"] == 1
    for _ in range(2):
        assert worth_compiling(net, {ALL: 10**9}, setting)[0] == {ALL}
    assert asked["trial"] == 2


def test_bf16_on_a_cpu_is_tried_only_in_much_longer_runs(net, setting, measured):
    work = {ALL: 150_000}
    worth_compiling(net, work, setting)
    assert measured[0]["trial"] == 1
    bf16 = Setting("bf16", 8, 4, "cpu", "bf16-mixed", True)
    worth_compiling(net, work, bf16)
    assert measured[0]["trial"] == 1


def test_where_the_trial_fails_nothing_is_compiled_and_the_next_run_asks_again(net, setting, measured, monkeypatch):
    def fails(net, setting):
        raise RuntimeError("No working C++ compiler found\nin 3 places")

    with monkeypatch.context() as patch:
        patch.setattr(compile_choice, "try_out", fails)
        chosen, why = worth_compiling(net, {ALL: 10_000_000}, setting)
    assert chosen == frozenset()
    assert why == "it does not work here (RuntimeError: No working C++ compiler found)"
    assert worth_compiling(net, {ALL: 10_000_000}, setting)[0] == {ALL}


def test_an_accelerator_of_which_nothing_is_known_compiles_nothing(net, measured):
    chosen, why = worth_compiling(net, {ALL: 10**9}, Setting("x", 8, 4, "mps", "32-true", True))
    assert (chosen, measured[0]["eager"]) == (frozenset(), 0)
    assert "mps" in why


def test_a_damaged_memory_is_measured_anew(net, setting, measured):
    cache_dir().mkdir(parents=True, exist_ok=True)
    (cache_dir() / "compile.json").write_text("{")
    worth_compiling(net, {ALL: 30}, setting)
    assert measured[0]["eager"] == 1
    assert json.loads((cache_dir() / "compile.json").read_text())[setting.key] == {"eager": EAGER}


def test_measuring_leaves_the_network_the_random_state_and_the_threads_alone(net, setting, monkeypatch):
    monkeypatch.setattr(compile_trial, "LEAST", 0.0)
    monkeypatch.setattr(compile_trial, "compiler", lambda: torch.compile(_trained_part, backend="eager"))
    net.set_trainable({"head"})
    before, random = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()
    threads = torch.get_num_threads()
    assert eager_speed(net, setting) > 0
    tried = try_out(net, setting)
    assert min(tried.eager, tried.compiled) > 0
    assert min(tried.seconds, tried.again) >= 0
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.get_num_threads() == threads
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert net.trainable == {"head"}
    assert all(parameter.grad is None for parameter in net.parameters())


def _trained_part(net, x, after):
    return net.trained_part(x, after)
