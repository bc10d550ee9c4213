"""tlab and what a user would pick instead: whole commands in fresh processes, alternating, on the same images.

Each command starts from nothing: a new process, and for tlab an empty cache. Images, starting weights, epochs and
batch size are the same for all. Every timing is printed and kept at once (results.json), so a long benchmark can be
done in pieces: --only and --peers choose, and what was measured before stays. The table (table.md) and the plot
(speed.png) are made from all that is there. Without --root images are drawn; without --weights they are random.

    python benchmarks/speed.py                                                      # a few minutes
    python benchmarks/speed.py --size full --root DATA --weights resnet18.pth       # hours on two cores
    python benchmarks/speed.py --size gpu --only gpu_resnet50 --repeats 2
"""

import argparse
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import tlab
from speed_commands import Measurement, peer_command, read, run, sweep_command, tlab_command
from speed_inputs import drawn_images, random_weights, repeated
from speed_report import plot, table
from speed_scenarios import PEERS, SEEDS, SIZES, Scenario

NEEDS = {"lightning": "lightning", "fastai": "fastai", "timm": "timm"}  # peer -> the package it cannot do without


def weights_of(choices: list[str], arch: str, folder: Path) -> Path:
    """Return the weights file of an architecture: FILE is a ResNet-18's, ARCH=FILE another's; else random ones."""
    pairs = [choice.rpartition("=") for choice in choices]
    files = {name or "resnet18": file for name, _, file in pairs}
    return Path(files[arch]).resolve() if arch in files else random_weights(folder, arch)


def is_there(system: str, fastai_python: str) -> bool:
    """Return whether the library that a peer is made of is installed."""
    if system == "fastai":
        code = "import importlib.util as u, sys; sys.exit(u.find_spec('fastai') is None)"
        return subprocess.run([fastai_python, "-c", code], check=False).returncode == 0
    return importlib.util.find_spec(NEEDS.get(system, "torch")) is not None


def chosen_systems(args: argparse.Namespace, scenario: Scenario) -> list[str]:
    """Return the systems to run: those asked for whose library is installed."""
    systems = [s for s in scenario.systems if s not in PEERS or args.peers is None or s in args.peers]
    missing = [s for s in systems if s in PEERS and not is_there(s, args.fastai_python)]
    for system in missing:
        print(f"{scenario.name}: {system} is left out, because it is not installed (see benchmarks/README.md)")
    return [s for s in systems if s not in missing]


def load(path: Path) -> list[Measurement]:
    """Return what was measured before."""
    return [Measurement(**record) for record in json.loads(path.read_text())] if path.exists() else []


def save(path: Path, results: list[Measurement]) -> None:
    """Write all of it, atomically."""
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps([asdict(m) for m in results], indent=1) + "\n")
    fresh.replace(path)


def about(data: str, weights: Path) -> dict[str, str]:
    """Return what a measurement depends on besides its scenario."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "data": data,
        "weights": weights.name,
        "processor": platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "torch": version("torch"),
        "tlab": f"{tlab.__version__} {commit}".strip(),
        "time": time.strftime("%Y-%m-%d %H:%M"),
    }


def measure(args: argparse.Namespace, scenario: Scenario, system: str, number: int, root: Path) -> Measurement:
    """Carry out one command and read what it wrote; a failure is a result too."""
    result = Measurement(scenario.name, system, number)
    work = args.out / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    weights = weights_of(args.weights, scenario.arch, args.out / "weights")
    if system in ("tlab", "sweep"):
        build = tlab_command if system == "tlab" else sweep_command
        command = build(scenario, root, weights, number, work)
    else:
        command = peer_command(system, scenario, root, weights, number, work, args.fastai_python)
    log = args.out / "logs" / f"{scenario.name}-{system}-{number}.log"
    log.parent.mkdir(exist_ok=True)
    result.about = about(args.root.name if args.root else "drawn", weights)
    result.seconds, result.error = run(command, work, log, args.timeout)
    if not result.error:
        try:
            read(result, work)
        except (OSError, KeyError, ValueError, IndexError) as error:
            result.error = f"it wrote no figures: {error!r}"
    shutil.rmtree(work, ignore_errors=True)
    return result


def line(m: Measurement) -> str:
    """Return one measurement in words."""
    if m.error:
        return f"{m.scenario} round {m.round} {m.system}: FAILED after {m.seconds:.1f} s: {m.error}"
    if m.limits:
        return f"{m.scenario} round {m.round} limit: " + ", ".join(f"{k} {v:.1f}" for k, v in m.limits.items())
    accuracy = f", val acc {m.accuracy[-1]:.3f}" if m.accuracy else ""
    return (
        f"{m.scenario} round {m.round} {m.system}: {m.seconds:.1f} s, of these {m.fit_seconds:.1f} s training and "
        f"validation, {m.images_per_second:.1f} images/s{accuracy}"
    )


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="quick")
    parser.add_argument("--root", type=Path, help="folder that holds train/ and val/; drawn images by default")
    parser.add_argument(
        "--weights", nargs="*", default=[], help="FILE of a ResNet-18, or ARCH=FILE; default: random"
    )
    parser.add_argument("--only", nargs="+", help="names of scenarios")
    parser.add_argument("--peers", help="only these, as in lightning,timm; or none")
    parser.add_argument("--repeats", type=int, help=f"rounds; {SEEDS}, and 1 of the quick size")
    parser.add_argument("--fastai-python", default=sys.executable, help="interpreter of an environment with fastai")
    parser.add_argument("--timeout", type=float, default=7200, help="seconds a command may take, %(default)s")
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/bench"), help="folder of the results, %(default)s"
    )
    parser.add_argument("--report", action="store_true", help="measure nothing, make table and plot anew")
    args = parser.parse_args()
    known = {scenario.name for scenario in SIZES[args.size]}
    if wrong := sorted(set(args.only or ()) - known):
        parser.error(f"--only {wrong[0]}: --size {args.size} has {', '.join(sorted(known))}")
    if args.peers is not None:
        args.peers = [] if args.peers == "none" else args.peers.split(",")
    if wrong := sorted(set(args.peers or ()) - set(PEERS)):
        parser.error(f"--peers {wrong[0]}: there are {', '.join(PEERS)}")
    if args.root:
        args.root = args.root.resolve()
        if not (args.root / "train").is_dir():
            parser.error(f"--root {args.root}: it holds no folder train/")
    args.out = args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    args.repeats = args.repeats or (1 if args.size == "quick" else SEEDS)
    return args


def main() -> None:
    """Measure what is asked for, keep everything, write table and plot."""
    args = parse()
    store = args.out / "results.json"
    results = load(store)
    wanted = [s for s in SIZES[args.size] if not args.only or s.name in args.only]
    for scenario in [] if args.report else wanted:
        root = (args.root or drawn_images(args.out / "images")).resolve()
        root = repeated(root, args.out / "repeated", scenario.copies)
        systems = chosen_systems(args, scenario)
        first = 1 + max((m.round for m in results if m.scenario == scenario.name), default=-1)
        for number in range(first, first + args.repeats):
            turn = number % len(systems)  # nobody always comes first
            for system in systems[turn:] + systems[:turn]:
                result = measure(args, scenario, system, number, root)
                results.append(result)
                save(store, results)
                print(line(result), flush=True)
    scenarios = [s for size in SIZES.values() for s in size if any(m.scenario == s.name for m in results)]
    text = table(results, scenarios)
    (args.out / "table.md").write_text(text)
    plot(results, scenarios, args.out / "speed.png")
    print(f"\n{text}\nWritten: table.md, speed.png and results.json in {args.out}")


if __name__ == "__main__":
    main()
