"""refit=true: the training that validation has chosen once more, on train and val together."""

import shutil
from pathlib import Path

import lightning.pytorch as L
import pytest
import torch

import tlab
from tlab.comparison.compare import compare_runs
from tlab.config.hydra import compose
from tlab.config.overrides import as_override
from tlab.core.errors import UserError
from tlab.evaluate import evaluate
from tlab.evaluating.measure import training_data
from tlab.finetuning import PhaseRecord, RunState, Until, build_plan
from tlab.predictions.ensemble import load_ensemble
from tlab.runs.checkpoints import LastCheckpoint
from tlab.runs.directory import RunDirectory
from tlab.runs.history import RunRecorder
from tlab.runs.load import load_trained
from tlab.train import train

BEST = 2  # epoch, from 0: inside the second phase, whose schedule goes on behind it
SMALL = (
    *(
        "backbone=mobilenet_v3_small",
        "backbone.upto=block2",
        "data.image_size=32",
        "data.batch_size=12",
        "data.num_workers=0",
    ),
    *("backbone.weights=null", "trainer=cpu", "trainer.precision=32-true", "logger=none"),
    *("head=mlp", "head.dropout=0.5", "aug.mix.mixup_alpha=0.2", "finetune.ema=0.9", "finetune.head_epochs=1"),
    *("trainer.max_epochs=4", "checkpoint.every_n_steps=4"),
)


class CrashError(Exception):
    """Stands for a power cut."""


@pytest.fixture(autouse=True)
def best_epoch(monkeypatch):
    """Let one epoch be the best, whatever was measured."""
    badness = RunRecorder._badness

    def first_this(self, row):
        return abs(row["epoch"] - BEST), *badness(self, row)

    monkeypatch.setattr(RunRecorder, "_badness", first_this)


@pytest.fixture(scope="module")
def begun(photos, tmp_path_factory):
    """A finished run, without a refit."""
    with pytest.MonkeyPatch.context() as patch:
        best_epoch.__wrapped__(patch)
        run = tmp_path_factory.mktemp("begun") / "run"
        train(compose([f"data.root={photos}", *SMALL, f"run_dir={run}"]))
    return run


@pytest.fixture
def run(begun, tmp_path):
    """A copy of it."""
    return Path(shutil.copytree(begun, tmp_path / "run"))


def weights(file: Path) -> dict[str, torch.Tensor]:
    return torch.load(file, weights_only=True)["state_dict"]


