"""A trained run as one file: it says what the checkpoint says, in whatever runs it, and its card is true."""

import errno
import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tlab.exporting.card
import tlab.exporting.graph
import tlab.exporting.self_check
from tlab.config.hydra import compose
from tlab.core.errors import RunFailed, UserError
from tlab.data.decode_options import DecodeOptions, Levels
from tlab.export import _check_card, _write, export
from tlab.exporting.card import card
from tlab.exporting.figures import figures
from tlab.exporting.self_check import Agreement, check, validation_images
from tlab.models.calibration.measures import Measure
from tlab.runs.directory import RunDirectory
from tlab.runs.load import load_trained
from tlab.runs.trained_model import TrainedModel
from tlab.train import train

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def exported(run, output, *overrides):
    return export(compose([f"run={run}", f"output={output}", *overrides], "export"))


def session_of(file):
    return onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])


def answers(file, x):
    """Probabilities `N K` of images uint8 `N 3 H W`, by the file alone."""
    if file.suffix == ".onnx":
        return session_of(file).run(None, {"image": x})[0]
    return torch.export.load(str(file)).module()(torch.from_numpy(x)).detach().numpy()


def expected(run, x):
    model = TrainedModel(load_trained(run), "cpu", "32-true")
    return np.array([list(each.probabilities.values()) for each in model.predict(list(torch.from_numpy(x)))])


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture(scope="module")
def run(compose_quick, tmp_path_factory):
    directory = tmp_path_factory.mktemp("export") / "run"
    train(compose_quick(run_dir=directory))
    return directory


@pytest.fixture(scope="module")
def files(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    agreements = {name: exported(run, folder / name) for name in ("model.onnx", "model.pt2")}
    return folder, agreements


@pytest.mark.parametrize("name", ["model.onnx", "model.pt2"])
def test_images_of_any_size_and_number_are_told_as_by_the_checkpoint(run, files, name):
    for shape in [(1, 3, 37, 37), (32, 3, 37, 37), (3, 3, 61, 200), (1, 3, 1, 1), (1, 3, 5, 90)]:
        x = noise(*shape)
        np.testing.assert_allclose(answers(files[0] / name, x), expected(run, x), atol=1e-4)
    agreement = files[1][name]
    assert (agreement.images, agreement.of) == (18, "validation image")
    assert agreement.same_label == 1
    assert agreement.largest < 1e-4  # PNG files, which are decoded in one way


def test_the_onnx_file_tells_its_interface(run, files):
    session = session_of(files[0] / "model.onnx")
    (given,), (first, *_) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape[1], first.name) == ("image", "tensor(uint8)", 3, "probabilities")
    assert all(isinstance(given.shape[axis], str) for axis in (0, 2, 3))
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["class_names"]) == ["blue", "green", "red"]
    assert about["image_size"] == "32"
    assert float(about["temperature"]) == TrainedModel(load_trained(run)).temperature
    assert about["run"] == "run"
    content = (files[0] / "model.onnx").read_bytes()
    assert not any(str(place).encode() in content for place in (Path.cwd(), Path(torch.__file__).parent))
    assert {file.name for file in files[0].iterdir()} == {
        *("model.onnx", "model.onnx.md", "model.pt2", "model.pt2.md")
    }


@pytest.mark.parametrize("name", ["model.onnx", "model.pt2"])
def test_the_code_in_the_card_runs(run, files, photos, tmp_path, monkeypatch, capsys, name):
    code = (files[0] / f"{name}.md").read_text().partition("```python\n")[2].partition("```")[0]
    shutil.copy(files[0] / name, tmp_path)
    turned = Image.open(photos / "test/red/00.png").rotate(90, expand=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "photo.jpg", format="PNG", exif=exif)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    (prediction,) = TrainedModel(load_trained(run), "cpu", "32-true").predict("photo.jpg")
    assert printed[0][1] == prediction.label
    assert {name: float(p) for p, name in printed} == pytest.approx(prediction.probabilities, abs=1e-4)


def test_the_card_tells_data_and_measures(run, files, photos):
    card = (files[0] / "model.onnx.md").read_text()
    record, metrics = (json.loads((run / name).read_text()) for name in ("run.json", "metrics.json"))
    assert record["data"]["content"] in card
    assert "| red | 12 | 6 | 6 |" in card
    line = next(line for line in card.splitlines() if line.startswith("| test | best.ckpt | 18 | accuracy"))
    value, interval = (cell.strip() for cell in line.split("|")[5:7])
    low, high = map(float, interval.split(" to "))
    assert float(value) == pytest.approx(metrics["test/acc"], abs=1e-3)
    assert low <= float(value) <= high
    assert str(photos) not in card


