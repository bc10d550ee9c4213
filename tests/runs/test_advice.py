"""A run notes the advice that it was given, and whether what it measures keeps it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from test_resume import crashing
from tlab.config.hydra import compose
from tlab.config.overrides import of_baseline
from tlab.core.errors import UserError
from tlab.core.text import shell_command
from tlab.runs.advice import advice_of, advice_sentence, judged
from tlab.runs.directory import RunDirectory
from tlab.train import run as train_command
from tlab.train import train

QUICK = (
    *("data.image_size=32", "data.batch_size=12", "data.num_workers=0", "backbone.weights=null", "trainer=cpu"),
    *("backbone.upto=layer1", "trainer.precision=32-true", "trainer.max_epochs=2", "finetune=head"),
    *("head.solver=sgd", "logger=none", "checkpoint.every_n_steps=1"),
)


@pytest.fixture(scope="module")
def plain_run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A finished run that was given no advice."""
    run = RunDirectory(tmp_path_factory.mktemp("plain") / "run")
    train(compose([f"data.root={photos}", *QUICK, f"run_dir={run.path}"]))
    return run


@pytest.fixture
def advise(photos: Path, plain_run: RunDirectory, tmp_path: Path) -> Callable[..., Path]:
    """Write advice that expects what was measured, or as given."""

    def write(**changes: Any) -> Path:
        accuracy = plain_run.metrics()["val/acc"]
        advice = {
            "root": str(photos),
            "content": plain_run.record["data"]["content"],
            "expected": {"val/acc": {"mean": accuracy, "low": accuracy - 0.01, "high": accuracy + 0.01}},
            "plan": "head",
            "command": shell_command(["python", "-m", "tlab.train", f"data.root={photos}", *QUICK]),
        }
        file = tmp_path / "advice.json"
        file.write_text(json.dumps(advice | changes))
        return file

    return write


@pytest.fixture
def config(photos: Path, tmp_path: Path) -> Callable[..., Any]:
    return lambda *more: compose([f"data.root={photos}", *QUICK, f"run_dir={tmp_path / 'run'}", *more])


def test_a_run_notes_its_advice_and_whether_it_kept_it(advise, photos, tmp_path, run_entry_point, capsys):
    file, run = advise(), RunDirectory(tmp_path / "run")
    run_entry_point(
        train_command, "train", f"data.root={photos}", *QUICK, f"hydra.run.dir={run.path}", f"advice={file}"
    )
    advice = run.record["advice"]
    assert (advice["plan"], advice["file"], advice["departs_in"], advice["kept"]) == ("head", str(file), [], True)
    assert advice["measured"] == {"val/acc": run.metrics()["val/acc"]}
    assert advice_sentence(advice) in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("given_first", [True, False])
def test_a_run_resumes_with_advice_and_without_it(advise, config, plain_run, monkeypatch, tmp_path, given_first):
    given, run = f"advice={advise()}", RunDirectory(tmp_path / "run")
    first, then = ([given], []) if given_first else ([], [given])
    with monkeypatch.context() as patch, crashing(patch, 4):
        train(config(*first))
    assert run.has_begun
    assert ("advice" in run.record) == given_first
    same = {key: value for key, value in train(config(*then)).items() if key != "fit_seconds"}
    assert same == {key: value for key, value in plain_run.metrics().items() if key != "fit_seconds"}
    assert run.record["advice"]["kept"]


def test_a_trained_run_takes_no_advice(advise, config, plain_run, tmp_path, caplog):
    shutil.copytree(plain_run.path, tmp_path / "run")
    assert train(config(f"advice={advise()}")) == plain_run.metrics()
    assert "was trained without it" in caplog.text
    assert "advice" not in RunDirectory(tmp_path / "run").record


def test_advice_of_other_images_is_refused(advise, config, tmp_path, pasted, monkeypatch):
    file = advise(content="others", root="it's elsewhere")
    with monkeypatch.context() as patch:
        patch.setattr("tlab.train.adapt_batchnorm", lambda *_: pytest.fail("a long pass before the refusal"))
        refuse_other_images(file, config, pasted)
    assert "val/acc" in train(config())  # as the sentence says
    assert not RunDirectory(tmp_path / "run").record["advice"]


