"""Starting processes, and what becomes of them: results, mistakes, signals, sweeps."""

import json
import os
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hydra.utils import instantiate

from tlab.core.errors import UserError
from tlab.core.hardware import cpu_count
from tlab.core.lazy_imports import INHERITED
from tlab.core.processes import (
    ProcessError,
    first_process_first,
    from_all_processes,
    from_first_process,
    run_in_processes,
)
from tlab.data.sources.folder import ImageIndex
from tlab.data.sources.samples import Sample, Samples
from tlab.finetuning.ddp import verify_same_images
from tlab.runs.graceful_stop import MOST_STEPS, GracefulStop, StopSignals
from tlab.train import train


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What two processes saw who did what is below, one after the other; and what was left of it here."""
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT), INHERITED in os.environ
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("OMP_NUM_THREADS")
        seen = run_in_processes(_look_around, (), 2, "gloo")
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT), INHERITED in os.environ) == before
    return {name: [each[name] for each in seen] for name in seen[0]}


def _end_at_a_signal():
    """Get Ctrl-C while Python shuts down: a parent that is killed may send its signal more than once."""
    weakref.finalize(_end_at_a_signal, os.kill, os.getpid(), signal.SIGINT)


def test_a_signal_while_a_process_ends_is_not_answered_with_a_traceback(capfd):
    run_in_processes(_end_at_a_signal, (), 1, "gloo")
    assert "Traceback" not in capfd.readouterr().err


def test_one_more_ctrl_c_while_the_command_ends_is_not_answered_with_a_traceback(tmp_path):
    program = (
        "import atexit, os, signal, sys, time\n"
        "from tlab.command import run_command\n"
        "atexit.register(lambda: (os.kill(os.getpid(), signal.SIGINT), time.sleep(9)))\n"
        "run_command(lambda config: None, 'compare')\n"
    )
    arguments = [f"hydra.run.dir={tmp_path}", "sweep=outputs"]
    ended = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (-signal.SIGINT, "")


def _look_around():
    mine = {
        "threads": torch.get_num_threads(),
        "deferring": any(type(finder).__module__ == "tlab.core.lazy_imports" for finder in sys.meta_path),
        "answer": from_first_process(lambda: os.environ["RANK"]),
        "error": _error_of(lambda: from_first_process(_fail_in_first)),
        "mistake": _error_of(lambda: from_first_process(lambda: instantiate({"_target_": "tlab.none"}))),
        "error alone": _error_of(_enter_alone),
        "all": from_all_processes(os.environ["RANK"]),
        "images": _error_of(_find_other_images),
        "stop": _stop_one(),
    }
    everyone = [None, None]
    torch.distributed.all_gather_object(everyone, mine)
    return everyone


def _error_of(call):
    try:
        call()
    except Exception as error:
        return type(error).__name__, str(error).splitlines()[-1]
    return None


def _fail_in_first():
    assert os.environ["RANK"] == "0"
    return 1 / 0


def _enter_alone():
    with first_process_first():
        _fail_in_first()


def _find_other_images():
    samples = tuple(Sample(f"/data/{number}.jpg", 0) for number in range(5 - int(os.environ["RANK"])))
    verify_same_images(ImageIndex(Path("/data"), ("a",), {"train": Samples(samples)}))


def _stop_one():
    """Train until a signal that only the second process gets; the first one is the slower one.

    Returns:
        When they stopped and saved, with which code, and how many exchanges there were.
    """
    saved, exchanges, exchange = [], [], torch.distributed.all_reduce
    trainer = SimpleNamespace(
        world_size=2,
        is_global_zero=os.environ["RANK"] == "0",
        accumulate_grad_batches=2,
        is_last_batch=False,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.distributed, "all_reduce", lambda *args: (exchanges.append(args), exchange(*args)))
        try:
            with StopSignals() as signals:
                stop = GracefulStop(signals, SimpleNamespace(save=lambda trainer: saved.append(batch)))
                stop.on_train_start(trainer, None)
                for batch in range(3000):
                    time.sleep(0.001 if trainer.is_global_zero else 0.0)
                    if batch == 500 and not trainer.is_global_zero:
                        signal.raise_signal(signal.SIGTERM)
                    stop.on_train_batch_end(trainer, None, None, None, batch)
        except SystemExit as end:
            return saved, end.code, len(exchanges)
    return None


def test_every_process_defers_heavy_imports(seen):
    assert seen["deferring"] == [True, True]


def test_every_process_has_its_share_of_the_cores_and_the_first_ones_answers(seen):
    assert seen["threads"] == [max(1, cpu_count() // 2)] * 2
    assert seen["answer"] == ["0", "0"]
    assert seen["all"] == [["0", "1"]] * 2


def test_an_error_of_the_first_process_reaches_those_that_wait_for_its_word(seen):
    zero = "division by zero"
    for name in ("error", "error alone"):
        assert seen[name] == [("ZeroDivisionError", zero), ("ProcessError", f"ZeroDivisionError: {zero}")]
    (kind, _), (others, words) = seen["mistake"]
    assert (kind, others) == ("InstantiationException", "UserError")
    assert "tlab.none" in words


def test_processes_that_find_other_images_refuse_them_alike(seen):
    (kind, words), other = seen["images"]
    assert (kind, words) == tuple(other)
    assert kind == "UserError"
    assert "data.root=/data" in words
    assert "process 1 has other images (train 4" in words


def test_a_signal_that_one_process_gets_stops_both_after_the_same_step(seen):
    (saved, code, exchanges), other = seen["stop"]
    assert tuple(other) == (saved, code, exchanges)
    (batch,) = saved
    assert 500 <= batch <= 500 + 2 * MOST_STEPS + 2
    assert batch % 2 == 1  # no gradients are pending
    assert code == 128 + signal.SIGTERM
    assert exchanges <= 50  # in 250 steps or more


def test_a_mistake_of_one_process_is_the_runs(capfd):
    """The other one waits for it meanwhile, and fails for another reason."""
    with pytest.raises(UserError, match=r"^lower optimizer\.lr$") as error:
        run_in_processes(_fail, ("mistake",), 2, "gloo")
    assert isinstance(error.value.__cause__, ProcessError)  # its traceback, for debug=true
    assert "in _fail" in str(error.value.__cause__)
    printed = capfd.readouterr()
    assert printed.out + printed.err == ""


@pytest.mark.slow
@pytest.mark.parametrize(("how", "words"), [("crash", "one of the run's processes failed"), ("kill", "by SIGKILL")])
def test_other_ends_of_a_process(how, words):
    with pytest.raises(UserError if how == "kill" else ProcessError, match=words) as error:
        run_in_processes(_fail, (how,), 2, "gloo")
    if how == "crash":
        assert str(error.value).endswith("ZeroDivisionError: division by zero")


def _fail(how):
    if os.environ["RANK"] == "0":
        torch.distributed.barrier()
    if how == "mistake":
        raise UserError("lower optimizer.lr")
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    print(1 / 0)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["trainer.strategy=fsdp"], r"trainer\.strategy=fsdp is not possible.*take trainer=ddp"),
        (["trainer.strategy=dp"], r"trainer\.strategy=dp is not one of auto, ddp"),
        (["trainer.sync_batchnorm=true"], r"trainer\.sync_batchnorm=true needs GPUs"),
        (["trainer.sync_batchnorm=true", "trainer.devices=1"], r"trainer\.sync_batchnorm=true says nothing of one"),
    ],
)
def test_what_is_refused_before_a_process_starts(compose_run, overrides, words):
    with pytest.raises(UserError, match=words):
        train(compose_run("trainer=ddp", "trainer.accelerator=cpu", *overrides))


def test_more_gpus_than_there_are_is_refused(compose_run, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match=r"trainer\.devices=2 asks for more than is here \(cuda: 1\)"):
        train(compose_run("trainer=ddp", "trainer.accelerator=gpu"))


def test_torchrun_is_refused(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    with pytest.raises(UserError, match="without torchrun"):
        run_in_processes(_look_around, (), 2, "gloo")


def command(photos, *arguments):
    quick = [
        "data.image_size=32",
        "data.num_workers=0",
        "backbone.weights=null",
        "data.batch_size=6",
        "trainer=ddp",
    ]
    small = ["trainer.accelerator=cpu", "trainer.precision=32-true", "logger=none", f"data.root={photos}"]
    return [sys.executable, "-m", "tlab.train", *quick, *small, *arguments]


def processes_of(run):
    """Return the ids of the processes that a run's commands have started and that are still there."""
    found = []
    for status in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"TLAB_TEST_RUN={run}".encode() in status.read_bytes().split(b"\0"):
                found.append(int(status.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_a_sweep_leaves_ordinary_run_directories(photos, tmp_path):
    arguments = ["-m", "seed=0,1", "finetune=head", "trainer.max_epochs=1", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    result = subprocess.run(command(photos, *arguments), check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert result.stdout.count("epoch   1/1") == 2
    assert result.stdout.count("random initialization") == 2
    runs = sorted(file.parent for file in (tmp_path / "sweep").rglob("run.json"))
    assert [run.name for run in runs] == ["seed=0", "seed=1"]
    for run in runs:
        names = {".hydra", "checkpoints", "history.csv", "metrics.json", "run.json", "train.log"}
        names |= {"confusion_test.csv", "confusion_val.csv", "data.csv", "output.txt"}
        assert {file.name for file in run.iterdir()} - {".lock"} == names
        assert json.loads((run / "run.json").read_text())["status"] == "finished"
        assert "sweep.dir" not in (run / ".hydra/overrides.yaml").read_text()
        assert "trainer=ddp" in (run / ".hydra/overrides.yaml").read_text()


@pytest.mark.slow
def test_a_mistake_in_the_processes_is_one_sentence_and_exit_code_2(photos, tmp_path):
    arguments = ["optimizer.lr=1e30", "scheduler=none", "trainer.max_epochs=9", f"hydra.run.dir={tmp_path / 'run'}"]
    result = subprocess.run(command(photos, *arguments), check=False, capture_output=True, text=True)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("tlab: train/loss became ")
    assert "Traceback" not in result.stdout
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert (record["status"], record["error"].split(":")[0]) == ("failed", "UserError")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes where Linux lists them")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR2, signal.SIGKILL])
def test_no_process_outlives_the_command(photos, tmp_path, number):
    arguments = ["trainer.max_epochs=500", f"hydra.run.dir={tmp_path / 'run'}"]
    environment = {**os.environ, "TLAB_TEST_RUN": str(tmp_path)}
    process = subprocess.Popen(
        command(photos, *arguments),
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (tmp_path / "run/checkpoints/last.ckpt").exists():
        assert process.poll() is None
        time.sleep(0.05)
    assert len(processes_of(tmp_path)) >= 3
    process.send_signal(number)
    _, printed = process.communicate(timeout=60)
    deadline = time.monotonic() + 60
    while processes_of(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_of(tmp_path) == []
    assert "Traceback" not in printed
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["status"] == ("running" if number == signal.SIGKILL else "failed")
    if number != signal.SIGKILL:
        assert printed.count("resumes it") == 1
