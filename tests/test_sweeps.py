"""Sweeps as they are typed: the same command goes on, failures are recorded."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from forked_command import ForkedCommand, run_forked
from tlab.runs.unique_directory import ClaimRunDirectory, is_named_by_time, reserve_directory

QUICK = [
    *("backbone.upto=layer1", "backbone.weights=null", "data.image_size=32", "data.batch_size=12"),
    *("data.num_workers=0", "trainer=cpu", "trainer.precision=32-true", "trainer.max_epochs=1"),
    *("finetune=head", "head.solver=sgd"),
    *("logger=none", "aug=none"),
]
JOBLIB = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
PLACES = [pytest.param([], id="here"), pytest.param(JOBLIB, id="joblib", marks=pytest.mark.slow)]


def command(photos: Path, directory: Path, *overrides: str) -> list[str]:
    places = [f"data.root={photos}", f"hydra.sweep.dir={directory}"]
    return [sys.executable, "-m", "tlab.train", "-m", *places, *QUICK, *overrides]


def sweep(photos: Path, directory: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """Give the command in a process of its own, from which others can be forked."""
    return subprocess.run(command(photos, directory, *overrides), check=False, capture_output=True, text=True)


def sweep_alone(photos: Path, directory: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """Give the command where all of its runs take place in one process."""
    return run_forked("tlab.train", *command(photos, directory, *overrides)[3:])


def records(directory: Path) -> dict[str, dict]:
    """run.json by `<name>/seed=<n>`."""
    files = directory.glob("*/seed=*/run.json")
    return {file.parent.relative_to(directory).as_posix(): json.loads(file.read_text()) for file in files}


def statuses(directory: Path) -> dict[str, str]:
    return {name: record["status"] for name, record in records(directory).items()}


def result(run: Path) -> tuple[dict[str, float], list[dict[str, str]]]:
    """Metrics and history without what the clock says."""
    timed = ("seconds", "images_per_second", "fit_seconds")
    metrics = json.loads((run / "metrics.json").read_text())
    with (run / "history.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return (
        {name: value for name, value in metrics.items() if name not in timed},
        [{name: value for name, value in row.items() if name not in timed} for row in rows],
    )


@pytest.mark.parametrize("launcher", PLACES)
def test_the_same_command_passes_over_what_is_finished_tries_again_what_failed_and_adds_what_is_new(
    photos, tmp_path, launcher
):
    give = sweep if launcher else sweep_alone
    directory = tmp_path / "sweep"
    obstacle = directory / "default/seed=1/checkpoints"  # a file where a folder should be
    obstacle.parent.mkdir(parents=True)
    obstacle.touch()
    first = give(photos, directory, "seed=0,1", *launcher)
    assert first.returncode == 1, first.stderr
    assert statuses(directory) == {"default/seed=0": "finished", "default/seed=1": "failed"}
    assert "1 of 2 runs are finished, 1 failed" in first.stdout
    assert re.search(r"default seed=1  (FileExists|NotADirectory)Error", first.stdout)
    assert "Traceback" in (directory / "default/seed=1/traceback.txt").read_text()
    assert json.loads((directory / "sweep.json").read_text())["constants"]["finetune"] == "head"

    obstacle.unlink()
    before = {file: file.stat().st_mtime_ns for file in (directory / "default/seed=0").rglob("*") if file.is_file()}
    second = give(photos, directory, "seed=0,1", "optimizer.weight_decay=1e-4,0", *launcher)
    assert second.returncode == 0, second.stderr
    names = ["optimizer.weight_decay=0/seed=0", "optimizer.weight_decay=0.0001/seed=0"]
    assert set(names) <= set(statuses(directory))
    third = give(photos, directory, "seed=0,1", *launcher)
    assert third.returncode == 0, third.stderr
    assert set(statuses(directory).values()) == {"finished"}
    assert len(statuses(directory)) == 6
    assert not (directory / "default/seed=1/traceback.txt").exists()
    assert "1 of 2 runs are finished and stay as they are" in third.stdout
    after = {file: file.stat().st_mtime_ns for file in (directory / "default/seed=0").rglob("*") if file.is_file()}
    assert after == before


def test_runs_in_other_processes_are_the_same_runs(photos, tmp_path):
    for name, launcher in {"here": [], "there": JOBLIB}.items():
        give = sweep if launcher else sweep_alone
        done = give(photos, tmp_path / name, "seed=0,1", "optimizer.lr=0.1,0.01", *launcher)
        assert done.returncode == 0, done.stderr
    assert statuses(tmp_path / "here") == statuses(tmp_path / "there")
    for name in statuses(tmp_path / "here"):
        assert result(tmp_path / "here" / name) == result(tmp_path / "there" / name)
        for place in ("here", "there"):
            assert re.search(r"epoch +1/1", (tmp_path / place / name / "output.txt").read_text())
    assert not re.search(r"epoch +1/1", done.stdout)  # what the runs say is in their directories


def test_a_sweep_prints_a_line_for_each_run_and_the_remarks_on_the_images_once(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "photos/train/red/broken.png").write_bytes(b"no image")
    done = sweep_alone(tmp_path / "photos", tmp_path / "sweep", "seed=0,1,2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Skipping 1 file") == 1
    line = r"^default seed=(\d)  val/acc .*%  test/acc .*%  [\d.]+ s  \((\d) of 3 done"
    lines = re.findall(line, done.stdout, flags=re.MULTILINE)
    assert lines == [("0", "1"), ("1", "2"), ("2", "3")]
    assert not re.search(r"epoch +1/1|trains now|images/s ", done.stdout.partition("Sweep")[0])
    printed = (tmp_path / "sweep/default/seed=2/output.txt").read_text()
    assert all(words in printed for words in ("trains now", "Skipping 1 file", "best checkpoint"))


@pytest.mark.parametrize("launcher", PLACES)
def test_a_stopped_sweep_saves_and_says_which_command_goes_on(photos, tmp_path, launcher):
    directory = tmp_path / "sweep"
    longer = ("seed=0,1,2", "trainer.max_epochs=300", "data.batch_size=2", *launcher)
    process = subprocess.Popen(
        command(photos, directory, *longer), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    at_once = 2 if launcher else 1
    while len(list(directory.glob("default/seed=*/history.csv"))) < at_once:  # each has trained, so each can save
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, printed = process.communicate(timeout=90)
    assert process.returncode == 130
    assert "Traceback" not in printed
    assert "the sweep is stopped, 0 of 3 runs are finished; it is resumed by" in printed
    assert f"python -m tlab.train -m data.root={photos} hydra.sweep.dir={directory}" in printed
    assert "hydra.run.dir" not in printed
    begun = {name: record["error"] for name, record in records(directory).items()}
    assert set(begun.values()) == {"interrupted"}
    assert all((directory / name / "checkpoints/last.ckpt").exists() for name in begun)


@pytest.mark.slow
def test_a_run_that_kills_its_process_is_noted_and_the_others_go_on(photos, tmp_path):
    """The kernel kills a process like that when memory runs out."""
    directory = tmp_path / "sweep"
    process = started(photos, directory, "seed=0,1,2", "trainer.max_epochs=40", *JOBLIB)
    history, killed = directory / "default/seed=0/history.csv", set()
    while len(killed) < 2 and process.poll() is None:
        if history.exists() and (pid := owner(directory / "default/seed=0/.lock")) and pid not in killed:
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
            history.unlink()
        time.sleep(0.02)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 1, printed
    assert statuses(directory) == {
        "default/seed=0": "failed",
        "default/seed=1": "finished",
        "default/seed=2": "finished",
    }
    assert "default seed=0  its process ended without a word" in printed


@pytest.mark.slow
def test_a_process_that_is_stopped_takes_no_other_run_and_another_one_does(photos, tmp_path):
    directory = tmp_path / "sweep"
    process = started(photos, directory, "seed=0,1,2,3", "trainer.max_epochs=40", *JOBLIB)
    while not (directory / "default/seed=0/history.csv").exists():
        assert process.poll() is None
        time.sleep(0.02)
    stopped = owner(directory / "default/seed=0/.lock")
    assert stopped is not None
    os.kill(stopped, signal.SIGTERM)
    owners = set()
    while process.poll() is None:
        owners |= {owner(lock) for lock in directory.glob("default/seed=[123]/.lock")}
        time.sleep(0.02)
    printed, _ = process.communicate()
    assert stopped not in owners
    assert process.returncode == 1, printed
    expected = {"default/seed=0": "failed", **{f"default/seed={seed}": "finished" for seed in (1, 2, 3)}}
    assert statuses(directory) == expected
    assert "default seed=0  stopped" in printed


def started(photos, directory, *overrides: str) -> subprocess.Popen[str]:
    """A sweep under way; what it prints, also as mistakes, is one text."""
    whole = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command(photos, directory, *overrides), **whole, text=True)


def owner(lock: Path) -> int | None:
    """Process id of the one that holds a lock, from the kernel's list."""
    inode = str(lock.stat().st_ino)
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if fields[1] == "POSIX" and fields[5].split(":")[-1] == inode:
            return int(fields[4])
    return None


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["aug=havy,none"], "aug=havy is not a choice of the group aug"),
        (["optimizer.lr=0.1,-1"], "optimizer.lr=-1 is too small"),
        (["data.bach_size=2,3"], "data.bach_size is not a key of the configuration"),
    ],
)
def test_a_mistake_in_any_value_shows_before_anything_runs(photos, tmp_path, overrides, words):
    refused = sweep_alone(photos, tmp_path / "sweep", *overrides, "seed=0,1")
    assert refused.returncode == 2
    assert refused.stderr.strip().splitlines() == [refused.stderr.strip()]
    assert words in refused.stderr
    assert not (tmp_path / "sweep").exists()