def refuse_other_images(file, config, pasted):
    with pytest.raises(UserError, match="of other images, those of it's elsewhere") as refused:
        train(config(f"advice={file}"))
    command = pasted(str(refused.value).partition("these: ")[2])
    assert command == ["python", "-m", "tlab.advise", f"data.root={config().data.root}"]


@pytest.mark.parametrize(
    "content",
    [
        None,
        "{",
        "[]",
        '{"content": "x", "root": "x", "command": "x", "expected": {"val/acc": {"low": 0.5, "high": NaN}}}',
        '{"content": "x", "root": "x", "command": "no.key=1", "expected": {"val/acc": {"low": 0.5, "high": 0.6}}}',
        '{"content": "x", "root": "x", "command": "a \'b=1", "expected": {"val/acc": {"low": 0.5, "high": 0.6}}}',
    ],
)
def test_advice_that_cannot_be_read_is_refused(config, tmp_path, content):
    file = tmp_path / "my advice.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=r"my advice.json.* (is damaged|cannot be read).*advice out") as refused:
        train(config(f"advice={file}"))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("overrides", "keys"),
    [
        (["seed=3", "trainer.accelerator=auto", "data.num_workers=1", "refit=true"], []),
        (["data.image_size=24", "finetune=full"], ["data.image_size", "finetune"]),
        (["backbone=vgg16", "backbone.upto=block1", "optimizer=adamw"], ["backbone", "optimizer"]),
    ],
)
def test_a_run_that_departs_from_its_advice_has_no_verdict(advise, config, plain_run, overrides, keys):
    cfg = config(f"advice={advise()}", *overrides)
    advice = advice_of(cfg, RunDirectory(Path(cfg.run_dir)))
    assert advice["departs_in"] == keys
    record, metrics = plain_run.record | {"advice": advice}, plain_run.metrics()
    told = judged(record, metrics)["advice"]
    assert told["kept"] is (None if keys else True)
    record["data"]["content"] = "others"  # resume=anyway
    other = judged(record, metrics)["advice"]
    assert (other["departs_in"], other["kept"]) == ([*keys, "its images"], None)
    assert judged(record | {"advice": other}, metrics)["advice"] == other


@pytest.mark.parametrize(("accuracy", "kept"), [(0.79, False), (0.8, True), (0.9, True), (0.91, False)])
def test_advice_is_kept_within_its_interval(accuracy, kept):
    record = {
        "advice": {"content": "x", "departs_in": [], "expected": {"val/acc": {"low": 0.8, "high": 0.9}}},
        "data": {"content": "x"},
    }
    told = judged(record, {"val/acc": accuracy})["advice"]
    assert told["kept"] == kept
    assert ("kept" if kept else "missed") in advice_sentence(told)


def test_advice_cannot_bring_yaml_files_of_its_own(advise, config, tmp_path):
    """`hydra.searchpath` in a file from anywhere: a choice that only its folder has is not found."""
    (tmp_path / "aug").mkdir()
    (tmp_path / "aug" / "theirs.yaml").write_text("train: []\nbatch: []\n")
    command = json.loads(advise().read_text())["command"]
    stranger = f"{command} hydra.searchpath=[file://{tmp_path}] +hydra/job_logging=x hydra.run.dir=elsewhere"
    cfg = config(f"advice={advise(command=stranger)}")
    assert advice_of(cfg, RunDirectory(Path(cfg.run_dir)))["departs_in"] == []
    with pytest.raises(UserError, match="is damaged"):
        train(config(f"advice={advise(command=f'{stranger} aug=theirs')}"))


def test_a_baseline_is_not_the_advised_run():
    assert of_baseline(["advice=a.json", "seed=1"], ["finetune=scratch"]) == ["seed=1", "finetune=scratch"]