def same(some: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return some.keys() == other.keys() and all(torch.equal(some[name], other[name]) for name in some)


def command(photos: Path, run: Path, *more: str):
    return compose([f"data.root={photos}", *SMALL, f"run_dir={run}", "refit=true", *more])


def test_it_is_the_same_training_on_the_images_of_both(photos, begun, tmp_path, monkeypatch):
    """As a run is at that epoch whose train folder holds them all; whether at once, later, or after a crash."""
    both = tmp_path / "both"
    shutil.copytree(photos, both)
    for file in (both / "val").rglob("*.png"):  # sorted behind those of train
        shutil.copyfile(file, both / "train" / file.parent.name / f"val_{file.name}")
    train(command(both, tmp_path / "oracle", "refit=false"))
    expected = weights(tmp_path / "oracle/checkpoints/best.ckpt")

    runs = {name: tmp_path / name for name in ("at once", "later", "crashed")}
    metrics = train(command(photos, runs["at once"]))
    for name in ("later", "crashed"):
        shutil.copytree(begun, runs[name])
    train(command(photos, runs["later"]))
    save, saved = LastCheckpoint.save, []

    def save_and_crash(self, trainer):
        save(self, trainer)
        saved.append(self.run.last.name)
        if len(saved) == 3:  # inside an epoch of the second phase
            raise CrashError

    with monkeypatch.context() as patch:
        patch.setattr(LastCheckpoint, "save", save_and_crash)
        with pytest.raises(CrashError):
            train(command(photos, runs["crashed"]))
    assert set(saved) == {"refit_last.ckpt"}
    train(command(photos, runs["crashed"]))

    plain = RunDirectory(begun)
    for path in runs.values():
        own = RunDirectory(path)
        assert same(weights(own.refit), expected)
        assert own.record["refit"] == {"epochs": 3, "steps": 15, "images": 54, "chosen_by": "val/acc"}
        assert own.status == "finished"
        timeless = {key: value for key, value in own.metrics().items() if key != "fit_seconds"}
        assert timeless == {key: plain.metrics()[key] for key in timeless}
        assert same(weights(own.best), weights(plain.best))
        assert [row["val/loss"] for row in own.history()] == [row["val/loss"] for row in plain.history()]
        assert not [*own.checkpoints.glob("refit_*")]
        first, second = own.history(), own.refitting.history()
        assert [row["epoch"] for row in second] == ["0", "1", "2"]
        assert not any(key.startswith("val/") for key in second[0])
        assert [row["phase"] for row in second] == [row["phase"] for row in first[:3]]
    monkeypatch.setattr("tlab.train.fit", None)
    assert train(command(photos, runs["at once"])) == metrics
    assert train(command(photos, runs["at once"], "refit=false")) == metrics


def test_it_is_what_is_used_and_its_metrics_are_not(photos, run, capsys, caplog):
    before = RunDirectory(run).metrics()
    train(command(photos, run))
    own = RunDirectory(run)
    trained = load_trained(run)
    assert trained.checkpoint == own.used == own.refit
    assert same(trained.module.state_dict(), weights(own.refit))
    image = photos / "test/red/00.png"
    (some,), (other,) = tlab.load(run).predict(image), tlab.load(own.best).predict(image)
    assert some.probabilities != other.probabilities
    asked = ("num_workers=0", "accelerator=cpu")
    found = evaluate(compose([f"run={run}", *asked], "evaluate"))
    assert "checkpoint: " in (printed := capsys.readouterr().out)
    assert "refit.ckpt" in printed
    assert found["test/loss"] != pytest.approx(own.metrics()["test/loss"], abs=1e-6)
    assert own.metrics() == before
    assert "was trained on val too" not in caplog.text
    evaluate(compose([f"run={run}", "split=val", *asked], "evaluate"))
    assert "refit.ckpt was trained on val too" in caplog.text
    caplog.clear()
    evaluate(compose([f"run={run}", "split=val", f"data.root={photos}", *asked], "evaluate"))
    assert "refit.ckpt was trained on val too" in caplog.text
    training = training_data(trained).samples("train")
    assert {sample.path.parts[-3] for sample in training} == {"train", "val"}
    of_before = evaluate(compose([f"run={own.best}", "split=val", *asked], "evaluate"))
    assert of_before["val/loss"] == pytest.approx(before["val/loss"], rel=1e-4)
    more = {"again": str(photos / "test")}
    again = train(command(photos, run, as_override("data.tests", more)))
    assert again["test/again/acc"] == before["test/acc"]
    comparison = compare_runs(run.parent)
    assert comparison.settings[0].values == {0: before["val/acc"]}
    assert any("1 of 1 refitted" in note for note in comparison.notes)


def test_a_run_whose_refit_has_not_ended_counts_as_it_was_before(photos, run, monkeypatch, caplog):
    own, before = RunDirectory(run), RunDirectory(run).metrics()
    history = own.history_file.read_text()
    with monkeypatch.context() as patch:
        for error in (KeyboardInterrupt, CrashError):
            patch.setattr(LastCheckpoint, "save", lambda *_, error=error: (_ for _ in ()).throw(error))
            with pytest.raises((SystemExit, CrashError)):
                train(command(photos, run))
    for status in ("failed", "running"):  # as a killed one leaves it
        own.update(status=status)
        comparison = compare_runs(run.parent)
        assert comparison.settings[0].values == {0: before["val/acc"]}
        assert [one.status for one in comparison.runs] == ["finished"]
        assert any("1 of 1 not refitted yet" in note for note in comparison.notes)
    (model,) = load_ensemble(run.parent).models
    assert model.trained.checkpoint == own.best
    assert f"Not refitted yet, so it is best.ckpt that predicts: {run}" in caplog.text
    fits = []
    fit = L.Trainer.fit
    monkeypatch.setattr(L.Trainer, "fit", lambda self, *a, **k: fits.append(fit(self, *a, **k) or self.global_step))
    monkeypatch.setattr(L.Trainer, "test", None)
    assert train(command(photos, run)) == before
    assert fits == [12, 15], "the first one has had its steps before"
    assert own.history_file.read_text() == history
    assert own.is_refitted
    assert own.status == "finished"
    assert not any("not refitted" in note for note in compare_runs(run.parent).notes)


def test_a_run_that_is_not_to_be_refitted_after_all_is_finished(photos, run, monkeypatch):
    own, before = RunDirectory(run), RunDirectory(run).metrics()
    own.update(status="failed", error="interrupted", config=own.record["config"] | {"refit": True})
    shutil.copyfile(own.last, own.refitting.last)
    assert train(command(photos, run, "refit=false")) == before
    assert not own.refitting.last.exists()
    assert own.status == "finished"
    assert not any("not refitted" in note for note in compare_runs(run.parent).notes)


def test_a_schedule_that_goes_by_a_metric_has_the_same_rates(photos, tmp_path):
    falling = ("head=linear", "scheduler=plateau", "scheduler.patience=0", "scheduler.threshold=0.9")
    train(command(photos, tmp_path / "run", *falling, "finetune.head_epochs=0", "finetune.head_first=false"))
    own = RunDirectory(tmp_path / "run")
    first, second = ([row["lr/head"] for row in rows] for rows in (own.history(), own.refitting.history()))
    assert first[:3] == second
    assert len(set(second)) > 1


def test_a_solved_head_keeps_the_strength_of_its_penalty(photos, tmp_path, monkeypatch):
    options = [each for each in SMALL if each.startswith(("backbone", "data", "trainer", "logger"))]
    options += ["finetune=head", "aug=none", f"data.root={photos}", f"run_dir={tmp_path / 'run'}"]
    monkeypatch.setattr("tlab.models.logistic_regression.STRENGTHS", (0.3,))
    train(compose(options))
    monkeypatch.setattr("tlab.models.logistic_regression.STRENGTHS", (30.0,))
    train(compose([*options, "refit=true"]))
    own = RunDirectory(tmp_path / "run")
    ((first,), (second,)) = own.history(), own.refitting.history()
    assert first["l2"] == second["l2"] == "0.3"
    assert not same(weights(own.refit), weights(own.best))
    assert own.record["refit"]["epochs"] == 1


def test_phases_are_as_long_as_they_were():
    phases = {
        "head": {"train": "head", "epochs": 5, "until": {"monitor": "val/loss", "patience": 1}},
        "all": {"train": "all", "epochs": None},
    }
    state = RunState(build_plan(phases, 20, ("stem",), early_stopping=Until("val/acc", 3, mode="max")))
    state.records = [PhaseRecord("head", [], 0, 5, epochs=2), PhaseRecord("all", [], 2, 18, epochs=7)]
    told = {}
    for best in (1, 5, 8):
        state.best_epoch = best
        plan = state.plan_to_best()
        assert plan.epochs == plan.max_epochs == best + 1
        assert all(phase.until is None for phase in plan.phases)
        told[best] = [(phase.name, phase.epochs, phase.scheduled) for phase in plan.phases]
    assert told == {
        1: [("head", 2, 5)],
        5: [("head", 2, 5), ("all", 4, 18)],
        8: [("head", 2, 5), ("all", 7, 18)],
    }


def test_weights_that_were_replaced_are_refused(photos, run, tmp_path):
    file = tmp_path / "own.ckpt"
    shutil.copyfile(run / "checkpoints/last.ckpt", file)
    options = [
        each for each in SMALL if each.startswith(("backbone=", "backbone.upto", "data", "trainer", "logger"))
    ]
    options += ["finetune=head", "aug=none", f"backbone.weights={file}", "finetune.batchnorm=fixed"]
    options += [f"data.root={photos}", f"run_dir={tmp_path / 'own'}"]
    train(compose(options))
    shutil.copyfile(run / "checkpoints/best.ckpt", file)
    for _ in range(2):
        with pytest.raises(UserError, match=r"backbone\.weights=.* are not those that the run began with"):
            train(compose([*options, "refit=true"]))
    assert not RunDirectory(tmp_path / "own").is_refitted
    shutil.copyfile(run / "checkpoints/last.ckpt", file)
    train(compose([*options, "refit=true"]))
    assert RunDirectory(tmp_path / "own").is_refitted


def test_a_soup_and_a_search_are_refused(compose_run, tmp_path, run_entry_point, capsys, photos):
    from tlab.search.command_line import gather
    from tlab.tune import run as tune

    with pytest.raises(UserError, match=r"finetune\.soup=wise is mixed by validation images"):
        train(compose_run("finetune.soup=wise", "refit=true"))
    asked = (f"data.root={photos}", "study=s", f"dir={tmp_path}", "aug=none,light", "refit=true")
    with pytest.raises(SystemExit):
        run_entry_point(tune, "tune", *gather(asked))
    assert "refit=true is of no use in a search" in capsys.readouterr().err


def test_a_run_whose_checkpoints_are_gone_begins_anew(photos, tmp_path):
    options = [each for each in SMALL if each.startswith(("backbone", "data", "trainer", "logger"))]
    options += ["finetune=head", "aug=none", f"data.root={photos}", f"run_dir={tmp_path / 'run'}", "refit=true"]
    train(compose(options))
    own = RunDirectory(tmp_path / "run")
    first = weights(own.refit)
    for file in (own.last, own.previous, own.refit):
        file.unlink(missing_ok=True)
    with pytest.raises(UserError, match=r"last\.ckpt is gone, which its refit needs"):
        train(compose(options))
    own.update(status="failed")
    own.refit.write_bytes(b"of other weights")
    train(compose(options))
    assert same(weights(own.refit), first)


def test_callbacks_that_need_a_logger_are_left_out(photos, tmp_path, caplog):
    names = ("LearningRateMonitor", "DeviceStatsMonitor")
    options = [each for each in SMALL if each.startswith(("backbone", "data", "trainer"))]
    options += ["finetune=head", "aug=none", f"data.root={photos}", f"run_dir={tmp_path / 'run'}", "refit=true"]
    options += [f"callbacks.{name}={{_target_: lightning.pytorch.callbacks.{name}}}" for name in names]
    with caplog.at_level("INFO"):
        train(compose([*options, "logger=csv"]))
    assert f"refit: without {', '.join(names)} of callbacks" in caplog.text
    assert sum("random init" in record.message for record in caplog.records) == 1
    assert RunDirectory(tmp_path / "run").is_refitted
