"""BatchNorm statistics that are estimated on the training images: finetune.batchnorm=estimated."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from tlab.assembly.build import build_data
from tlab.comparison import compare_runs
from tlab.core.errors import UserError
from tlab.finetuning.batchnorm import (
    batchnorm_layers,
    choose_batchnorm,
    estimate_batchnorm,
    statistics_digest,
    training_statistics,
)
from tlab.models.classifier import Classifier
from tlab.models.head import Head
from tlab.models.stages import IMAGENET_MEAN, IMAGENET_STD, Pretraining, StagedBackbone
from tlab.runs.checkpoints import BestCheckpoint
from tlab.runs.directory import RunDirectory
from tlab.runs.load import load_trained
from tlab.train import train

ESTIMATED = "finetune.batchnorm=estimated"


@pytest.fixture
def compose_run(compose_run):
    """Compose quick runs of the first stages only, whose weights may be those of another one."""
    return partial(compose_run, "backbone.upto=layer1")


@pytest.fixture
def pretrained(compose_run, tmp_path_factory):
    """Weights of a run, whose statistics are far from those of the images."""
    directory = tmp_path_factory.mktemp("pretrained")
    train(compose_run("backbone.weights=null", "finetune=head", "trainer.max_epochs=1", run_dir=directory))
    return f"backbone.weights={directory}"


def statistics(run):
    backbone = load_trained(run).module.net.backbone
    return {name: (layer.running_mean, layer.running_var) for name, layer in batchnorm_layers(backbone).items()}


def test_they_are_the_mean_and_variance_of_what_a_layer_gets(compose_run, pretrained, tmp_path):
    cfg = compose_run(pretrained, "finetune=head", "aug=light", ESTIMATED)
    train(cfg)
    found = statistics(tmp_path / "run")
    data = build_data(cfg)
    data.setup()
    net = load_trained(tmp_path / "run").module.net
    inputs = []
    conv = next(module for module in net.backbone.modules() if isinstance(module, nn.Conv2d))
    conv.register_forward_hook(lambda module, x, y: inputs.append(y))
    with torch.no_grad():
        for batch in data.loader("train"):
            net(batch.image)
    x = torch.cat(inputs).transpose(0, 1).flatten(1).double()
    mean, variance = next(iter(found.values()))
    torch.testing.assert_close(mean.double(), x.mean(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(variance.double(), x.var(1), rtol=1e-4, atol=1e-5)
    phase = RunDirectory(tmp_path / "run").record["phases"][0]
    assert all(
        after == phase["digests_before"][name] for name, after in phase["digests_after"].items() if name != "head"
    )


def test_with_one_batch_they_are_those_of_torch(compose_run, pretrained):
    cfg = compose_run(pretrained)
    data = build_data(cfg)
    data.setup()
    net = load_trained(Path(pretrained.partition("=")[2])).module.net
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found = training_statistics(net, data, batchnorm_layers(net.backbone))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    images = torch.cat([batch.image for batch in data.loader("train")])
    assert len(images) <= 64
    update_bn([images], net)
    for name, value in found.items():
        torch.testing.assert_close(value, net.state_dict()[name], rtol=1e-3, atol=1e-4)


def test_features_of_other_statistics_are_not_mixed_up(compose_run, pretrained, tmp_path):
    runs = {}
    for name, override in {"a": "finetune.batchnorm=pretrained", "b": ESTIMATED, "c": ESTIMATED}.items():
        cfg = compose_run(pretrained, "finetune=head", "aug=none", override, run_dir=tmp_path / name)
        runs[name] = train(cfg) | {"fit_seconds": 0}
    assert runs["a"]["val/loss"] != runs["b"]["val/loss"]
    assert runs["b"] == runs["c"]


def test_a_run_goes_on_with_them(compose_run, pretrained, tmp_path, monkeypatch):
    settings = (pretrained, ESTIMATED, "finetune.l2_sp=0.01", "checkpoint.every_n_steps=1")
    whole = train(compose_run(*settings, run_dir=tmp_path / "whole"))

    def stop(self, trainer, module):
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(BestCheckpoint, "on_train_epoch_end", stop)
        with pytest.raises(RuntimeError, match="killed"):
            train(compose_run(*settings))
    assert train(compose_run(*settings)) | {"fit_seconds": 0} == whole | {"fit_seconds": 0}


def test_where_there_is_nothing_to_estimate_it_is_refused(compose_run):
    with pytest.raises(UserError, match=r"batchnorm=estimated .* backbone\.weights=null"):
        train(compose_run(ESTIMATED))
    backbone = StagedBackbone({"stem": nn.Conv2d(3, 4, 3)}, Pretraining(input_size=8), image_size=8)
    net = Classifier(backbone, Head(4, 3), IMAGENET_MEAN, IMAGENET_STD)
    with pytest.raises(UserError, match=r"batchnorm=estimated needs BatchNorm, which plain has nowhere"):
        estimate_batchnorm(net, build_data(compose_run()), torch.device("cpu"), "plain", None)


@pytest.mark.parametrize(
    ("losses", "kind"), [((0.5, 0.4), "estimated"), ((0.5, 0.52), "estimated"), ((0.5, 0.6), "fixed")]
)
def test_auto_takes_the_statistics_that_tell_the_classes_better(
    compose_run, pretrained, tmp_path, monkeypatch, losses, kind
):
    """And keeps to them, whatever it would decide later."""
    monkeypatch.setenv("TLAB_CACHE", str(tmp_path / "cache"))
    kinds = ("fixed", "estimated")
    monkeypatch.setattr("tlab.finetuning.batchnorm._trial", lambda net, data: dict(zip(kinds, losses, strict=True)))
    settings = (pretrained, "aug=none")
    decided = train(compose_run(*settings)) | {"fit_seconds": 0}
    record = RunDirectory(tmp_path / "run").record
    assert record["config"]["finetune"]["batchnorm"] == kind
    named = train(compose_run(*settings, f"finetune.batchnorm={kind}", run_dir=tmp_path / "named"))
    assert decided == named | {"fit_seconds": 0}
    monkeypatch.setattr("tlab.finetuning.batchnorm._trial", None)
    assert train(compose_run(*settings)) | {"fit_seconds": 0} == decided  # is finished
    compared = {setting.levels for setting in compare_runs(tmp_path).settings}
    assert compared == {("auto",), (kind,)}  # other seeds may decide otherwise, and are of the same setting


def test_fixed_statistics_stay_while_everything_trains(compose_run, pretrained, tmp_path):
    train(compose_run(pretrained, "finetune.batchnorm=fixed"))
    run = tmp_path / "run"
    before, after = statistics(Path(pretrained.partition("=")[2])), statistics(run)
    assert all(torch.equal(*pair) for name in before for pair in zip(before[name], after[name], strict=True))
    phases = RunDirectory(run).record["phases"]
    assert phases[-1]["digests_before"]["layer1"] != phases[-1]["digests_after"]["layer1"]


def test_both_kinds_are_tried_on_the_images_and_the_network_is_left_as_it_is(compose_run, pretrained):
    """Weights whose statistics say nothing of the images lose."""
    data = build_data(compose_run(pretrained))
    data.setup()
    net = load_trained(Path(pretrained.partition("=")[2])).module.net
    for layer in batchnorm_layers(net.backbone).values():
        layer.running_mean += 100
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert choose_batchnorm(net, data, torch.device("cpu"), None) == "estimated"
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_other_runs_need_not_wait_for_a_choice(compose_run, pretrained, monkeypatch):
    data = build_data(compose_run(pretrained))
    data.setup()
    net = load_trained(Path(pretrained.partition("=")[2])).module.net
    other = "from tlab.core.measurements import measurements\nwith measurements('batchnorm'): pass"

    def losses(net, data):
        subprocess.run([sys.executable, "-c", other], check=True, timeout=10)
        return {"fixed": 2, "estimated": 1}

    monkeypatch.setattr("tlab.finetuning.batchnorm._trial", losses)
    assert choose_batchnorm(net, data, torch.device("cpu"), "known") == "estimated"
    monkeypatch.setattr("tlab.finetuning.batchnorm._trial", None)
    assert choose_batchnorm(net, data, torch.device("cpu"), "known") == "estimated"


def test_what_labels_decide_is_kept_apart_for_other_labels(compose_run, pretrained, photos, tmp_path):
    """Two tables of the same images."""
    net = load_trained(Path(pretrained.partition("=")[2])).module.net
    files = sorted((photos / "train").rglob("*.png"))
    digests = []
    for name, label in (
        ("color", lambda file: file.parent.name),
        ("same", lambda file: file.parent.name),
        ("number", lambda file: int(file.stem) % 3),
        ("both", lambda file: f"{file.parent.name} {int(file.stem) % 3}"),
    ):
        rows = (
            f"{file.relative_to(photos)},{label(file)},{'val' if file.stem > '08' else 'train'}" for file in files
        )
        table = tmp_path / f"{name}.csv"
        table.write_text("\n".join(["id,label,set", *rows]))
        data = build_data(compose_run("data=csv", f"data.labels={table}", "data.images=.", "data.split_column=set"))
        data.setup()
        digests.append(statistics_digest(net, data))
    assert digests[0] == digests[1]
    assert len({*digests}) == 3
