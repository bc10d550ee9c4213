"""One step of `gpu_check.py`, in a process of its own: `python benchmarks/gpu_check_job.py JOB.json`.

The file says what is to be done; the result is written beside it, as `JOB.done`.
"""

import json
import os
import signal
import statistics
import sys
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from speed_limits import seconds_per_step
from tlab.data.batch import Batch
from tlab.data.sources.demo.shapes import SHAPES
from tlab.finetuning.plan import HEAD
from tlab.models.autotune.precision import autocast
from tlab.models.classifier import POOL
from tlab.runs.checkpoints import LastCheckpoint
from tlab.runs.directory import RunDirectory
from tlab.runs.load import load_trained
from tlab_runs import run

NO_KERNEL = "does not have a deterministic implementation"
COLUMNS = ("run", "precision", "val/acc", "images/s", "alone", "ratio", "allocated GB", "reserved GB", "seconds")


class Size(NamedTuple):
    """How much is done.

    Attributes:
        images: Of each class, by split.
        pixels: Side of what the network sees.
        batch: Images.
        epochs: Of a run.
        head_epochs: Of the phase `head` of `lp_ft`.
        seconds: For which the network alone is timed.
    """

    images: dict[str, int]
    pixels: int
    batch: int
    epochs: int
    head_epochs: int
    seconds: float


FULL = Size({"train": 128, "val": 40}, 224, 64, 8, 2, 1.5)
QUICK = Size({"train": 4, "val": 2}, 32, 8, 3, 1, 0.1)


def network_alone(directory: Path, plan: str, precision: str, size: Size, device: torch.device) -> float:
    """Return images per second of training steps of a run's network, on a batch that stays where it is."""
    trained = load_trained(directory)
    module = trained.module.to(device).train()
    head_only = plan == "head"
    module.net.set_trainable({HEAD} if head_only else module.net.group_names)
    shape = (module.net.backbone.feature_dim,) if head_only else (3, size.pixels, size.pixels)
    image = torch.randint(256, (size.batch, *shape), dtype=torch.uint8, device=device)
    label = torch.zeros(size.batch, dtype=torch.long, device=device)
    batch = Batch(image.float() if head_only else image, label, label, POOL if head_only else "")
    parameters = [parameter for parameter in module.net.parameters() if parameter.requires_grad]
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "16-mixed")
    optimizer = torch.optim.SGD(parameters, lr=1e-4, momentum=0.9, fused=not scaler.is_enabled())

    def step() -> None:
        with autocast(device, precision):
            loss, _ = module.loss_of(module.net, batch)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    seconds_per_step(step, 10, device)  # chooses kernels, takes memory
    steps = max(1, round(size.seconds / seconds_per_step(step, 3, device)))
    return size.batch / seconds_per_step(step, steps, device)


def overrides(job: dict[str, Any], plan: str, size: Size) -> list[str]:
    """Return the command line of a run."""
    options = [
        *(f"backbone={job['backbone']}", f"finetune={plan}", f"trainer={job['accelerator']}"),
        *(f"data.image_size={size.pixels}", f"data.batch_size={size.batch}"),
        *(f"trainer.precision={job['precision']}", f"trainer.max_epochs={size.epochs}", "trainer.compile=false"),
        "head.solver=sgd",
        "finetune.batchnorm=pretrained",
    ]
    return [*options, f"finetune.head_epochs={size.head_epochs}"] if plan == "lp_ft" else options


def measured(job: dict[str, Any], plan: str, size: Size) -> dict[str, Any]:
    """Carry out a run, and return what the table says of it."""
    directory = Path(job["runs"]) / f"{job['backbone']}-{plan}-{job['precision']}"
    on_gpu = job["accelerator"] == "gpu"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    result = run(directory, Path(job["data"]), job["weights"], overrides(job, plan, size))
    peak = [torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()] if on_gpu else [None, None]
    rows = RunDirectory(directory).history()
    last = [float(row["images_per_second"]) for row in rows if row["phase"] == rows[-1]["phase"]]
    speed = statistics.median(last[1:] or last)
    alone = network_alone(directory, plan, job["precision"], size, torch.device("cuda" if on_gpu else "cpu"))
    memory = [None if value is None else round(value / 1e9, 3) for value in peak]
    values = (round(result.best, 4), round(speed), round(alone), round(speed / alone, 3), *memory, result.seconds)
    return dict(zip(COLUMNS, (f"{job['backbone']} {plan}", job["precision"], *values), strict=True))


def kill_at(step: int) -> None:
    """Let this process end as by a power cut when a run has made so many steps."""
    after_batch = LastCheckpoint.on_train_batch_end

    def on_train_batch_end(self: LastCheckpoint, trainer: Any, *args: Any) -> None:
        after_batch(self, trainer, *args)
        if trainer.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    setattr(LastCheckpoint, "on_train_batch_end", on_train_batch_end)  # noqa: B010 - mypy allows no other way


def resumed(job: dict[str, Any], size: Size) -> dict[str, Any]:
    """Kill a run, or go on with it and compare it with one that was never stopped."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    steps = -(-len(SHAPES) * size.images["train"] // size.batch)
    size = size._replace(epochs=3, head_epochs=1)
    options = [*overrides(job, "lp_ft", size), "checkpoint.every_n_steps=2"]
    killed, whole = (Path(job["runs"]) / f"{kind}-{job['precision']}" for kind in ("killed", "whole"))
    if job["kind"] == "kill":
        kill_at((2 * steps + steps // 2) | 1)  # an epoch and a half of `all`, and a step that no checkpoint has
    went_on = (killed / "checkpoints" / "last.ckpt").exists()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for directory in (killed, whole):
            run(directory, Path(job["data"]), job["weights"], options)
    excuses = {
        str(warning.message).split(NO_KERNEL)[0].strip() for warning in caught if NO_KERNEL in str(warning.message)
    }
    return {"precision": job["precision"], "went_on": went_on, **compare(killed, whole), "excuses": sorted(excuses)}


def compare(one: Path, other: Path) -> dict[str, Any]:
    """Return how many tensors the checkpoints of two runs have, how many differ, and by how much at most."""
    count, differing, largest, on_host = 0, 0, 0.0, True
    for name in ("last", "best"):
        files = (directory / "checkpoints" / f"{name}.ckpt" for directory in (one, other))
        a, b = (list(tensors(torch.load(file, weights_only=True))) for file in files)
        for x, y in zip(a, b, strict=True):
            count, on_host = count + 1, on_host and x.device.type == "cpu"
            if not torch.equal(x, y):
                differing += 1
                largest = max(largest, float((x.double() - y.double()).abs().max()))
    return {"tensors": count, "differing": differing, "largest": largest, "checkpoints_on_host": on_host}


def tensors(content: Any, skipped: tuple[str, ...] = ("callbacks", "loops", "tlab")) -> list[Tensor]:
    """Return the tensors of weights, optimiser and sums in a checkpoint; callbacks also hold times."""
    if isinstance(content, Tensor):
        return [content]
    if isinstance(content, dict):
        content = [value for key, value in content.items() if key not in skipped]
    return [each for part in content for each in tensors(part, ())] if isinstance(content, list | tuple) else []


def work(file: Path) -> None:
    """Do what a job's file says and write the result beside it."""
    job = json.loads(file.read_text(encoding="utf-8"))
    size = QUICK if job["quick"] else FULL
    rows = [measured(job, plan, size) for plan in job["plans"]] if job["kind"] == "speed" else resumed(job, size)
    file.with_suffix(".done").write_text(json.dumps(rows), encoding="utf-8")


if __name__ == "__main__":
    work(Path(sys.argv[1]))
