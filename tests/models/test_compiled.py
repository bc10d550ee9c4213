"""What trains, compiled. A backend that only counts graphs stands for the compiler, which takes half a minute."""

import copy
import logging
import shutil

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tlab.core.errors import UserError
from tlab.models.autotune import compiled
from tlab.models.autotune.compiled import CompiledTraining, check_compiler, step_seconds
from tlab.models.classifier import Classifier
from tlab.models.head import Head
from tlab.models.stages import IMAGENET_MEAN, IMAGENET_STD, Pretraining, StagedBackbone, digest

ALL = frozenset({"stem", "mid", "top", "head"})
TOP = frozenset({"top", "head"})


def block(channels_in, channels_out):
    layers = nn.Conv2d(channels_in, channels_out, 3, padding=1), nn.BatchNorm2d(channels_out), nn.ReLU()
    return nn.Sequential(*layers, nn.Dropout(0.2))


@pytest.fixture
def net():
    torch.manual_seed(0)
    stages = {"stem": block(3, 4), "mid": block(4, 4), "top": block(4, 6)}
    backbone = StagedBackbone(stages, Pretraining(input_size=8), image_size=8)
    net = Classifier(backbone, Head(6, 2), IMAGENET_MEAN, IMAGENET_STD)
    nn.init.normal_(net.head.linear.weight)  # it starts at zero, which lets no gradient through
    return net


@pytest.fixture
def graphs():
    """What was compiled."""
    torch._dynamo.reset()
    return []


@pytest.fixture
def images():
    return torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def counting(graphs):
    """Return a backend that notes each graph, and runs it as it is."""

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    return backend


def train(net, run, batches, groups):
    """Take a step on each batch; the seed before each is that of its place."""
    net.set_trainable(groups)
    net.train()
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    for place, batch in enumerate(batches):
        torch.manual_seed(place)
        F.cross_entropy(run(batch, ""), torch.arange(len(batch)) % 2).backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("groups", [ALL, TOP, frozenset({"mid", "head"})])
def test_a_compiled_run_trains_what_the_network_would_and_leaves_the_rest(net, graphs, images, groups):
    plain = copy.deepcopy(net)
    before = {name: digest(net.group(name)) for name in net.group_names}
    run = CompiledTraining(net, [groups], 4, counting(graphs))
    batches = [images, images.flip(0), images[:3]]
    train(net, run, batches, groups)
    train(plain, plain, batches, groups)
    assert len(graphs) == 1
    for name, tensor in plain.state_dict().items():
        assert torch.equal(net.state_dict()[name], tensor), name
    changed = {name for name in net.group_names if digest(net.group(name)) != before[name]}
    assert changed == groups


def test_only_whole_batches_in_training_of_what_pays_are_compiled(net, graphs, images):
    run = CompiledTraining(net, [TOP], 4, counting(graphs))
    train(net, run, [images[:2], images[:1]], TOP)
    train(net, run, [images], ALL)
    train(net, run, [images], {"head"})
    net.set_trainable(TOP)
    with torch.no_grad():
        run(images)
    net.eval()
    run(images)
    assert graphs == []
    train(net, run, [images], TOP)
    assert len(graphs) == 1


def test_each_set_of_groups_is_compiled_once_however_many_there_are(net, graphs, images):
    """torch by itself gives up after eight."""
    names = ["stem", "mid", "top"]
    sets = [frozenset({"head", *(n for i, n in enumerate(names) if bits >> i & 1)}) for bits in range(1, 8)]
    run = CompiledTraining(net, sets, 4, counting(graphs))
    for _ in range(2):
        for groups in sets:
            train(net, run, [images, images], groups)
    assert len(graphs) == len(sets)


def test_images_and_what_the_frozen_stages_made_of_them_share_a_graph(net, graphs, images):
    net.set_trainable(TOP)
    run = CompiledTraining(net, [TOP], 4, counting(graphs))
    net.train()
    torch.manual_seed(0)
    from_images = run(images)
    with torch.no_grad():
        features = net.prefix(images, "mid")
    torch.manual_seed(0)
    assert torch.equal(run(features, "mid"), from_images)
    assert len(graphs) == 1


def test_where_compiling_fails_the_network_runs_as_it_is(net, graphs, images, caplog):
    def broken(graph, inputs):
        graphs.append(graph)
        raise RuntimeError("no such instruction\nand forty more lines")

    plain = copy.deepcopy(net)
    train(net, CompiledTraining(net, [ALL], 4, broken), [images, images], ALL)
    train(plain, plain, [images, images], ALL)
    assert len(graphs) == 1
    [warning] = [record.getMessage() for record in caplog.records if record.name.startswith("tlab")]
    assert warning.endswith("the run goes on without it (RuntimeError: no such instruction)")
    assert digest(net) == digest(plain)


def test_the_seconds_of_the_first_step_are_told_once(net, graphs, images, caplog):
    run = CompiledTraining(net, [ALL, TOP], 4, counting(graphs))
    with caplog.at_level(logging.INFO):
        train(net, run, [images] * 3, ALL)
        train(net, run, [images] * 3, TOP)
    assert caplog.text.count("is compiled, which took") == 2


def test_a_copy_of_the_network_knows_of_no_compiler(net, graphs, images):
    """Moving averages, rate finders and stores copy it."""
    keys = list(net.state_dict())
    train(net, CompiledTraining(net, [ALL], 4, counting(graphs)), [images], ALL)
    assert list(net.state_dict()) == keys
    twin = copy.deepcopy(net)
    train(twin, twin, [images], ALL)
    assert len(graphs) == 1
    assert digest(twin) != digest(net)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_timing_a_step_leaves_the_network_and_the_random_state_alone(net, precision):
    net.set_trainable({"head"})
    before, random = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()
    assert step_seconds(net, TOP, 4, 8, "cpu", precision, channels_last=True) > 0
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert net.trainable == {"head"}
    assert all(parameter.grad is None for parameter in net.parameters())


def test_of_a_step_counts_what_trains(net, monkeypatch):
    """Neither what is frozen before it, nor the first steps, which warm up."""
    clock = iter(range(1000))
    seconds = iter([9.0, 3.0, 2.0, 4.0, 2.5])
    steps = []

    def timed_step(twin, x, after, precision):
        steps.append((twin.trainable, after, tuple(x.shape), next(clock)))
        return next(seconds)

    monkeypatch.setattr(compiled, "timed_step", timed_step)
    assert step_seconds(net, TOP, 4, 8, "cpu", "32-true", channels_last=False) == 2.0
    assert steps == [(TOP, "mid", (4, 4, 8, 8), step) for step in range(5)]


def test_a_missing_compiler_is_said_in_one_sentence(monkeypatch):
    def compile_(*args, **options):
        raise RuntimeError("No working C++ compiler found\nin 3 places")

    monkeypatch.setattr(compiled.torch, "compile", compile_)
    with pytest.raises(
        UserError, match=r"trainer\.compile=true: .*No working C\+\+ compiler found\); install"
    ) as e:
        check_compiler("cpu")
    assert "\n" not in str(e.value)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
def test_inductor_trains_as_the_network_does(net, images):
    """Dropout too: it draws the same numbers."""
    check_compiler("cpu")
    torch._dynamo.reset()
    plain = copy.deepcopy(net)
    frozen = digest(net.group("stem"))
    groups = ALL - {"stem"}
    train(net, CompiledTraining(net, [groups], 4), [images, images.flip(0), images[:3]], groups)
    train(plain, plain, [images, images.flip(0), images[:3]], groups)
    assert digest(net.group("stem")) == frozen
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(net.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)
