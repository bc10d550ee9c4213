import json
import subprocess
import sys

import pytest
import torch

from tlab.core.errors import UserError
from tlab.core.files import cache_dir
from tlab.models.autotune import precision
from tlab.models.autotune.precision import fastest_precision, find_accelerator, measure
from tlab.models.backbones import build_backbone
from tlab.models.classifier import Classifier
from tlab.models.head import Head
from tlab.models.stages import IMAGENET_MEAN, IMAGENET_STD


@pytest.fixture
def net():
    backbone = build_backbone("squeezenet1_1", weights=None, image_size=32)
    return Classifier(backbone, Head(backbone.feature_dim, 2), IMAGENET_MEAN, IMAGENET_STD)


@pytest.mark.parametrize("head_only", [False, True])
def test_measuring_leaves_the_network_and_the_random_state_alone(net, head_only):
    net.set_trainable({"head"})
    before, state = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()
    speeds = measure(net, 32, True, head_only)
    assert set(speeds) == {"32-true", "bf16-mixed"}
    assert min(speeds.values()) > 0
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert net.trainable == {"head"}
    assert net.training
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize("fast", ["32-true", "bf16-mixed"])
def test_the_fastest_wins_and_is_remembered(net, monkeypatch, fast):
    calls = []

    def measured(*args):
        calls.append(args)
        return {"32-true": 10.0, "bf16-mixed": 20.0 if fast == "bf16-mixed" else 5.0}

    monkeypatch.setattr(precision, "measure", measured)
    for _ in range(2):
        chosen, why = fastest_precision(net, 32, "cpu", True, name=f"test-{fast}")
        assert chosen == fast
        assert "32-true 10" in why
    assert len(calls) == 1
    assert any(f"test-{fast}" in key for key in json.loads((cache_dir() / "precision.json").read_text()))


def test_a_difference_that_is_not_clear_is_measured_again_by_the_next_command(net, monkeypatch):
    speeds = iter([{"32-true": 10.0, "bf16-mixed": 10.5}, {"32-true": 9.0, "bf16-mixed": 12.0}])
    monkeypatch.setattr(precision, "measure", lambda *args: next(speeds))

    def choose():
        return fastest_precision(net, 32, "cpu", True, name="unclear")

    assert choose()[0] == "32-true"
    assert choose()[1].endswith("32-true 10, bf16-mixed 10 (no clear difference)")  # this command has measured
    monkeypatch.setenv("TLAB_THIS_COMMAND", "the next")
    assert choose() == ("bf16-mixed", "training images/s on one core here: 32-true 10, bf16-mixed 12")
    monkeypatch.setenv("TLAB_THIS_COMMAND", "the one after it")
    assert choose()[0] == "bf16-mixed"  # clear now: remembered


def test_a_forward_pass_and_a_training_step_are_remembered_apart(net, monkeypatch):
    """Of MobileNet here bf16 computes features as fast as fp32, and trains at half its speed."""
    monkeypatch.setattr(
        precision, "measure", lambda *args: {"32-true": 10.0, "bf16-mixed": 20.0 if args[-1] else 5.0}
    )
    chosen = [fastest_precision(net, 32, "cpu", True, "apart", head_only=only)[0] for only in (True, False)]
    assert chosen == ["bf16-mixed", "32-true"]


ASKS = """
import sys, time
from tlab.models.autotune import precision
def measure(*args):
    time.sleep(0.5)  # so that the other one asks meanwhile
    return {"32-true": 10.0, "bf16-mixed": 10.0 + float(sys.argv[1]) * 2}  # no clear difference
precision.measure = measure
print("ready", flush=True)
input()
print(precision.fastest_precision(None, 32, "cpu", True, name="together")[1])
"""


def test_processes_of_a_command_that_ask_together_get_one_answer(monkeypatch, tmp_path):
    monkeypatch.setenv("TLAB_CACHE", str(tmp_path))
    monkeypatch.setenv("TLAB_THIS_COMMAND", "this one")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    asking = [subprocess.Popen([sys.executable, "-c", ASKS, number], **pipes) for number in ("0.1", "0.4")]
    assert [process.stdout.readline() for process in asking] == ["ready\n"] * 2
    for process in asking:
        print(file=process.stdin, flush=True)
    answers = [process.stdout.read() for process in asking]
    assert [process.wait() for process in asking] == [0, 0]
    assert answers[0] == answers[1] != ""


@pytest.mark.parametrize("text", ["{", '{"of an earlier version": {"32-true": 2.0}}'])
def test_a_damaged_memory_is_measured_anew(net, monkeypatch, text):
    monkeypatch.setattr(precision, "measure", lambda *args: {"32-true": 2.0, "bf16-mixed": 1.0})
    cache_dir().mkdir(parents=True, exist_ok=True)
    (cache_dir() / "precision.json").write_text(text)
    assert fastest_precision(net, 32, "cpu", True, name="damaged")[0] == "32-true"


def test_an_accelerator_that_is_not_there_is_named():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert find_accelerator("auto") in ("cpu", "mps")
    with pytest.raises(UserError, match=r"trainer\.accelerator=cuda: there is none here"):
        find_accelerator("cuda")
