"""Weights between the end of the head phase and the end of a run: finetune.soup=wise."""

import pytest
import torch
from torch.optim.swa_utils import update_bn

from tlab.assembly.build import build_data
from tlab.config.hydra import compose
from tlab.core.errors import UserError
from tlab.evaluate import evaluate
from tlab.runs.checkpoints import LastCheckpoint
from tlab.runs.directory import RunDirectory
from tlab.runs.load import load_trained
from tlab.train import train

WISE = (
    *("finetune.soup=wise", "finetune.head_epochs=2", "trainer.max_epochs=4", "aug=none"),
    *("optimizer=adamw", "optimizer.lr=0.003"),
)


def weights(run, name):
    return torch.load(run / f"checkpoints/{name}.ckpt", weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def soup(compose_quick, tmp_path_factory):
    """A finished run with a soup, and the same run without."""
    runs = {name: tmp_path_factory.mktemp(name) for name in ("wise", "plain")}
    for name, run in runs.items():
        train(compose_quick(*WISE, *(["finetune.soup=null"] if name == "plain" else []), run_dir=run))
    return runs


def test_the_best_on_validation_is_kept_measured_and_used(soup):
    run, plain = RunDirectory(soup["wise"]), RunDirectory(soup["plain"])
    record, metrics = run.record["soup"], run.metrics()
    tried = record["candidates"]
    alphas = [step / 10 for step in range(11)]
    assert [each["alpha"] for each in tried if each["batchnorm"] == "between"] == pytest.approx(alphas)
    assert [each["alpha"] for each in tried if each["batchnorm"] == "estimated"] == pytest.approx(alphas[1:-1])
    best = min(tried, key=lambda each: (-each["val/acc"], each["val/loss"]))
    assert (record["alpha"], record["batchnorm"]) == (best["alpha"], best["batchnorm"])
    assert len({each["val/loss"] for each in tried}) == 20
    assert (metrics["val/acc"], metrics["val/loss"]) == (best["val/acc"], best["val/loss"])
    rows, ended = run.history(), plain.metrics()
    for candidate, acc, loss in (
        (tried[0], float(rows[1]["val/acc"]), float(rows[1]["val/loss"])),  # the last epoch of the head phase
        (tried[-1], ended["val/acc"], ended["val/loss"]),
    ):
        assert (candidate["val/acc"], candidate["val/loss"]) == (pytest.approx(acc), pytest.approx(loss, rel=1e-4))
    own = load_trained(run.path).module.state_dict()
    assert all(torch.equal(own[name], value) for name, value in weights(run.path, "soup").items())
    assert load_trained(run.path).uncertainty is not None
    asked = ["num_workers=0", "accelerator=cpu"]
    for split in ("val", "test"):
        measured = evaluate(compose([f"run={run.path}", f"split={split}", *asked], "evaluate"))
        assert measured[f"{split}/loss"] == pytest.approx(metrics[f"{split}/loss"], rel=1e-4)
    told = torch.load(run.soup, weights_only=True)["tlab"]
    assert (told["temperature"], told["calibration"]["nll"]) == (
        run.record["temperature"],
        pytest.approx(metrics["val/loss"], rel=1e-4),  # of the soup's own logits
    )
    right = sum(int(row["count"]) for row in run.confusion("val") if row["label"] == row["prediction"])
    assert right / 18 == pytest.approx(metrics["val/acc"])


def test_where_the_best_epoch_is_of_the_head_phase_it_lies_between_that_and_the_last(compose_run, tmp_path):
    train(compose_run(*WISE, "optimizer.lr=0.1", "backbone.upto=null"))
    run = RunDirectory(tmp_path / "run")
    rows, tried = run.history(), run.record["soup"]["candidates"]
    best = max(rows, key=lambda row: (float(row["val/acc"]), -float(row["val/loss"])))
    assert best["phase"] == "head"
    for candidate, row in ((tried[0], best), (tried[-1], rows[-1])):
        assert candidate["val/loss"] == pytest.approx(float(row["val/loss"]), rel=1e-3)


def test_what_was_there_stays(soup):
    rows = {name: RunDirectory(run).history() for name, run in soup.items()}
    lasting = {name: [{k: v for k, v in row.items() if "second" not in k} for row in rows[name]] for name in soup}
    assert lasting["wise"] == lasting["plain"]
    for name in ("best", "last"):
        mine, plain = weights(soup["wise"], name), weights(soup["plain"], name)
        assert all(torch.equal(mine[key], plain[key]) for key in plain)
    assert not (soup["plain"] / "checkpoints/head.ckpt").exists()


def test_it_lies_between_with_the_statistics_of_the_training_images(soup, monkeypatch):
    """Wherever the best alpha of these few images lies: as if 0.5 had been."""
    from tlab.finetuning import soup as of_soup

    monkeypatch.setattr(of_soup, "ALPHAS", (0.5,))
    run = load_trained(soup["wise"])
    cfg = compose([f"data.root={run.config.data.root}", "data.image_size=32", "data.num_workers=0", "run_dir=x"])
    data = build_data(cfg)
    data.setup()
    head, end = weights(soup["wise"], "head"), weights(soup["wise"], "best")
    found, chosen, _ = of_soup.wise_soup(run.module, data, head, end, "32-true")
    assert (chosen.alpha, chosen.batchnorm) == (0.5, "estimated")  # the run's own lag behind after so few steps
    trained = [name for name in head if name.endswith("weight") and not torch.equal(head[name], end[name])]
    assert {name.split(".")[1] for name in trained} == {"backbone", "head"}
    for name in trained:
        torch.testing.assert_close(found[name], (head[name] + end[name]) / 2)
    images = torch.cat([batch.image for batch in data.loader("train")])
    update_bn([images], run.module.net)
    for name, value in run.module.state_dict().items():
        if "running" in name:
            torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "when", [pytest.param("training", marks=pytest.mark.slow), "soup", pytest.param("test", marks=pytest.mark.slow)]
)
def test_a_killed_run_goes_on_to_the_same(soup, compose_run, tmp_path, monkeypatch, when):
    def stop(*_, **__):
        raise RuntimeError("killed")

    saves = []

    def stop_later(self, trainer, save=LastCheckpoint.save):
        save(self, trainer)
        saves.append(trainer.current_epoch)
        if len(saves) == 2:
            stop()

    place = {
        "training": ("tlab.runs.checkpoints.LastCheckpoint.save", stop_later),
        "soup": ("tlab.runs.checkpoints.write_soup", stop),
        "test": ("lightning.pytorch.Trainer.test", stop),
    }[when]
    with monkeypatch.context() as patch:
        patch.setattr(*place)
        with pytest.raises(RuntimeError, match="killed"):
            train(compose_run(*WISE))
    metrics = train(compose_run(*WISE))
    expected = RunDirectory(soup["wise"]).metrics()
    assert metrics | {"fit_seconds": 0} == expected | {"fit_seconds": 0}
    mine, whole = weights(tmp_path / "run", "soup"), weights(soup["wise"], "soup")
    assert all(torch.equal(mine[name], whole[name]) for name in whole)


@pytest.mark.parametrize("plan", ["full", "head", "last"])
def test_a_plan_without_a_head_phase_before_others_is_refused(compose_run, plan):
    options = ["finetune.head_epochs=null"] if plan == "head" else ["finetune.head_epochs=0"]
    with pytest.raises(UserError, match=r"finetune\.soup=wise lies between .* give finetune=lp_ft"):
        train(compose_run(f"finetune={plan}", *options, "finetune.soup=wise"))