def test_the_card_says_that_the_file_knows_no_unknown_images(run):
    assert "no answer `known`, which `tlab.predict` and `tlab.serve` give" in card_of(run, "best")
    assert "which `tlab.predict`" not in card_of(run, "best", uncertainty=None)


def test_a_run_of_a_sweep_is_called_by_its_settings_too(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "backbone=vgg16/seed=0")
    exported(copy, tmp_path / "model.pt2")
    about = {"tlab.json": ""}
    torch.export.load(str(tmp_path / "model.pt2"), extra_files=about)
    assert json.loads(about["tlab.json"])["run"] == "backbone=vgg16/seed=0"


def test_an_evaluation_of_the_same_checkpoint_tells_more(run, tmp_path):
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    measure = {"value": 0.125, "low": 0.0625, "high": 0.25}
    told = {"checkpoint": "elsewhere/best.ckpt", "images": 17, "accuracy": measure, "ece": measure, "auroc": None}
    (copy / "evaluation_test.json").write_text(json.dumps(told))
    classes = ("blue", "green", "red")
    best, last = (
        figures(RunDirectory(copy), copy / f"checkpoints/{name}.ckpt", classes) for name in ("best", "last")
    )
    assert [(each.split, each.images) for each in best] == [("val", 18), ("test", 17)]
    assert [each.checkpoint for each in best] == ["best.ckpt", "best.ckpt"]
    assert best[1].measures == {name: Measure(**measure) for name in ("accuracy", "ece")}
    assert last == []


def test_a_refitted_checkpoint_has_no_figure_on_what_it_has_trained_on(run, tmp_path):
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    measure = {"value": 0.9, "low": 0.8, "high": 1.0}
    told = {"checkpoint": "refit.ckpt", "images": 18, "accuracy": measure}
    for split in ("val", "test"):
        (copy / f"evaluation_{split}.json").write_text(json.dumps(told))
    found = figures(RunDirectory(copy), copy / "refit.ckpt", ("blue", "green", "red"))
    assert [(each.split, each.checkpoint) for each in found] == [("val", "best.ckpt"), ("test", "refit.ckpt")]


@pytest.mark.parametrize("of_last", ["evaluation_test", "evaluation_test_last"])  # where the first is of another
def test_an_evaluation_of_a_checkpoint_lies_beside_it(run, tmp_path, of_last):
    copy = RunDirectory(Path(shutil.copytree(run, tmp_path / "run")))
    files = {"best": copy.path / "evaluation_test.json", "last": copy.checkpoints / f"{of_last}.json"}
    for images, (name, file) in enumerate(files.items(), 1):
        file.write_text(json.dumps({"checkpoint": f"{name}.ckpt", "images": images, "accuracy": None}))
    best, last = (figures(copy, file, ("blue", "green", "red")) for file in (copy.best, copy.last))
    assert [(each.split, each.checkpoint, each.images) for each in best] == [
        *(("val", "best.ckpt", 18), ("test", "best.ckpt", 1))
    ]
    assert [(each.split, each.checkpoint, each.images) for each in last] == [("test", "last.ckpt", 2)]


def card_of(run, name, **changes):
    trained = replace(load_trained(run / f"checkpoints/{name}.ckpt"), **changes)
    known = figures(RunDirectory(run), trained.checkpoint, trained.classes)
    agreement = Agreement(18, "validation image", 1, 0, 0, 0)
    return card(trained, RunDirectory(run), known, Path("model.onnx"), "onnx", 1.0, agreement)


def test_a_card_tells_nothing_of_another_checkpoint(run, tmp_path):
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    shutil.copy(copy / "checkpoints/best.ckpt", copy / "checkpoints/refit.ckpt")
    best, last, refit = (card_of(copy, name) for name in ("best", "last", "refit"))
    for text in (best, refit):  # a refit's calibration is that of the checkpoint before it
        assert "right in test (best.ckpt)" in text
        assert "best.ckpt on 18 validation images" in text
    assert "| red | 12 | 6 | 6 |" in last
    assert "right in test" not in last
    assert "nothing else is known" in last
    assert "there is no test split" not in last


def test_a_card_of_many_classes_sums_them_up(run, monkeypatch):
    monkeypatch.setattr(tlab.exporting.card, "MOST_CLASSES", 2)
    text = card_of(run, "best")
    assert "Training images of a class: 12 to 12, median 12" in text
    assert "| red |" not in text


def test_a_card_of_deep_images_scales_them(run):
    text = card_of(run, "best", decode_options=DecodeOptions(Levels((0, 4095))))
    assert 'read("photo.jpg", 0, 4095)' in text


