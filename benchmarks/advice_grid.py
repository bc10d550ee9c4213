"""The constants of tlab.advise, fitted on the runs of a grid, and what its advice is worth on a set left out.

The grid is one resumable sweep: data sets x backbones x plans x seeds. Without `--sweep` the commands that make it
are printed. Each (set, backbone) gets what `tlab.advising` measures before training; each plan's mean gain over its
linear probe is learned, and how sure it is that a plan leads the default one.

Judged by leaving one SET out: the advice for it comes from the runs of the others alone. The best plan is the one
that tests best with seed 0, and the regret of a choice is how much less it tests than that one with seed 1. The
constants that are written are fitted on all sets.

    python benchmarks/advice_grid.py --roots photos sketches --backbones resnet18=FILE efficientnet_lite0=packaged
    python benchmarks/advice_grid.py --sweep outputs/multirun/grid --photographs photos --write
"""

import argparse
import itertools
import json
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from scipy import stats

from tlab.advising.choice import CONSTANTS, DEFAULT, PLANS, Case, Constants, sampling_error
from tlab.advising.evidence import gather_evidence
from tlab.advising.rule import Thresholds, cs231n_rule
from tlab.advising.similarity import Similarity
from tlab.assembly.frozen_features import open_images
from tlab.config.hydra import compose
from tlab.config.overrides import as_override
from tlab.core.files import write_text
from tlab.core.text import shell_command


@dataclass(frozen=True)
class Run:
    """A run of the grid."""

    root: Path
    backbone: str
    weights: str
    plan: str
    upto: str | None
    seed: int
    val: float
    test: float
    images: dict[str, int]
    size: int
    epochs: int

    @property
    def pair(self) -> tuple[str, str]:
        """Name of the set, and the backbone."""
        return self.root.name, self.backbone

    @property
    def measured(self) -> tuple[int, int]:
        """Number of images of val, and of test."""
        return self.images["val"], self.images["test"]

    @property
    def accuracy(self) -> float:
        """Share of the images of val and test together that it gets right."""
        return float(np.average((self.val, self.test), weights=self.measured))


@dataclass(frozen=True)
class Pair:
    """What is measured of a backbone on a set before training.

    Attributes:
        case: What the expectation follows from; its cut is where the grid has cut the network.
        advised: The same with the cut that advice would pick, by which it chooses.
        images_per_class: Images of a class to learn from, the mean.
        similarity: To the pretraining.
    """

    case: Case
    advised: Case
    images_per_class: float
    similarity: Similarity


Pairs = Mapping[tuple[str, str], Pair]


def read_runs(sweep: Path) -> list[Run]:
    """Return the finished runs of a sweep."""
    runs = []
    for file in sorted(sweep.rglob("metrics.json")):
        metrics = json.loads(file.read_text(encoding="utf-8"))
        record = json.loads(file.with_name("run.json").read_text(encoding="utf-8"))
        config, chosen = record["config"], record["choices"]
        upto = config["backbone"]["upto"]
        plan = "cut" if upto is not None else chosen["finetune"]
        own = (Path(config["data"]["root"]), chosen["backbone"], config["backbone"]["weights"], plan, upto)
        sizes = (record["data"]["images"], config["data"]["image_size"], config["trainer"]["max_epochs"])
        runs.append(Run(*own, config["seed"], metrics["val/acc"], metrics["test/acc"], *sizes))
    return runs


def measure(runs: Iterable[Run]) -> dict[tuple[str, str], Pair]:
    """Measure every (set, backbone) of some runs as tlab.advise does."""
    pairs: dict[tuple[str, str], Pair] = {}
    for run in (run for run in runs if run.plan == "cut"):
        if run.pair in pairs:
            continue
        weights, root = as_override("backbone.weights", run.weights), as_override("data.root", run.root)
        size = f"data.image_size={run.size}"
        cfg = compose([root, f"backbone={run.backbone}", weights, size, "run_dir=outputs"])
        found = gather_evidence(cfg, open_images(cfg))
        accuracy = {stage.stage: stage.accuracy for stage in found.stages}
        case = replace(found.case, cut_probe=accuracy[str(run.upto)])
        pairs[run.pair] = Pair(case, found.case, found.images_per_class, found.similarity)
        print(f"{' '.join(run.pair)}: {pairs[run.pair]}", flush=True)
    return pairs