def test_a_yaml_file_or_images_that_have_changed_make_another_run(photos, tmp_path):
    """A finished run is passed over by digests of both, so one of other settings or images is not."""
    photos = shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "conf/experiment").mkdir(parents=True)
    experiment = tmp_path / "conf/experiment/mine.yaml"
    experiment.write_text("# @package _global_\noptimizer:\n  weight_decay: 0.0\n")
    options = ("experiment=mine", "seed=0,1", f"hydra.searchpath=[file://{tmp_path / 'conf'}]")
    assert sweep_alone(photos, tmp_path / "sweep", *options).returncode == 0
    experiment.write_text("# @package _global_\n# as before\noptimizer:\n  weight_decay: 0.0\n")
    assert sweep_alone(photos, tmp_path / "sweep", *options).returncode == 0
    experiment.write_text("# @package _global_\noptimizer:\n  weight_decay: 0.5\n")
    refused = sweep_alone(photos, tmp_path / "sweep", *options)
    assert refused.returncode == 1
    assert "holds a run with another optimizer.weight_decay" in refused.stdout
    experiment.write_text("# @package _global_\noptimizer:\n  weight_decay: 0.0\n")
    (photos / "train/red/00.png").unlink()
    refused = sweep_alone(photos, tmp_path / "sweep", *options)
    assert refused.returncode == 1
    assert refused.stdout.count("failed: ") == refused.stdout.count("1 gone (train/red/00.png)") // 2 == 2
    anyway = sweep_alone(photos, tmp_path / "sweep", *options, "resume=anyway")
    assert anyway.returncode == 0
    assert "2 of 2 runs are finished" in anyway.stdout
    assert set(statuses(tmp_path / "sweep").values()) == {"finished"}