def test_a_checkpoint_in_another_runs_folder_is_a_lone_one(run, tmp_path, monkeypatch, caplog):
    copy = RunDirectory(Path(shutil.copytree(run, tmp_path / "run")))
    monkeypatch.chdir(copy.checkpoints)
    assert exported("last.ckpt", tmp_path / "own.pt2").of == "validation image"
    assert "python -m tlab.evaluate run=last.ckpt measures it" in caplog.text
    copy.update(class_names=["another", "set"])
    assert exported("best.ckpt", tmp_path / "foreign.pt2").of == "drawn image"
    assert "exported without its run" in (tmp_path / "foreign.pt2.md").read_text()


def test_a_checkpoint_alone_is_compared_on_drawn_images(run, files, tmp_path, caplog):
    shutil.copy(run / "checkpoints/best.ckpt", tmp_path / "alone.ckpt")
    alone = RunDirectory(tmp_path / "nowhere")
    assert validation_images(alone) == []
    model = TrainedModel(load_trained(tmp_path / "alone.ckpt"), "cpu", "32-true")
    (tmp_path / "broken.png").write_bytes(b"none")
    agreement = check(model, lambda x: answers(files[0] / "model.onnx", x), [tmp_path / "broken.png"])
    assert agreement.of == "drawn image"
    assert "1 validation image is not compared (" in caplog.text
    assert agreement.largest < 1e-4
    text = card(model.trained, alone, [], tmp_path / "model.onnx", "onnx", model.temperature, agreement)
    assert text.count("checkpoint was exported without its run") == 2
    assert "alone.ckpt was not measured" in text