def fit(runs: Sequence[Run], pairs: Pairs, photographs: Collection[str]) -> Constants:
    """Return the constants that some runs give.

    Args:
        runs: The runs.
        pairs: What is measured of their sets and backbones.
        photographs: Names of the sets that are like the pretraining.
    """
    sets = sorted({run.root.name for run in runs})
    excess: list[float] = []
    misses: list[tuple[float, float]] = []  # of val/acc from what is expected of it, and the known error
    leads: dict[str, list[float]] = defaultdict(list)  # plan -> error of its predicted lead over the default one
    for name in sets:
        others = [run for run in runs if run.root.name != name]
        gains = mean_gains(others, pairs)
        errors: dict[tuple[str, str, str], list[float]] = defaultdict(list)
        for run in (run for run in runs if run.root.name == name):
            case = pairs[run.pair].case
            expected = case.base(run.plan) + gains[run.plan]
            errors[*run.pair, run.plan].append(run.accuracy - expected)
            known = math.hypot(case.error, sampling_error(expected, sum(run.measured)))
            excess.append((run.accuracy - expected) ** 2 - known**2)
            mean = min(expected, 1.0)
            misses.append((run.val - mean, math.hypot(case.error, sampling_error(mean, run.images["val"]))))
        for (root, backbone, plan), own in errors.items():
            leads[plan].append(float(np.mean(own) - np.mean(errors[root, backbone, DEFAULT])))
    spread = math.sqrt(max(float(np.mean(excess)), 0.0))
    distances = sorted(abs(miss) / math.hypot(spread, known) for miss, known in misses)
    similarities = [(pairs[pair].similarity, pair[0] in photographs) for pair in {run.pair for run in runs}]
    return Constants(
        gains=mean_gains(runs, pairs),
        doubts={plan: float(np.sqrt(np.mean(np.square(leads[plan])))) for plan in PLANS},
        spread=spread,
        # as in conformal prediction, of one run more than there are (Vovk et al. 2005)
        reach=distances[min(math.ceil(0.9 * (len(distances) + 1)), len(distances)) - 1],
        quantile=float(stats.t.ppf(0.95, len(sets) - 1)),
        similar=Thresholds(
            threshold((each.statistics, similar) for each, similar in similarities),
            threshold((each.confidence, similar) for each, similar in similarities),
        ),
        epochs=max(run.epochs for run in runs),
        image_size=max(run.size for run in runs),
    )


def mean_gains(runs: Sequence[Run], pairs: Pairs) -> dict[str, float]:
    """Return plan -> mean gain over the probe on which it builds."""
    gains: dict[str, list[float]] = {plan: [] for plan in PLANS}
    for run in runs:
        gains[run.plan].append(run.accuracy - pairs[run.pair].case.base(run.plan))
    return {plan: float(np.mean(values)) for plan, values in gains.items()}


def threshold(values: Iterable[tuple[float | None, bool]]) -> float:
    """Return the value that parts the similar from the others with the fewest errors, in the widest gap of such.

    Args:
        values: Value, and whether it is of a similar set; None is left out.
    """
    known = sorted((value, similar) for value, similar in values if value is not None)
    if not known:
        return 0.5
    best = (math.inf, 0.0, known[0][0])
    for (below, _), (above, _) in itertools.pairwise(known):
        middle = (below + above) / 2
        errors = sum((value >= middle) != similar for value, similar in known)
        best = min(best, (errors, below - above, middle))
    return best[2]