def test_launches_in_the_same_second_get_a_directory_each(tmp_path):
    wanted = tmp_path / "runs/2026-01-01_12-00-00"
    assert [reserve_directory(wanted).name for _ in range(3)] == [
        wanted.name,
        f"{wanted.name}-2",
        f"{wanted.name}-3",
    ]


@pytest.mark.parametrize("flag", [[], ["-m"]], ids=["run", "sweep"])
def test_two_commands_at_once_share_no_directory(photos, tmp_path, flag):
    clock = f"{tmp_path}/${{now:at-%%S}}"  # a clock that stands still
    place = f"hydra.sweep.dir='{clock}'" if flag else f"hydra.run.dir='{clock}'"
    both = [ForkedCommand("tlab.train", *flag, f"data.root={photos}", *QUICK, place) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["at-%S", "at-%S-2"]
    assert len(list(tmp_path.rglob("metrics.json"))) == 2


@pytest.mark.parametrize(
    ("overrides", "run", "swept"),
    [
        ([], True, True),
        (["hydra.run.dir=here"], False, True),
        (["hydra.run.dir='here/${now:%Y-%m-%d}'"], False, True),
        (["sweep=mine"], True, False),
        (["hydra.sweep.dir=there"], True, False),
    ],
)
def test_only_directories_named_by_the_clock_are_claimed(overrides, run, swept, tmp_path, monkeypatch):
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode

    from tlab.config.hydra import conf_dir, prepare_hydra

    monkeypatch.chdir(tmp_path)
    prepare_hydra([])
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        config = loader.load_configuration("train", ["data=demo", *overrides], RunMode.RUN)
    assert is_named_by_time(config, "hydra.run.dir") is run
    assert is_named_by_time(config, "hydra.sweep.dir") is swept
    if not run:
        (tmp_path / "here").mkdir()  # an earlier command's
        ClaimRunDirectory().on_run_start(config)
        assert [path.name for path in tmp_path.iterdir()] == ["here"]
