"""tlab from Python: compose, fit, load, compare_runs."""

import csv
import subprocess
import sys
import warnings
from pathlib import Path

import hydra
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

import tlab
from tlab.core.errors import UserError
from tlab.predict import run as predict_command

QUICK = (
    *("data.image_size=32", "data.batch_size=12", "data.num_workers=0", "backbone.weights=null", "trainer=cpu"),
    *("trainer.precision=32-true", "trainer.max_epochs=3", "finetune=head", "logger=none"),
)


@pytest.fixture(scope="module")
def finished(photos, tmp_path_factory):
    """A run, made as the package's own example makes it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("work"))
        cfg = tlab.compose(f"data.root={photos}", *QUICK)
        return tlab.fit(cfg)


def test_a_run_has_a_directory_of_its_own_and_its_metrics(finished):
    assert finished.path.parent.name == "runs"
    assert {"val/acc", "val/loss", "test/acc"} <= finished.keys()
    assert (Path(finished) / "checkpoints" / "best.ckpt").is_file()


def test_the_same_configuration_again_returns_the_result(photos, tmp_path):
    given = [f"data.root={photos}", *QUICK, "trainer.max_epochs=1", f"hydra.run.dir={tmp_path / 'my run'}"]
    first = tlab.fit(tlab.compose(given))
    changed = (tmp_path / "my run" / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    assert tlab.fit(tlab.compose(given)) == first
    assert (tmp_path / "my run" / "checkpoints" / "last.ckpt").stat().st_mtime_ns == changed
    (tmp_path / "my run" / "metrics.json").unlink()
    again = tlab.fit(tlab.compose(given))
    assert {name: again[name] for name in ("val/acc", "test/acc")} == {
        name: first[name] for name in ("val/acc", "test/acc")
    }
    assert again.keys() == first.keys()


def test_a_run_that_ends_early_says_what_resumes_it(photos, tmp_path, monkeypatch, capfd, pasted):
    directory = tmp_path / "my run"
    cfg = tlab.compose(f"data.root={photos}", *QUICK, f"run_dir={directory}")
    way = f'composed with "run_dir=\\"{directory}\\"", resumes it'

    def ended(error):
        def fail(*_, **__):
            (directory / "checkpoints").mkdir(parents=True, exist_ok=True)
            (directory / "checkpoints" / "last.ckpt").touch()
            (directory / "run.json").write_text('{"status": "failed", "error": "interrupted"}')
            raise error

        monkeypatch.setattr("tlab.train.fit", fail)
        with pytest.raises((Exception, SystemExit)) as caught:
            tlab.fit(cfg)
        return caught.value

    for failure in (OSError(28, "No space left on device", "last.ckpt"), RuntimeError("CUDA error")):
        assert any(way in note for note in ended(failure).__notes__)
        (directory / "run.json").unlink()
    told = str(ended(torch.OutOfMemoryError("CUDA out of memory")))
    assert "data.batch_size=6" in told
    words = pasted(told[told.index("python -m tlab.train") :])
    assert f"data.root={photos}" in words
    assert tlab.compose(words[3:]).run_dir == f"{directory}-2"
    (directory / "run.json").unlink()
    ended(KeyboardInterrupt())
    assert f"tlab: stopped; tlab.fit of the same configuration, {way}" in capfd.readouterr().err


def test_a_program_with_a_hydra_of_its_own_can_use_it(tmp_path):
    (tmp_path / "mine.yaml").write_text("a: 1")
    with hydra.initialize_config_dir(str(tmp_path), version_base="1.3"):
        assert tlab.compose("data=demo", "backbone=vgg16").backbone.name == "vgg16"
        assert hydra.compose("mine").a == 1


@pytest.mark.parametrize(
    ("overrides", "backbone", "weights", "image_size"),
    [
        ((), "mobilenet_v3_small", "bundled", 96),
        (("backbone=vgg16",), "vgg16", "DEFAULT", 224),
        (("experiment=cats_dogs",), "resnet18", "DEFAULT", 224),
        (("experiment=demo",), "mobilenet_v3_small", "bundled", 96),
    ],
)
def test_the_sample_needs_no_network_unless_a_backbone_is_named(overrides, backbone, weights, image_size):
    cfg = tlab.compose("data=demo", *overrides)
    assert (cfg.backbone.name, cfg.backbone.weights, cfg.data.image_size) == (backbone, weights, image_size)


def test_predictions_are_those_of_the_command(finished, photos, tmp_path):
    model = tlab.load(finished, accelerator="cpu")
    assert model.classes == ("blue", "green", "red")
    found = model.predict(photos / "test")
    asked = {"run": str(finished.path), "input": str(photos / "test"), "output": str(tmp_path / "p.csv")}
    common = {"batch_size": None, "num_workers": 0, "accelerator": "cpu", "precision": None}
    predict_command(OmegaConf.create({**asked, **common}))
    with (tmp_path / "p.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [one.label for one in found] == [row["prediction"] for row in rows]
    for one, row in zip(found, rows, strict=True):
        assert one.probability == pytest.approx(float(row["probability"]), abs=1e-6)
        assert [f"{p:.6f}" for p in one.probabilities.values()] == [row[f"p({c})"] for c in model.classes]


def test_an_image_in_any_form_is_the_same_image(finished, photos):
    warnings.simplefilter("error")
    model = tlab.load(finished.path, accelerator="cpu")
    file = photos / "test" / "green" / "00.png"
    with Image.open(file) as image:
        image.load()
    array = np.array(image)
    mirrored = np.ascontiguousarray(array[:, ::-1])[:, ::-1]  # as `cv2.imread(file)[..., ::-1]` has it
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    turned, opaque = image.transpose(Image.Transpose.ROTATE_90), image.convert("RGBA")
    turned.getexif()[0x0112] = 6  # EXIF's orientation
    pictures = [image, turned, opaque, opaque.convert("RGBa")]
    forms = [
        str(file),
        file,
        *pictures,
        array,
        np.asarray(image),
        mirrored,
        tensor,
        array / 255,
        array / 255 * 1.00001,
    ]
    predictions = model.predict(forms)
    assert len(predictions) == len(forms)
    assert {one.probabilities["red"] for one in predictions} == {predictions[0].probabilities["red"]}
    assert model.predict(image.convert("L"))[0].probabilities == model.predict(np.array(image.convert("L")))[0][2]


def test_features_of_a_stage(finished, photos):
    model = tlab.load(finished, accelerator="cpu")
    files = [photos / "test" / "red" / f"{i:02}.png" for i in range(5)]
    pooled = model.features(files)
    assert pooled.shape == (5, 512)
    assert pooled.dtype == torch.float32
    logits = model.module.net.head.linear(pooled)
    expected = [list(one.probabilities.values()) for one in model.predict(files)]
    torch.testing.assert_close(logits.softmax(dim=1), torch.tensor(expected))
    torch.testing.assert_close(model.features(files, upto="layer4"), pooled)
    assert model.features(files[0], upto="layer2").shape == (1, 128)
    with pytest.raises(UserError, match=r"upto=layer9 .* layer4"):
        model.features(files, upto="layer9")


@pytest.mark.parametrize(
    "image",
    [
        *("no/such.jpg", Path(tlab.__file__).parent, b"\xff\xd8", [b"\xff\xd8"], "", None, 3),
        *(np.zeros((4, 4, 7), np.uint8), np.zeros((0, 0, 3), np.uint8), np.full((4, 4, 3), 200.0)),
        np.ones((4, 4, 3), np.uint16),
        *(torch.zeros(3, 4, 4, dtype=torch.int64), torch.zeros(2, 3, 4, 4), torch.full((3, 4, 4), torch.nan)),
    ],
    ids=str,
)
def test_what_is_no_image(finished, image):
    with pytest.raises(UserError, match=r"does not exist|holds no image file|are no image|names no image"):
        tlab.load(finished, accelerator="cpu").predict(image)


def test_runs_are_compared_without_writing(finished):
    before = sorted(finished.path.parent.rglob("*"))
    comparison = tlab.compare_runs(finished.path.parent)
    (setting,) = comparison.settings
    assert setting.result.mean == finished["val/acc"]
    assert sorted(finished.path.parent.rglob("*")) == before


def test_mistakes_are_exceptions(photos, finished):
    with pytest.raises(UserError, match=r"data\.batch_size=0"):
        tlab.compose(f"data.root={photos}", "data.batch_size=0")
    with pytest.raises(UserError, match="does not exist"):
        tlab.load("no/such/run")
    with pytest.raises(UserError, match=r"^accelerator=tpu: .* accelerator=auto$"):
        tlab.load(finished, accelerator="tpu")


@pytest.mark.parametrize(
    ("function", "given"),
    [
        *((tlab.compose, {"data.root": "x"}), (tlab.compose, Path("x")), (tlab.compose, None)),
        *((tlab.compose, [1]), (tlab.compose, [["data.root=x"]]), (tlab.compose, b"data.root=x")),
        *((tlab.fit, {}), (tlab.fit, "x"), (tlab.load, None), (tlab.load, {})),
        *((tlab.load, ""), (tlab.compare_runs, ["a", "b"]), (tlab.compare_runs, None), (tlab.compare_runs, "")),
    ],
)
def test_what_is_of_another_type_is_told(function, given):
    with pytest.raises(UserError, match=r"^tlab\.\w+ takes "):
        function(given)


def test_a_mistake_in_the_first_composition_is_told():
    """In a process in which Hydra has not worked yet."""
    code = "import tlab\ntry: tlab.compose('nonsense')\nexcept Exception as error: print(type(error).__name__)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told == "OverrideParseException\n"


def test_another_program_of_hydra_stays_as_it_was(tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").write_text("mine: 1\n")
    with hydra.initialize_config_dir(str(tmp_path), version_base="1.2"):
        assert tlab.compose("data=demo").backbone.name == "mobilenet_v3_small"
        assert hydra.compose("mine").mine == 1
        assert hydra.version.base_at_least("1.2")
        assert not hydra.version.base_at_least("1.3")


def test_importing_it_is_cheap_and_its_names_are_no_modules():
    code = (
        "import sys, tlab\n"
        "assert not {'torch', 'hydra', 'omegaconf', 'numpy'} & {*sys.modules}, 'heavy'\n"
        "import importlib.util as u\n"
        "assert [n for n in tlab.__all__ if u.find_spec(f'tlab.{n}') is not None] == []\n"
        "assert u.find_spec('tlab').submodule_search_locations\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (Path(tlab.__file__).parent / "py.typed").is_file()
