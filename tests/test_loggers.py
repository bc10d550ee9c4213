"""What the loggers besides TensorBoard keep of a run, read back from where they put it."""

import csv
import json
import struct
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from omegaconf import OmegaConf, open_dict

from tlab.core.error_messages import user_message
from tlab.core.errors import UserError
from tlab.runs.loggers import outlasted, short_name
from tlab.train import train


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("outputs/multirun/a/aug=none/seed=0", "aug=none/seed=0"),
        ("outputs/runs/2026-11-21_resnet18_lp_ft", "2026-11-21_resnet18_lp_ft"),
    ],
)
def test_short_names(path, name):
    assert short_name(path) == name


def test_csv_has_every_value_besides_tensorboard(compose_run, tmp_path):
    cfg = compose_run("logger=csv")
    with open_dict(cfg):
        choices = {"aug": "light", "finetune": "lp_ft"}
        cfg.hydra = {"overrides": {"task": [], "hydra": []}, "runtime": {"choices": choices}}
    metrics = train(cfg)
    run = tmp_path / "run"
    assert list(run.glob("events.out.tfevents.*"))
    with (run / "csv/version_0/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    values = [float(row["val/loss"]) for row in rows if row["val/loss"]]
    assert len(values) == 2
    assert metrics["val/loss"] in [pytest.approx(value) for value in values]
    assert float(rows[-1]["final/test/acc"]) == metrics["test/acc"]
    shown = OmegaConf.load(run / "csv/version_0/hparams.yaml")
    assert (shown.aug, shown.finetune) == ("light", "lp_ft")


@pytest.mark.slow
def test_mlflow_keeps_one_entry_for_a_run_that_goes_on(compose_run, tmp_path):
    from mlflow import MlflowClient

    store = f"sqlite:///{tmp_path / 'store' / 'mlflow.db'}"
    run = tmp_path / "mine"
    overrides = (
        "logger=mlflow",
        f"logger.mlflow.tracking_uri={store}",
        "trainer.max_epochs=3",
        "optimizer.lr=0.01",
    )
    stopped = train(compose_run(*overrides, "logger.mlflow.experiment_name=other", run_dir=tmp_path / "other"))
    assert stopped["epochs"] == 3
    metrics = train(compose_run(*overrides, run_dir=run))
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "status": "running"}))  # killed before it could say so
    train(compose_run(*overrides, run_dir=run))
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("tlab").experiment_id
    (entry,) = client.search_runs([experiment])
    assert entry.info.run_name == "mine"
    assert entry.info.status == "FINISHED"
    assert entry.data.params["optimizer.lr"] == "0.01"
    assert entry.data.params["backbone.name"] == "resnet18"
    assert entry.data.metrics["final/test/acc"] == metrics["test/acc"]
    curve = {point.step: point.value for point in client.get_metric_history(entry.info.run_id, "val/loss")}
    assert len(curve) == 3
    assert metrics["val/loss"] in [pytest.approx(value) for value in curve.values()]


def wandb_records(file: Path) -> list:
    """The records of a `.wandb` file: a LevelDB log of blocks of 32 KiB after a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts, records = file.read_bytes(), 7, b"", []
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # too little left of the block for another header
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            records.append(Record.FromString(parts))
            parts = b""
    return records


def finished_wandb_records(file: Path) -> list:
    """Return the records once the last one is there: wandb's own process writes them."""
    from google.protobuf.message import DecodeError

    deadline, records = time.monotonic() + 60, []
    while time.monotonic() < deadline:
        with suppress(DecodeError):  # of a record that is half written
            records = wandb_records(file)
        if records and records[-1].WhichOneof("record_type") in ("exit", "footer"):
            return records
        time.sleep(0.1)
    raise AssertionError([record.WhichOneof("record_type") for record in records])


def test_wandb_keeps_its_files_in_the_run_offline(compose_run, tmp_path, monkeypatch, capfd):
    import wandb

    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    results = {}
    for name, seed in {"a": 0, "b": 1}.items():
        results[name] = train(compose_run("logger=wandb", f"seed={seed}", run_dir=tmp_path / name))
    wandb.finish()
    assert "WARNING" not in capfd.readouterr().err
    for name, metrics in results.items():
        (file,) = (tmp_path / name / "wandb").glob("offline-run-*/run-*.wandb")
        records = finished_wandb_records(file)
        runs = [record.run for record in records if record.WhichOneof("record_type") == "run"]
        assert (runs[0].display_name, runs[0].project) == (name, "tlab")
        updates = [item for record in records for item in record.config.update]
        config = {item.key: json.loads(item.value_json) for item in updates}
        assert config["backbone.name"] == "resnet18"
        logged: dict[str, list] = {}
        for item in (item for record in records for item in record.history.item):
            logged.setdefault(item.key or "/".join(item.nested_key), []).append(json.loads(item.value_json))
        assert len(logged["val/loss"]) == 2
        assert metrics["val/loss"] in [pytest.approx(loss) for loss in logged["val/loss"]]
        assert logged["final/test/acc"] == [metrics["test/acc"]]


@pytest.mark.parametrize(("logger", "package"), [("mlflow", "mlflow-skinny"), ("wandb", "wandb")])
def test_a_package_that_is_not_there_is_named(compose_run, tmp_path, monkeypatch, logger, package):
    monkeypatch.setitem(sys.modules, logger, None)  # what importing it meets where it is not installed
    with pytest.raises((UserError, InstantiationException)) as error:
        train(
            compose_run(f"logger={logger}", f"data.root={tmp_path}")
        )  # before it is seen that this holds no image
    said = user_message(error.value)
    assert said.startswith(f"logger={logger} needs")
    assert said.endswith(f"pip install {package}")
    assert not list((tmp_path / "run").glob("checkpoints/*"))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("logger=wandb", "logger.wandb.mode=quiet"), "logger.wandb.mode=quiet is not one of offline, online"),
        (
            ("logger=mlflow", "logger.mlflow.tracking_uri=nosuch://x"),
            "logger.mlflow.tracking_uri=nosuch://x cannot",
        ),
    ],
)
def test_mistakes_in_a_logger(compose_run, overrides, words):
    with pytest.raises((UserError, InstantiationException)) as error:
        train(compose_run(*overrides))
    assert words in user_message(error.value)


@pytest.mark.parametrize("choice", ["csv", "mlflow", "wandb"])
def test_tensorboard_is_there_with_every_logger(compose_run, choice):
    node = compose_run(f"logger={choice}").logger
    assert list(node) == ["tensorboard", choice]
    assert isinstance(instantiate(node.tensorboard), TensorBoardLogger)


def test_a_run_outlasts_its_loggers(caplog):
    class Refusing(Logger):
        name, version, asked = "refusing", "0", 0

        def log_metrics(self, metrics, step=None):
            self.asked += 1
            raise ConnectionError("no route to host")

        def log_hyperparams(self, params):
            raise ValueError("a parameter of more than 500 characters")

    logger = outlasted(Refusing(), "mine")
    for step in range(3):
        logger.log_metrics({"val/acc": 0.5}, step)
    logger.log_hyperparams({"a": 1})
    logger.finalize("success")
    assert logger.asked == 1
    (record,) = caplog.records
    assert "mine" in record.message
    assert "no route to host" in record.message
