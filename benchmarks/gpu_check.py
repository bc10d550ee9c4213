"""One look at tlab on a GPU, in six minutes at most: accuracy, speed, memory, and whether a killed run goes on.

    python benchmarks/gpu_check.py                                  # on a machine with a GPU
    python benchmarks/gpu_check.py --accelerator cpu --quick        # only tries the check itself out

On photographs that it draws, in bf16-mixed, 32-true and 16-mixed: `head` and `lp_ft`, each with the accuracy of the
best epoch, images per second (median over the epochs of the last phase but its first), the same of the network
alone (the run's own, on one batch that stays on the GPU; for `head` on features), and the most GPU memory that the
run has allocated and reserved. Then `lp_ft` is killed inside an epoch, goes on, and is held against one that was
never stopped, both with torch's deterministic algorithms: every tensor of weights and optimiser in `last.ckpt` and
`best.ckpt`. Where an operation has no deterministic kernel, that is said beside the difference. Last, ResNet-50
with random weights, all of it, for the speed alone.

Each step has a process of its own (`gpu_check_job.py`), which reads its own memory. What the time does not allow is
left out and named. `gpu_check.json` and `gpu_check.txt` are written to --output after each step. Exit code: 0; 1
where a step has failed or was left out, or weights differ without such an excuse; 2 without a GPU.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gpu_check_job
from gpu_check_job import COLUMNS, FULL, QUICK, Size
from tlab.core.hardware import cpu_count
from tlab.data.sources.demo.scene import draw_scene
from tlab.data.sources.demo.shapes import SHAPES

PRECISIONS = ("bf16-mixed", "32-true", "16-mixed")
LEAST = 20.0  # seconds that a step takes at least, starting its process included


def draw(root: Path, pixels: int, which: tuple[str, int, int]) -> None:
    """Draw one image of `root/<split>/<class>/`."""
    split, label, number = which
    name = list(SHAPES)[label]
    path = root / split / name / f"{number:04d}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_scene(name, pixels, np.random.default_rng([len(split), label, number])).save(path, quality=92)


def draw_all(root: Path, size: Size) -> None:
    """Draw the photographs, a seventh larger than the network sees them."""
    wanted = [
        (split, k, i) for split, count in size.images.items() for k in range(len(SHAPES)) for i in range(count)
    ]
    with ProcessPoolExecutor(cpu_count()) as pool:
        list(pool.map(partial(draw, root, size.pixels * 8 // 7), wanted, chunksize=8))


def attempt(job: dict[str, Any], folder: Path, seconds: float) -> tuple[Any, str]:
    """Carry a job out in a process of its own; returns its result, and why there is none.

    Args:
        job: What `gpu_check_job.work` reads.
        folder: For its files.
        seconds: After which it is ended.
    """
    file = folder / f"{job['kind']}-{job['backbone']}-{job['precision']}.json"
    file.write_text(json.dumps(job), encoding="utf-8")
    environment = {**os.environ, "TLAB_CACHE": str(folder / "cache"), "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    log = file.with_suffix(".log")
    with log.open("w", encoding="utf-8") as output:
        try:
            command = [sys.executable, gpu_check_job.__file__, str(file)]
            ended = subprocess.run(
                command, env=environment, stdout=output, stderr=output, timeout=max(1.0, seconds), check=False
            )
        except subprocess.TimeoutExpired:
            return None, f"ended after {seconds:.0f} s, when the time was up"
    if job["kind"] == "kill":
        return None, "" if ended.returncode == -signal.SIGKILL else f"was not killed (exit code {ended.returncode})"
    if ended.returncode != 0:
        end = log.read_text(encoding="utf-8", errors="replace")[-2000:]
        return None, f"failed (exit code {ended.returncode}):\n{end}"
    return json.loads(file.with_suffix(".done").read_text(encoding="utf-8")), ""


def jobs(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return what is to be done, the most important first."""
    common = {"accelerator": args.accelerator, "quick": args.quick, "plans": ["head", "lp_ft"]}
    common |= {"backbone": "mobilenet_v3_small", "weights": "bundled"}
    speed = [{**common, "kind": "speed", "precision": precision} for precision in args.precisions]
    resume = [
        {**common, "kind": kind, "precision": precision}
        for precision, kind in product(args.precisions, ("kill", "resume"))
    ]
    large = {**common, "kind": "speed", "precision": args.precisions[0], "plans": ["full"]}
    return [*speed, *resume, *([] if args.quick else [large | {"backbone": "resnet50", "weights": "null"}])]