def test_a_model_that_says_something_else_is_not_written(run, tmp_path, monkeypatch):
    forward = tlab.exporting.graph.Preprocessing.forward
    monkeypatch.setattr(tlab.exporting.graph.Preprocessing, "forward", lambda self, x: forward(self, x) // 2)
    (tmp_path / "model.pt2").write_text("an earlier one")
    with pytest.raises(RunFailed, match="wrong by"):
        exported(run, tmp_path / "model.pt2")
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt2"]
    assert (tmp_path / "model.pt2").read_text() == "an earlier one"


def test_ties_are_no_disagreement_but_other_labels_are(run, photos):
    model = TrainedModel(load_trained(run), "cpu", "32-true")
    photographs = sorted(photos.glob("val/*/*.png"))

    def answer(x, photograph):
        """The checkpoint's probabilities; of photographs, which come alone and large, other ones."""
        own = np.array([list(each.probabilities.values()) for each in model.predict(list(torch.from_numpy(x)))])
        return photograph(own) if x.shape[-1] == 40 else own

    def swapped(own):
        return own[:, ::-1] if own.argmax() != 1 else own[:, [1, 0, 2]]

    def surer(own):
        return 0.9 * own + 0.1 * (own == own.max())

    own = np.array([list(each.probabilities.values()) for each in model.predict(photographs)])
    ties = np.array([each[swapped(each[None])[0].argmax()] >= 0.9 * each.max() for each in own])
    agreement = check(model, lambda x: answer(x, swapped), photographs)
    assert agreement.same_label == pytest.approx(ties.mean())
    assert not agreement.is_close
    agreement = check(model, lambda x: answer(x, surer), photographs)
    assert agreement.same_label == 1
    assert not agreement.is_close  # as where it resizes in another way


def test_validation_images_are_of_all_classes_and_there(run, photos, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(tlab.exporting.self_check, "MOST_IMAGES", 11)
    copy = RunDirectory(Path(shutil.copytree(run, tmp_path / "run")))
    shutil.copytree(photos, tmp_path / "photos")
    copy.update(data={**copy.record["data"], "root": str(tmp_path / "photos")})
    (tmp_path / "photos/val/green/01.png").unlink()
    files = validation_images(copy)
    assert len(set(files)) == 11
    assert all(file.is_file() for file in files)
    counts = [sum(file.parent.name == name for file in files) for name in ("blue", "green", "red")]
    assert max(counts) - min(counts) <= 1
    assert "1 validation image is gone" in caplog.text


def test_what_tlab_reads_and_pillow_does_not_is_left_out(run, files, photos, monkeypatch, caplog):
    model = TrainedModel(load_trained(run), "cpu", "32-true")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)  # of 1,440: Pillow's limit
    photographs = sorted(photos.glob("val/*/*.png"))[:2]
    agreement = check(model, lambda x: answers(files[0] / "model.onnx", x), photographs)
    assert agreement.of == "drawn image"
    assert "2 validation images are not compared (Pillow: DecompressionBombError)" in caplog.text


def killed(function):
    """Carry out a function in a fork that ends by SIGKILL."""
    pid = os.fork()
    if pid == 0:
        try:
            function()
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def test_a_killed_export_leaves_no_file(run, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(tlab.exporting.self_check, "check", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        killed(lambda: exported(run, tmp_path / "model.pt2"))
    assert list(tmp_path.iterdir()) == []
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        killed(lambda: _write(tmp_path / "model.pt2", b"content", "card"))
    assert all(file.name.startswith(".") for file in tmp_path.iterdir())
    left_overs = list(tmp_path.iterdir())
    _write(tmp_path / "model.pt2", b"content", "card")
    assert set(left_overs) < set(tmp_path.iterdir())  # of another export, perhaps
    for file in left_overs:
        os.utime(file, (0, 0))
    _write(tmp_path / "model.pt2", b"content", "card")
    assert {file.name for file in tmp_path.iterdir()} == {"model.pt2", "model.pt2.md"}


def test_no_model_has_its_name_before_its_card(tmp_path, monkeypatch):
    named, rename = [], Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, target: named.append(target.name) or rename(self, target))
    _write(tmp_path / "model.pt2", b"content", "card")
    assert named == ["model.pt2.md", "model.pt2"]


def test_where_a_disk_is_full_the_model_is_named_and_no_card_is_left(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space") as caught:
        _write(tmp_path / "model.onnx", b"content", "card")
    assert caught.value.filename == str(tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_another_file_is_not_overwritten_by_a_card(run, files, tmp_path, pasted):
    (tmp_path / "READ ME.md").write_text("# READ ME\n\nof another thing")
    with pytest.raises(UserError, match="move it away") as caught:
        exported(run, f'"{tmp_path}/READ ME"')
    assert pasted(str(caught.value).rpartition("or give ")[2]) == [f'output="{tmp_path}/READ ME_exported.onnx"']
    (tmp_path / "model.pt2.md").mkdir()
    with pytest.raises(UserError, match=r"output=\S+/model_exported\.pt2"):
        exported(run, tmp_path / "model.pt2")
    _check_card(files[0] / "model.pt2", "model.pt2")  # a card of an earlier export


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["output=model.txt", "format=onnx"], "output=model.onnx"),
        (["format=coreml"], "format=coreml is not one of null, onnx, torch_export"),
        (["run=nowhere", "output=new/model.onnx"], "run=nowhere does not exist"),
    ],
)
def test_mistakes(run, tmp_path, monkeypatch, overrides, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words):
        export(compose([f"run={run}", *overrides], "export"))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_extra_is_named(run, tmp_path, monkeypatch):
    monkeypatch.setattr(tlab.exporting.graph, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'tlab-transfer\[onnx\]'"):
        exported(run, tmp_path / "model.onnx")


class Halved(torch.nn.Module):
    """What a graph cannot hold: the way depends on the values."""

    def forward(self, x):
        return x / 2 if float(x.sum()) > 0 else x


def test_what_a_graph_cannot_hold_is_told(run, tmp_path, monkeypatch):
    normalize = tlab.models.classifier.Normalize.forward
    halved = Halved()
    monkeypatch.setattr(tlab.models.classifier.Normalize, "forward", lambda self, x: halved(normalize(self, x)))
    with pytest.raises(UserError, match=r"cannot be exported .* python -m tlab\.predict"):
        exported(run, tmp_path / "model.pt2")


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ["backbone=resnet18", "backbone.upto=layer1", "finetune.ema=0.9", "data.resize=pad"],
        ["backbone=efficientnet_lite0", "backbone.upto=stage3", "head.pooling=max", "refit=true"],
        ["backbone=vgg11", "backbone.upto=block3", "data.crop_fraction=1"],
        ["backbone=timm", "backbone.name=vit_tiny_patch16_224", "backbone.upto=blocks_1", "head.pooling=token_avg"],
        ["backbone=mobilenet_v3_small", "backbone.upto=block2", "head=mlp", "head.normalize=true"],
    ],
    ids=" ".join,
)
def test_whatever_a_run_may_be(compose_run, tmp_path, overrides):
    cfg = compose_run(*overrides)
    train(cfg)
    agreement = exported(cfg.run_dir, tmp_path / "model.onnx")
    assert agreement.same_label == 1
    size = round(cfg.data.image_size / cfg.data.crop_fraction)
    for number in (1, 32):
        x = noise(number, 3, size, size)
        np.testing.assert_allclose(answers(tmp_path / "model.onnx", x), expected(Path(cfg.run_dir), x), atol=1e-4)
