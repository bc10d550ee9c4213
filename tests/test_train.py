"""One run end to end, and the directory it leaves."""

import csv
import json
import re
import warnings
from pathlib import Path

import pytest
import torch
from hydra.errors import InstantiationException

from forked_command import run_forked
from tlab.assembly.build import build_optimizer
from tlab.assembly.run_log import log_length
from tlab.core.error_messages import user_message
from tlab.core.errors import UserError
from tlab.finetuning.plan import build_plan
from tlab.train import train

QUICK = (
    *("data.image_size=32", "backbone.weights=null", "backbone.upto=layer1", "trainer=cpu", "logger=none"),
    "trainer.max_epochs=1",
)


def history(run: Path) -> list[dict[str, str]]:
    with (run / "history.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint, weights_only=True)["state_dict"]


def test_what_a_run_leaves(compose_run, tmp_path):
    metrics = train(compose_run("logger=tensorboard"))
    run = tmp_path / "run"
    assert json.loads((run / "metrics.json").read_text()) == metrics
    assert {"val/acc", "val/loss", "val/f1", "test/acc", "test/loss", "test/f1", "epochs", "fit_seconds"} <= set(
        metrics
    )
    assert all(isinstance(value, int | float) for value in metrics.values())
    record = json.loads((run / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["seed"] == 0
    assert record["class_names"] == ["blue", "green", "red"]
    assert record["device"] == "cpu"
    assert record["data"]["images"] == {"train": 36, "val": 18, "test": 18}
    assert {"python", "torch", "lightning", "tlab"} <= set(record["versions"])
    assert [(p["name"], p["trained"], p["epochs"]) for p in record["phases"]] == [
        ("head", ["head"], 1),
        ("all", ["stem", "layer1", "head"], 1),
    ]
    head, rest = record["phases"]
    assert rest["digests_before"] == head["digests_after"]
    rows = history(run)
    assert [(row["epoch"], row["phase"]) for row in rows] == [("0", "head"), ("1", "all")]
    assert {"train/loss", "val/loss", "val/acc", "lr/head", "lr/stem", "seconds", "images_per_second"} <= set(
        rows[0]
    )
    assert float(rows[0]["lr/stem"]) == 0 < float(rows[1]["lr/stem"])
    best = max(rows, key=lambda row: float(row["val/acc"]))
    assert metrics["val/acc"] == float(best["val/acc"])
    assert metrics["val/loss"] == float(best["val/loss"])
    assert list(run.glob("events.out.tfevents.*"))
    assert sorted(file.name for file in (run / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]


def test_a_checkpoint_is_plain_data_with_all_that_prediction_needs(compose_run, tmp_path):
    train(compose_run("data.normalize=dataset", "data.resize=pad"))
    about = torch.load(tmp_path / "run/checkpoints/best.ckpt", weights_only=True)["tlab"]
    assert about["classes"] == ["blue", "green", "red"]
    assert (about["image_size"], about["resize"], about["precision"]) == (32, "pad", "32-true")
    assert about["mean"] != [0.485, 0.456, 0.406]
    assert about["config"]["backbone"]["name"] == "resnet18"


def test_the_same_seed_gives_the_same_run(compose_run, tmp_path):
    for name, overrides in {"a": [], "b": ["data.num_workers=1"], "c": ["seed=1"]}.items():
        train(compose_run(*overrides, run_dir=tmp_path / name))
    a, b, c = (weights(tmp_path / name / "checkpoints/last.ckpt") for name in "abc")
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert any(not torch.equal(a[key], c[key]) for key in a)


def test_the_record_is_of_the_whole_run_and_not_of_the_best_epoch(compose_run, tmp_path):
    """The highest loss counts as best here, and the colours are learnt at once: the best epoch is an early one."""
    metrics = train(compose_run("trainer.max_epochs=5", "checkpoint.monitor=val/loss", "checkpoint.mode=max"))
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert metrics["best_epoch"] < 4
    assert [(p["name"], p["epochs"]) for p in record["phases"]] == [("head", 1), ("all", 4)]


def test_a_finished_run_returns_its_result(compose_run, tmp_path, caplog):
    metrics = train(compose_run())
    written = (tmp_path / "run/history.csv").stat().st_mtime_ns
    assert train(compose_run("data.num_workers=1")) == metrics
    assert (tmp_path / "run/history.csv").stat().st_mtime_ns == written
    assert train(compose_run(f"data.root={tmp_path / 'gone'}")) == metrics
    assert "is finished: this is its result, though its images are gone" in caplog.text
    with pytest.raises(UserError, match="gone"):
        train(compose_run(f"data.root={tmp_path / 'gone'}", "refit=true"))


def test_a_run_shorter_than_its_command_says_so(compose_run, caplog):
    caplog.set_level("INFO")
    cfg, given = compose_run("trainer.max_epochs=9"), ["trainer.max_epochs=9"]
    phases = {"head": {"train": "head", "epochs": 3}, "all": {"train": "all", "epochs": 2}}
    log_length(cfg, given, build_plan(phases, 9, ["stem"]))
    assert caplog.messages.pop() == "trainer.max_epochs=9: the plan takes 5, since its phases have their own epochs"
    log_length(cfg, given, build_plan(phases | {"all": {"train": "all"}}, 9, ["stem"]).with_solved_heads())
    assert caplog.messages.pop() == "trainer.max_epochs=9: the plan takes 7, since the head is solved in one epoch"
    caplog.clear()
    log_length(cfg, given, build_plan({"all": {"train": "all"}}, 9, ["stem"]))
    log_length(cfg, [], build_plan(phases, 9, ["stem"]))
    assert not caplog.messages


@pytest.mark.parametrize(
    ("override", "words"),
    [("optimizer.lr=0.5", "another optimizer.lr"), ("resume=never", "already holds a run")],
)
def test_a_directory_with_another_run_is_left_alone(compose_run, tmp_path, override, words):
    train(compose_run())
    before = (tmp_path / "run/metrics.json").read_bytes()
    with pytest.raises(UserError, match=words.replace(".", r"\.")):
        train(compose_run(override))
    assert (tmp_path / "run/metrics.json").read_bytes() == before


def test_a_run_that_had_stopped_early_does_not_go_on(compose_run, tmp_path):
    """Nor does it mind the count of the callback that stopped runs in an earlier version."""
    overrides = ("trainer.max_epochs=8", "trainer.early_stopping=1")
    metrics = train(compose_run(*overrides))
    assert metrics["epochs"] < 8
    record = json.loads((tmp_path / "run/run.json").read_text())
    (tmp_path / "run/run.json").write_text(
        json.dumps({**record, "status": "running"})
    )  # killed before it could say so
    last = tmp_path / "run/checkpoints/last.ckpt"
    checkpoint = torch.load(last, weights_only=True)
    earlier = "RunEarlyStopping{'monitor': 'val/acc', 'mode': 'max'}"
    checkpoint["callbacks"][earlier] = {"wait_count": 1, "phase": "all"}
    torch.save(checkpoint, last)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = train(compose_run(*overrides))
    assert (again["epochs"], again["test/loss"]) == (metrics["epochs"], metrics["test/loss"])


def test_a_run_that_could_not_begin_leaves_its_directory_free(compose_run, tmp_path):
    with pytest.raises(UserError, match="lower optimizer"):
        train(compose_run("optimizer.lr=1e30", "scheduler=none"))
    assert train(compose_run())["epochs"] == 2


def test_a_refused_command_changes_nothing(photos, tmp_path):
    places = [f"data.root={photos}", f"hydra.run.dir={tmp_path / 'run'}", "finetune=head"]
    assert run_forked("tlab.train", *QUICK, *places).returncode == 0
    config = (tmp_path / "run/.hydra/config.yaml").read_bytes()
    assert b"trainer=cpu" in (tmp_path / "run/.hydra/overrides.yaml").read_bytes()
    refused = run_forked("tlab.train", *QUICK, *places, "optimizer.lr=0.5")
    assert (refused.returncode, refused.stderr.count("another optimizer.lr")) == (2, 1)
    assert (tmp_path / "run/.hydra/config.yaml").read_bytes() == config


def test_a_sweep_goes_on_after_a_run_that_fails(photos, tmp_path):
    places = [f"data.root={photos}", f"hydra.sweep.dir={tmp_path / 'sweep'}", "finetune=full", "scheduler=none"]
    places.append("+baseline.frozen=['finetune=head']")  # its place lies below a name with = and , in it
    result = run_forked("tlab.train", "-m", *QUICK, *places, "optimizer.lr=1e38,0.01")
    assert result.returncode == 1
    assert "1 of 2 runs are finished, 1 failed" in result.stdout
    records = {json.loads(file.read_text())["status"] for file in (tmp_path / "sweep").rglob("run.json")}
    assert records == {"failed", "finished"}
    (finished,) = (file.parent for file in (tmp_path / "sweep").rglob("seed=0/metrics.json"))
    assert (finished / "baselines/frozen/metrics.json").exists()
    evaluated = run_forked("tlab.evaluate", f"run={finished}", f"output={tmp_path / 'again.json'}")
    assert evaluated.returncode == 0, evaluated.stderr
    metrics, again = (json.loads(f.read_text()) for f in (finished / "metrics.json", tmp_path / "again.json"))
    assert again["test/loss"] == pytest.approx(metrics["test/loss"], abs=1e-6)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "checkpoint.monitor=val/typo",
            r"checkpoint\.monitor=val/typo is not a metric of this run; there are train/loss",
        ),
        ("checkpoint.monitor=val/acc_class/red", r"checkpoint\.monitor=val/acc_class/red is not a metric"),
        ("optimizer.momentum=0", r"optimizer cannot be built \(Nesterov momentum requires"),
        ("+optimizer.foo=1", r"optimizer cannot be built \(.*foo"),
        ("scheduler.warmup=abc", "scheduler cannot be built"),
        ("data.batch_size=1 backbone.upto=null", r"data\.batch_size=1 is too small to train here"),
        ("backbone.upto=layer9", r"backbone\.upto=layer9 is no stage of this backbone, choose one of stem, layer1"),
        ("finetune.phases.all.train=[layer9]", r"finetune\.phases\.all\.train names layer9"),
    ],
)
def test_mistakes_that_show_when_a_run_is_built(compose_run, override, words):
    with pytest.raises((UserError, InstantiationException)) as error:
        train(compose_run(*override.split()))
    assert re.search(words, user_message(error.value))


def test_a_failed_run_says_so(compose_run, tmp_path):
    with pytest.raises(UserError, match=r"train/loss became (nan|inf).*lower optimizer\.lr"):
        train(compose_run("optimizer.lr=1e30", "scheduler=none"))
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["status"] == "failed"
    assert "train/loss became" in record["error"]


def test_unreadable_files_are_listed_and_skipped(compose_run, photos, tmp_path):
    import shutil

    root = tmp_path / "odd"
    shutil.copytree(photos, root)
    (root / "train/red/empty.jpg").touch()
    (root / "val/blue/page.png").write_text("<html>not found</html>")
    (root / "train/red/notes.txt").write_text("no image")
    train(compose_run(f"data.root={root}"))
    with (tmp_path / "run/unreadable.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert sorted(Path(row["path"]).relative_to(root).as_posix() for row in rows) == [
        "train/red/empty.jpg",
        "val/blue/page.png",
    ]
    assert all(row["reason"] for row in rows)
    with pytest.raises(UserError, match=r"2 files unreadable.*data\.unreadable=skip"):
        train(compose_run(f"data.root={root}", "data.unreadable=error", run_dir=tmp_path / "strict"))


@pytest.mark.parametrize(
    "overrides",
    [
        ["aug=strong", "aug.mix.mixup_alpha=0.2", "aug.mix.cutmix_alpha=1.0", "loss.label_smoothing=0.1"],
        ["data.class_weights=true", "data.balanced=true", "optimizer=adamw", "scheduler=onecycle"],
        ["backbone.upto=layer2", "head=mlp", "data.normalize=none", "scheduler=plateau"],
        ["trainer.accumulate_grad_batches=2", "trainer.early_stopping=1"],
        ["trainer.precision=bf16-mixed", "trainer.gradient_clip_val=1.0", "finetune=full", "scheduler=step"],
        ["finetune=scratch", "finetune.backbone_lr_scale=0.5", "scheduler=none", "aug=trivialaugment"],
    ],
    ids=lambda overrides: overrides[0],
)
def test_options_together(compose_run, overrides):
    metrics = train(compose_run(*overrides))
    assert 0 <= metrics["val/acc"] <= 1
    assert metrics["epochs"] == 2


@pytest.mark.parametrize(
    ("overrides", "precision", "fused"),
    [
        ([], "32-true", True),
        (["optimizer=adamw"], "bf16-mixed", True),
        ([], "16-mixed", None),
        (["+optimizer.fused=false"], "32-true", False),
        (["optimizer._target_=torch.optim.RMSprop", "~optimizer.nesterov"], "32-true", None),
    ],
)
def test_the_optimiser_is_fused_where_torch_can(compose_run, overrides, precision, fused):
    optimizer = build_optimizer(compose_run(*overrides), precision)([{"params": [torch.zeros(2)]}])
    assert optimizer.param_groups[0].get("fused") is fused