def check(args: argparse.Namespace, found: dict[str, Any], folder: Path) -> None:
    """Do all jobs that the time allows, and note in `found` what they give."""
    began = time.monotonic()
    draw_all(folder / "data", QUICK if args.quick else FULL)
    found["drawing_seconds"] = round(time.monotonic() - began, 1)
    lasted: dict[str, float] = {}
    for job in jobs(args):
        name = f"{job['kind']} {job['backbone']} {job['precision']}"
        left = args.budget - (time.monotonic() - began)
        if left < lasted.get(job["kind"], LEAST):
            found["problems"].append(f"{name}: left out, {left:.0f} s were left")
            continue
        start = time.monotonic()
        places = {"data": str(folder / "data"), "runs": str(folder / "runs")}
        result, problem = attempt(job | places, folder, left)
        lasted[job["kind"]] = max(time.monotonic() - start, lasted.get(job["kind"], 0.0))
        print(f"{name}: {problem or 'done'} ({time.monotonic() - start:.0f} s)", flush=True)
        if problem:
            found["problems"].append(f"{name}: {problem}")
        elif result:
            found["resumed" if job["kind"] == "resume" else "runs"] += (
                [result] if job["kind"] == "resume" else result
            )
        found["seconds"] = round(time.monotonic() - began, 1)
        write(found, args.output)


def text(found: dict[str, Any]) -> str:
    """Return the table, what became of the killed runs, and what is missing."""
    cells = [list(COLUMNS)]
    cells += [["-" if row[name] is None else str(row[name]) for name in COLUMNS] for row in found["runs"]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [found["title"], ""]
    lines += [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    ]
    lines += ["", *(verdict(row) for row in found["resumed"]), *found["problems"]]
    return "\n".join([*lines, f"{found.get('seconds', 0)} s in all"]) + "\n"


def verdict(row: dict[str, Any]) -> str:
    """Return what became of a run that was killed and went on."""
    place = "checkpoints name no device" if row["checkpoints_on_host"] else "CHECKPOINTS NAME A GPU"
    said = f"killed and gone on, {row['precision']}: "
    if not row["went_on"]:
        return f"{said}BEGUN ANEW, no checkpoint was there"
    if not row["differing"]:
        return f"{said}all {row['tensors']} tensors equal those of the whole run, bit by bit; {place}"
    why = f"not deterministic here: {', '.join(row['excuses'])}" if row["excuses"] else "NOTHING EXCUSES IT"
    differ = f"{row['differing']} of {row['tensors']} tensors differ, by {row['largest']:.3g} at most"
    return f"{said}{differ}; {why}; {place}"


def write(found: dict[str, Any], output: Path) -> None:
    """Write both files."""
    output.mkdir(parents=True, exist_ok=True)
    (output / "gpu_check.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (output / "gpu_check.txt").write_text(text(found), encoding="utf-8")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("OUT") or "outputs/gpu_check")
    parser.add_argument("--output", type=Path, default=default, help="folder, $OUT or outputs/gpu_check")
    parser.add_argument("--accelerator", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--quick", action="store_true", help="a few tiny images; its figures say nothing")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, help="only these; a CPU has no 16-mixed")
    parser.add_argument("--budget", type=float, default=330.0, help="seconds, %(default)s")
    args = parser.parse_args(arguments)
    args.precisions = args.precisions or list(PRECISIONS[: 2 if args.accelerator == "cpu" else 3])
    return args


def main() -> int:
    """Check and print; returns the exit code."""
    args = parse()
    if args.accelerator == "gpu" and not torch.cuda.is_available():
        print("gpu_check: torch finds no GPU here; --accelerator cpu --quick tries the check out", file=sys.stderr)
        return 2
    device = torch.cuda.get_device_name() if args.accelerator == "gpu" else "CPU"
    size = QUICK if args.quick else FULL
    title = f"{device}, torch {torch.__version__}, {size.pixels} px, batch {size.batch}, images {size.images}"
    found: dict[str, Any] = {"title": title, "runs": [], "resumed": [], "problems": []}
    with tempfile.TemporaryDirectory(prefix="gpu_check_") as folder:
        check(args, found, Path(folder))
    write(found, args.output)
    print(f"\n{text(found)}\n{args.output}/gpu_check.json, gpu_check.txt")
    unexcused = [row for row in found["resumed"] if not row["went_on"] or (row["differing"] and not row["excuses"])]
    return 1 if found["problems"] or unexcused else 0


if __name__ == "__main__":
    sys.exit(main())
