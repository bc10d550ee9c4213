"""A search from the command line: what it leaves, how it goes on, and its mistakes."""

import csv
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from torchvision.models import ResNet18_Weights

from forked_command import ForkedCommand, run_forked
from tlab.core.locks import FileLock
from tlab.runs.pruning import Pruning
from tlab.search.pruner import StudyPruner
from tlab.train import train

QUICK = (
    *("data.image_size=32", "data.batch_size=12", "data.num_workers=0", "backbone.weights=null", "trainer=cpu"),
    *("trainer.precision=32-true", "logger=none", "scheduler=none", "backbone.upto=layer1"),
)
RATE = "optimizer.lr=tag(log, interval(1e-4, 0.1))"


def tune(cwd: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    result = run_forked("tlab.tune", *arguments, cwd=cwd)
    assert not check or result.returncode == 0, result.stderr
    return result


def records(study: Path) -> dict[str, dict]:
    files = sorted(study.glob("trial=*/seed=*/run.json"))
    return {file.parent.relative_to(study).as_posix(): json.loads(file.read_text()) for file in files}


def history(run: Path) -> list[dict[str, str]]:
    """The epochs so far, without what depends on the clock."""
    if not (run / "history.csv").exists():
        return []
    with (run / "history.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in rows]


def trials(study: Path) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name=study.name, storage=f"sqlite:///{study / 'study.db'}").get_trials()


@pytest.fixture(scope="module")
def searched(photos, tmp_path_factory) -> tuple[Path, str]:
    """A search over four settings, two of which fail, with two seeds; of six trials some repeat others."""
    cwd = tmp_path_factory.mktemp("search")
    own = ("study=s", "seed=0,1", "budget.trials=6", "pruner=none", "sampler=random")
    space = ("finetune=head,full", "optimizer.lr=0.01,1e30")
    result = tune(cwd, *own, f"data.root={photos}", *QUICK, "trainer.max_epochs=1", *space)
    return cwd / "outputs/tune/s", result.stdout


def test_each_trial_is_an_ordinary_run(searched):
    study, _ = searched
    found = records(study)
    run = study / next(name for name, record in found.items() if record["status"] == "finished")
    assert json.loads((run / "run.json").read_text())["choices"]["optimizer"] == "sgd"
    assert {"metrics.json", "history.csv", "run.json", "train.log", "checkpoints"} <= {
        f.name for f in run.iterdir()
    }
    overrides = (run / ".hydra/overrides.yaml").read_text().splitlines()
    assert "- optimizer.lr=0.01" in overrides
    assert f"- {run.name}" in overrides
    assert "epoch   1/1" in (run / "train.log").read_text()


def test_the_value_is_the_mean_over_the_seeds(searched):
    study, _ = searched
    trained = [trial for trial in trials(study) if "values" in trial.user_attrs]
    assert trained
    for trial in trained:
        runs = [study / f"trial={trial.number:04d}" / f"seed={seed}/metrics.json" for seed in (0, 1)]
        values = [json.loads(file.read_text())["val/acc"] for file in runs]
        assert trial.user_attrs["values"] == values
        assert trial.value == pytest.approx(sum(values) / 2)


def test_a_trial_that_fails_is_told_and_the_others_go_on(searched):
    study, printed = searched
    states = [trial.state.name for trial in trials(study)]
    failed = states.index("FAIL")
    assert len(states) == 6
    assert "COMPLETE" in states
    assert re.search(
        rf"^trial {failed} failed: train/loss became .* lower optimizer\.lr", printed, flags=re.MULTILINE
    )
    assert "NotFinite" in (study / f"trial={failed:04d}/seed=0/traceback.txt").read_text()


def test_settings_that_were_tried_are_not_trained_again(searched):
    study, printed = searched
    assert len({record["config"]["optimizer"]["lr"] for record in records(study).values()}) == 2
    finished = {
        tuple(line for line in (study / name / ".hydra/overrides.yaml").read_text().splitlines())
        for name, record in records(study).items()
        if record["status"] == "finished"
    }
    assert len(finished) == sum(record["status"] == "finished" for record in records(study).values())
    assert re.search(r"^trial \d  .*\(as trial \d\)", printed, flags=re.MULTILINE)


def test_it_ends_with_the_best_and_the_command_that_repeats_it(searched, tmp_path):
    study, printed = searched
    best = max((t for t in trials(study) if t.state.name == "COMPLETE"), key=lambda trial: trial.value)
    assert f"best: trial {best.number}, val/acc {best.value:.4f}, mean of 2 seeds" in printed
    (line,) = re.findall(r"^again: +(.+)$", printed, flags=re.MULTILINE)
    command = shlex.split(line)
    assert command[:4] == ["python", "-m", "tlab.train", "-m"]
    assert command[-1] == "seed=0,1"
    one = [*command[4:-1], "seed=1", f"hydra.run.dir={tmp_path}"]
    assert run_forked("tlab.train", *one).returncode == 0
    first = next(t.number for t in trials(study) if t.params == best.params)
    again = json.loads((tmp_path / "metrics.json").read_text())
    before = json.loads((study / f"trial={first:04d}/seed=1/metrics.json").read_text())
    assert again["val/loss"] == before["val/loss"]


def test_it_does_not_go_on_over_other_images(searched, photos, tmp_path):
    study = shutil.copytree(searched[0], tmp_path / "s")
    fewer = shutil.copytree(photos, tmp_path / "fewer")
    for file in (study / "study.json", *study.glob("trial=*/seed=*/.hydra/overrides.yaml")):
        file.write_text(file.read_text().replace(str(photos), str(fewer)))
    (fewer / "train/red/00.png").unlink()
    again = ("study=s", f"dir={study}", "budget.trials=7")
    refused = tune(tmp_path, *again, check=False)
    assert refused.returncode == 2
    assert refused.stderr.startswith("tlab: ")
    assert "1 gone (train/red/00.png)" in refused.stderr
    assert "study=NAME" in refused.stderr
    assert len(trials(study)) == 6
    anyway = tune(tmp_path, *again, "resume=anyway")
    assert "1 gone" in anyway.stdout
    assert len(trials(study)) == 7


def test_the_page_needs_no_network(searched):
    page = (searched[0] / "search.html").read_text(encoding="utf-8")
    assert page.count("Plotly.newPlot(") >= 3
    assert "python -m tlab.train -m" in page
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", page)


def test_its_name_is_enough_and_a_study_that_is_done_trains_nothing(searched):
    study, printed = searched
    before = {file: file.stat().st_mtime_ns for file in study.glob("trial=*/seed=*/run.json")}
    result = tune(study.parents[2], "study=s")
    assert {file: file.stat().st_mtime_ns for file in study.glob("trial=*/seed=*/run.json")} == before
    assert result.stdout.splitlines()[-1] == printed.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["data=demo", "aug=none,light"], "study is not set; name the search with study=NAME"),
        (["study=m", "data=demo", "aug=none"], "there is nothing to search; give keys several values"),
        (["study=m", "aug=none,light"], "data.root is not set; say where the images are with data.root=DIR"),
        (["study=m", "data=demo", "aug=none,heavy"], "aug=heavy is not a choice of the group aug"),
        (["study=m", "data=demo", "optimzer.lr=interval(0, 1)"], "did you mean 'optimizer.lr=interval(0, 1)'"),
        (
            ["study=m", "data=demo", "optimizer.lr=interval(-1, 1)"],
            "optimizer.lr=-1.0 is too small; give optimizer.lr=0 or more",
        ),
        (["study=m", "data=demo", "optimizer.lr=interval(0"], "cannot be read; write KEY=VALUE"),
        (["study=m", "data=demo", "aug=none,light", "budget.trials=0"], "budget.trials=0 is too small"),
        (["study=m", "data=demo", "aug=none,light", "budget.trails=3"], "did you mean budget.trials=3"),
        (
            ["study=m", "data=demo", "aug=none,light", "pruner=best"],
            "pruner=best is not a choice of the group",
        ),
        (["study=m", "data=demo", "aug=none,light", "-m"], "tlab.tune searches by itself; leave -m out"),
        (["study=m", "data=demo", "aug=none,light", "storage=here"], "storage=here is no storage"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_mistakes_end_in_one_sentence_before_anything_is_trained(tmp_path, arguments, sentence):
    result = tune(tmp_path, *arguments, check=False)
    assert result.returncode == 2
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.rglob("run.json"))


