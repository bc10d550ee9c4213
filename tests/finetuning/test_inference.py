"""Frozen stages in inference: as close to the network as rounding allows, in the order of the images."""

import functools
import itertools

import pytest
import torch
from torch import Tensor, nn

from tlab.finetuning.features.inference import CHUNK, _conv_and_norm, _for_bf16, chunks_of, run_prefix
from tlab.models.autotune.precision import autocast
from tlab.models.backbones import build_backbone
from tlab.models.classifier import POOL, Classifier
from tlab.models.head import Head
from tlab.models.stages import IMAGENET_MEAN, IMAGENET_STD

CPU = torch.device("cpu")


def frozen(name: str) -> Classifier:
    """A network in evaluation whose BatchNorms do something, as trained ones do."""
    torch.manual_seed(0)
    backbone = build_backbone(name, weights=None, image_size=64)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return Classifier(backbone, Head(backbone.feature_dim, 3), IMAGENET_MEAN, IMAGENET_STD).eval()


def images(count: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, 64, 64), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def features(net: Classifier, x: Tensor, precision: str = "bf16-mixed") -> Tensor:
    with torch.inference_mode(), autocast(CPU, precision):
        return net.prefix(x, POOL).float()


def norms(net: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in net.modules())


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "densenet121"])
def test_batchnorm_folded_into_convolutions_loses_no_more_than_bf16_does(name: str) -> None:
    net, x = frozen(name), images(2)
    quick = _for_bf16(net, lambda net: features(net, x[:1]))
    assert norms(quick) < norms(net)
    if name != "densenet121":  # where a BatchNorm also comes before its convolution
        assert norms(quick) == 0
    exact = features(net, x, "32-true")
    assert (features(quick, x) - exact).norm() <= 1.5 * (features(net, x) - exact).norm()


def test_the_network_itself_stays_as_it_is() -> None:
    net = frozen("resnet18")
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    _for_bf16(net, lambda net: features(net, images(1)))
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert norms(net) == 20


class Twice(nn.Module):
    """What a folded BatchNorm would spoil: the convolution's own output is used too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        nn.init.constant_(self.norm.bias, 3.0)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.norm(y) - y


def test_a_fold_that_changes_the_result_is_not_taken() -> None:
    net = Twice().eval()
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def run(net: nn.Module) -> Tensor:
        with torch.inference_mode(), autocast(CPU, "bf16-mixed"):
            return net(x)

    assert _conv_and_norm(net, run)[1] == [("conv", "norm")]
    assert _for_bf16(net, run) is net


@pytest.mark.parametrize("change", ["train", "twice"])
def test_only_a_fixed_batchnorm_of_one_convolution_is_folded(change: str) -> None:
    conv, norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
    net = nn.Sequential(conv, norm).eval()
    if change == "train":
        norm.train()
    passes = 2 if change == "twice" else 1
    x = torch.randn(2, 3, 4, 4)
    _, pairs = _conv_and_norm(net, lambda net: [net(x) for _ in range(passes)][-1])
    assert pairs == []


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_chunks_come_back_in_order(precision: str) -> None:
    net, x = frozen("resnet18"), images(5 * CHUNK + 3)
    chunks = [functools.partial(lambda part: part, part) for part in x.split(CHUNK)]
    threads = torch.get_num_threads()
    found = torch.cat(list(run_prefix(net, chunks, POOL, "", precision, torch.channels_last))).float()
    assert torch.get_num_threads() == threads
    wanted = features(net, x, precision)
    tolerance = 1e-5 if precision == "32-true" else 0.05
    assert (found - wanted).norm() <= tolerance * wanted.norm()
    distances = torch.cdist(found, wanted)
    assert distances.argmin(1).tolist() == list(range(len(x)))


def test_an_error_in_a_chunk_comes_out() -> None:
    def broken() -> Tensor:
        raise OSError("gone")

    chunks = itertools.chain([lambda: images(2)], [broken])
    with pytest.raises(OSError, match="gone"):
        list(run_prefix(frozen("resnet18"), chunks, POOL, "", "32-true", torch.channels_last))


@pytest.mark.parametrize(
    ("rows", "cores", "sizes"),
    [
        (range(40), 2, [8, 8, 6, 5, 4, 3, 2, 2, 2]),
        (range(5, 24), 1, [8, 8, 3]),
        (range(3), 16, [2, 1]),
        (range(0), 2, []),
    ],
)
def test_chunks_become_smaller_so_that_no_core_waits_long_for_the_last_one(rows, cores, sizes):
    chunks = list(chunks_of(rows, 8, cores))
    assert [len(chunk) for chunk in chunks] == sizes
    assert [row for chunk in chunks for row in chunk] == list(rows)