def judge(runs: Sequence[Run], pairs: Pairs, photographs: Collection[str]) -> None:
    """Print the regret of each way to choose, and how often the intervals hold, each set left out in turn."""
    test = {(*run.pair, run.plan, run.seed): run.test for run in runs}
    regrets: dict[str, list[float]] = defaultdict(list)
    of_backbones: list[float] = []
    covered: dict[str, list[bool]] = defaultdict(list)
    halves: list[float] = []
    print("| set | backbone | advice | rule | best (seed 0) | regret of advice | lp_ft | head | rule |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in sorted({name for name, _ in pairs}):
        constants = fit([run for run in runs if run.root.name != name], pairs, photographs)
        advised: dict[str, tuple[float, str]] = {}
        for backbone in sorted(backbone for root, backbone in pairs if root == name):
            pair = pairs[name, backbone]
            first = {plan: test[name, backbone, plan, 0] for plan in PLANS}
            best = [plan for plan in PLANS if first[plan] == max(first.values())]  # several are one: their mean
            reached = np.mean([test[name, backbone, plan, 1] for plan in best])
            advice = constants.choose(pair.advised)
            advised[backbone] = constants.score(advice, pair.advised), advice
            rule = cs231n_rule(pair.images_per_class, pair.similarity, constants.similar).plan
            ways = {
                "advice": advice,
                "rule of the CS231n notes": rule,
                **{plan: plan for plan in PLANS},
            }
            for way, plan in ways.items():
                regrets[way].append(float(100 * (reached - test[name, backbone, plan, 1])))
            shown = " | ".join(
                f"{regrets[way][-1]:.1f}" for way in ("advice", "lp_ft", "head", "rule of the CS231n notes")
            )
            print(f"| {name} | {backbone} | {advice} | {rule} | {' = '.join(best)} | {shown} |")
            for run in (run for run in runs if run.pair == (name, backbone)):
                expected = constants.expect(run.plan, pair.case, run.images["val"])
                covered[name].append(expected.low <= run.val <= expected.high)
                halves.append(50 * (expected.high - expected.low))
        _, backbone, plan = max((test[name, b, plan, 0], b, plan) for b in advised for plan in PLANS)
        taken = max(advised, key=lambda backbone, advised=advised: advised[backbone][0])  # type: ignore[misc]
        of_backbones.append(100 * (test[name, backbone, plan, 1] - test[name, taken, advised[taken][1], 1]))
    print("\nmean regret in points, on a set left out:")
    for way, values in regrets.items():
        print(f"  {way:15} {np.mean(values):6.3f}")
    print(f"of backbone and plan together: {np.mean(of_backbones):.3f}")
    every = [held for each in covered.values() for held in each]
    by_set = ", ".join(f"{name} {np.mean(held):.0%}" for name, held in covered.items())
    print(f"90 % of val/acc: ± {np.mean(halves):.1f} points, holds in {sum(every)} of {len(every)} runs ({by_set})")


def sweep_command(roots: Sequence[str], backbones: Sequence[str]) -> str:
    """Return the commands of the grid for some sets and `BACKBONE=WEIGHTS`: of the plans, and of the cut."""
    return "\n".join(
        shell_command(
            [
                *("python", "-m", "tlab.train", "-m", f"data.root={','.join(roots)}", f"backbone={backbone}"),
                *(f"backbone.weights={weights}", *plans, "seed=0,1", "data.image_size=96", "data.batch_size=32"),
                *("trainer.max_epochs=8", "logger=none", f"sweep=grid/{backbone}/{part}"),
            ]
        )
        for backbone, _, weights in (each.partition("=") for each in backbones)
        for part, plans in (
            ("plans", "finetune=head,last,lp_ft,full"),
            ("cut", "finetune=head backbone.upto=STAGE"),
        )
    )


def main() -> None:
    """Print the command of the grid, or judge its runs; write the constants."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--roots", nargs="+", default=[], help="folders of the sets, for the command of the grid")
    parser.add_argument("--backbones", nargs="+", default=[], metavar="BACKBONE=WEIGHTS", help="for that command")
    parser.add_argument("--sweep", type=Path, help="folder that holds the runs")
    parser.add_argument("--photographs", nargs="+", default=[], help="names of the sets like the pretraining")
    parser.add_argument("--write", action="store_true", help="write the constants into the package")
    args = parser.parse_args()
    if args.sweep is None:
        print(sweep_command(args.roots, args.backbones))
        return
    runs = read_runs(args.sweep)
    pairs = measure(runs)
    complete = [run for run in runs if run.pair in pairs]
    judge(complete, pairs, args.photographs)
    constants = fit(complete, pairs, args.photographs)
    about = {
        "about": "written by benchmarks/advice_grid.py, fitted on the runs of a grid",
        "sets": sorted({run.root.name for run in complete}),
        "backbones": sorted({run.backbone for run in complete}),
        "runs": len(complete),
    }
    text = json.dumps({**about, **asdict(constants)}, indent=2) + "\n"
    print(text)
    if args.write:
        write_text(Path(__file__).parents[1] / "src/tlab/advising" / CONSTANTS, text)


if __name__ == "__main__":
    main()