def test_another_study_of_that_name_is_refused(searched, photos):
    study, _ = searched
    own = [f"data.root={photos}", *QUICK, "trainer.max_epochs=1", "finetune=head,last", "optimizer.lr=0.01,1e30"]
    result = tune(study.parents[2], "study=s", "seed=0,1", *own, check=False)
    assert result.returncode == 2
    assert "study=s is another one, it differs in finetune=head,last; give another study=NAME" in result.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job", "study=a", "aug=none,light"]], ids=" ".join)
def test_help_and_configuration_import_no_torch(arguments, tmp_path):
    code = (
        "import sys, runpy\n"
        "try: runpy.run_module('tlab.tune', run_name='__main__')\n"
        "finally: print(sorted({'torch', 'optuna', 'plotly', 'scipy'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=tmp_path)
    assert result.stdout.splitlines()[-1] == "[]", result.stderr
    assert "study" in result.stdout
    assert all(len(line) <= 120 for line in result.stdout.splitlines())


def hopeless_trial(tmp_path: Path) -> StudyPruner:
    """The pruner of a trial after one whose accuracies no other can have."""
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    pruner = optuna.pruners.MedianPruner(n_startup_trials=1, n_warmup_steps=1)
    study = optuna.create_study(study_name="s", storage=storage, direction="maximize", pruner=pruner)
    first = study.ask()
    for epoch in range(9):
        first.report(1.5, epoch)
    study.tell(first, 1.5)
    return StudyPruner(study.ask())


@pytest.mark.parametrize(
    "devices", [1, pytest.param(2, marks=pytest.mark.slow)], ids=["one process", "two processes"]
)
def test_a_pruned_run_ends_in_order_and_can_go_on(compose_run, tmp_path, devices):
    pruner = hopeless_trial(tmp_path)
    cfg = compose_run("trainer.max_epochs=4", f"trainer.devices={devices}")
    metrics = train(cfg, ["finetune=lp_ft"], Pruning("val/acc", pruner))
    run = tmp_path / "run"
    record = json.loads((run / "run.json").read_text())
    assert (record["status"], [phase["epochs"] for phase in record["phases"]]) == ("pruned", [1, 1])
    assert (run / ".hydra/overrides.yaml").read_text() == "- finetune=lp_ft\n"
    assert not (run / "metrics.json").exists()
    assert metrics["val/acc"] == max(float(row["val/acc"]) for row in history(run))
    assert len(history(run)) == 2
    assert (run / "checkpoints/last.ckpt").exists()
    again = train(cfg, ["finetune=lp_ft"], Pruning("val/acc", pruner))  # it was killed before it could tell
    assert len(history(run)) == 2
    assert again["val/acc"] == metrics["val/acc"]
    assert train(cfg)["epochs"] == 4
    assert [row["epoch"] for row in history(run)] == ["0", "1", "2", "3"]


SLOWLY = (
    *QUICK[:-1],  # with all of a backbone
    *("backbone=mobilenet_v3_small", "backbone.weights=bundled", "finetune=head", "features.cache=off"),
    *("trainer.max_epochs=8", "checkpoint.every_n_steps=1"),
    *(RATE, "optimizer.weight_decay=0,1e-4"),
)


def epochs_begun(study: Path) -> int:
    return sum(len(file.read_text().splitlines()) - 1 for file in study.glob("trial=*/seed=0/history.csv"))


def stopped_in_a_trial(cwd: Path, *arguments: str) -> tuple[int, str]:
    """Stop a search after three epochs; returns its exit code and what it printed to standard error."""
    process = ForkedCommand("tlab.tune", "study=s", *arguments, cwd=cwd)
    deadline = time.monotonic() + 300
    while epochs_begun(cwd / "outputs/tune/s") < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, printed = process.communicate(timeout=120)
    return process.returncode, printed


def test_a_worker_of_another_launcher_ends_as_its_run_does(photos, tmp_path):
    """So that Slurm queues a job again, which ended with the code of its signal."""
    workers = ["workers=2", "hydra/launcher=basic", "budget.trials=4"]
    code, printed = stopped_in_a_trial(tmp_path, f"data.root={photos}", *SLOWLY, *workers)
    assert code == 128 + signal.SIGTERM, printed
    assert [trial.state.name for trial in trials(tmp_path / "outputs/tune/s")] == ["RUNNING"]


def test_a_trial_that_is_stopped_goes_on_where_it_was(photos, tmp_path):
    study = tmp_path / "outputs/tune/s"
    code, printed = stopped_in_a_trial(tmp_path, f"data.root={photos}", *SLOWLY, "budget.trials=2")
    assert code == 128 + signal.SIGTERM
    assert "python -m tlab.tune study=s resumes it" in printed
    (stopped,) = [name for name, record in records(study).items() if record["status"] != "finished"]
    rows = history(study / stopped)
    assert 3 <= len(rows) < 8
    result = tune(tmp_path, "study=s")
    assert "trial 0 is resumed" in result.stdout
    assert (
        json.loads((study / "study.json").read_text())["pruner"]["n_warmup_steps"] == 5
    )  # two thirds of the epochs
    assert history(study / stopped)[: len(rows)] == rows
    assert [trial.state.name for trial in trials(study)] == ["COMPLETE", "COMPLETE"]
    assert list(trials(study)[0].intermediate_values) == list(range(8))


@pytest.mark.slow
def test_workers_save_when_the_command_is_stopped(photos, tmp_path):
    study = tmp_path / "outputs/tune/s"
    code, printed = stopped_in_a_trial(tmp_path, f"data.root={photos}", *SLOWLY, "workers=2")
    assert code == 128 + signal.SIGTERM
    assert "stopping; the trials under way save first" in printed
    assert "python -m tlab.tune study=s resumes it" in printed
    stopped = [name for name, record in records(study).items() if record["error"] == "interrupted"]
    assert stopped
    rows = {name: history(study / name) for name in stopped}
    assert all(FileLock(study / name).acquire(wait=False) for name in ("trial=0000/.lock", "trial=0001/.lock"))
    begun = len(trials(study))
    result = tune(tmp_path, "study=s", f"budget.trials={begun}", "workers=2")
    assert f"Search s: {begun} trials, {begun} finished" in result.stdout
    for name, before in rows.items():
        assert history(study / name)[: len(before)] == before


@pytest.mark.slow
def test_thirty_trials_of_two_workers_killed_three_times(photos, tmp_path):
    """SIGKILL to all processes at once: no trial is lost, none begins anew, each epoch is reported once."""
    study = tmp_path / "outputs/tune/s"
    own = ["pruner.n_warmup_steps=0", "checkpoint.monitor=val/loss"]
    first = ["study=s", f"data.root={photos}", *SLOWLY, *own, "workers=2"]
    before: dict[str, list[dict[str, str]]] = {}
    for aim in (4, 25, 50):
        command = [sys.executable, "-m", "tlab.tune", *(first if aim == 4 else ["study=s", "workers=2"])]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(command, cwd=tmp_path, start_new_session=True, **quiet)
        deadline = time.monotonic() + 500
        while epochs_begun(study) < aim:
            assert process.poll() is None, "the search ended before the moment of the kill"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for name in records(study):
            before[name] = history(study / name)
        running = [trial for trial in trials(study) if trial.state.name == "RUNNING"]
        assert 1 <= len(running) <= 2
    result = tune(tmp_path, "study=s", "workers=2")
    assert "Search s: 30 trials" in result.stdout
    ended = trials(study)
    assert [trial.number for trial in ended] == list(range(30))
    states = [trial.state.name for trial in ended]
    assert set(states) == {"COMPLETE", "PRUNED"}
    assert states.count("PRUNED") >= 10
    for trial in ended:
        run = study / f"trial={trial.number:04d}/seed=0"
        rows, killed = history(run), before.get(f"{run.parent.name}/{run.name}", [])
        assert rows[: len(killed)] == killed
        assert [row["epoch"] for row in rows] == [str(step) for step in trial.intermediate_values]
        assert [float(row["val/loss"]) for row in rows] == list(trial.intermediate_values.values())
        assert (run / "metrics.json").exists() == (trial.state.name == "COMPLETE")


def test_weights_that_cannot_be_fetched_are_told_before_the_study_is_begun(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("tlab.models.packaged_weights.packaged_file", lambda: None)
    monkeypatch.setattr(ResNet18_Weights.DEFAULT.value, "url", "http://127.0.0.1:9/resnet18.pth")
    options = (
        f"data.root={photos}",
        *(each for each in QUICK if not each.startswith("backbone.")),
        "budget.trials=1",
    )
    asked = ("study=s", *options, "trainer.max_epochs=1", "finetune=head", RATE)
    refused = tune(tmp_path, *asked, check=False)
    assert refused.returncode == 2
    (said,) = refused.stderr.splitlines()
    assert said.count("needs the file http") == 1
    assert not [*tmp_path.rglob("study.*")]
    words = shlex.split(said.partition("need no network: ")[2])
    assert words[:4] == ["python", "-m", "tlab.tune", "study=s"]
    tune(tmp_path, *words[3:])
    (record,) = records(tmp_path / "outputs/tune/s").values()
    assert record["status"] == "finished"
