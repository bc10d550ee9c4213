"""From a directory of runs to a comparison: group, summarize, rank, test."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median

from tlab.comparison.effects import main_effects
from tlab.comparison.factors import group
from tlab.comparison.images import common_tests, had_other_images, own_images, sets_of_images
from tlab.comparison.load import FINISHED, PRUNED, Replicate, Run, differ_in, read_runs
from tlab.comparison.out_of_fold import join_folds
from tlab.comparison.result import Comparison, Setting
from tlab.comparison.statistics import INTERVAL_NAMES, Difference, holm, least_p, paired_difference, summarize
from tlab.config.validation import best_is
from tlab.core.errors import UserError
from tlab.core.text import counted
from tlab.runs.directory import tests_in

NEARLY = 0.95  # of the best setting's mean: the default target of "epochs to"


def compare_runs(
    directory: Path,
    monitor: str | None = None,
    target: float | None = None,
    interval: str = "t",
    test: str = "t",
) -> Comparison:
    """Compare the runs in and below a directory.

    The setting with the highest mean (lowest, for a loss) over its seeds is the best, provided that it has more
    than half as many seeds as the fullest one. The others are held against it seed by seed. The best was chosen
    by the same numbers, so its lead is slightly optimistic; its test metric was not used to choose it. Of runs with
    folds (`data.folds`) each fold stands for a seed.

    Args:
        directory: A sweep, `outputs/`, or one run.
        monitor: Metric of `metrics.json` that decides; None takes `checkpoint.monitor` of the runs.
        target: Value that "epochs to target" counts to; None takes 95 % of the best setting's mean (for a metric
            that is better when lower, the mean divided by 0.95).
        interval: Kind of confidence interval, see `statistics.summarize`.
        test: Paired test, see `statistics.paired_difference`.

    Raises:
        UserError: There is no run, or no finished run has the metric.
    """
    runs, notes = read_runs(directory)
    begun = [run for run in runs if run.config] or runs  # one that never began has no configuration
    monitor, mode = _monitor(begun, monitor, notes)
    data_sets = {} if monitor.rpartition("/")[0] in common_tests(runs) else sets_of_images(runs)
    factors, groups = group(begun)
    test_metric, further = _test_metrics(monitor, begun)
    settings = [
        _setting(levels, members, monitor, (test_metric, *further), interval, notes)
        for levels, members in groups.items()
    ]
    finished = [run for run in runs if run.status == FINISHED]
    if finished and not any(setting.values for setting in settings):
        there = ", ".join(name for name in finished[0].metrics if "/" in name and "acc_class" not in name)
        raise UserError(f"monitor={monitor} is not a metric of these runs; there are {there}")
    settings = _ranked(settings, mode, [] if data_sets else notes, differ_in(runs))
    ranked = [setting for setting in settings if setting.summary is not None]
    if ranked:
        if target is None:
            target = ranked[0].result.mean * NEARLY if mode == "max" else ranked[0].result.mean / NEARLY
        for setting in settings:
            epochs = [run.epochs_to(monitor, target, mode) for run in setting.counted.values()]
            reached = [number for number in epochs if number is not None]
            setting.epochs_to_target, setting.reached = median(reached) if reached else None, len(reached)
        if not data_sets:
            _test_differences(ranked, monitor, mode, interval, test)
        for setting in ranked:
            notes += join_folds(setting, factors)
    alike = () if data_sets else ranked
    effects = main_effects(factors, [s.levels for s in alike], [s.result for s in alike])
    if not data_sets and had_other_images(runs):
        notes.append("not all runs had the same images")
    notes += _cautions(runs, ranked, monitor, interval, test)
    how = (directory, monitor, mode, test_metric, further, interval, test, target)
    return Comparison(*how, factors, tuple(settings), effects, tuple(runs), tuple(notes), data_sets)


def _monitor(runs: Sequence[Run], wanted: str | None, notes: list[str]) -> tuple[str, str]:
    """Return the deciding metric and its mode (`min` or `max`); the runs may differ in it."""
    counts = Counter(str(run.config.get("checkpoint.monitor", "val/acc")) for run in runs)
    monitor = wanted or counts.most_common(1)[0][0]
    if wanted is None and len(counts) > 1:
        notes.append(f"the runs differ in checkpoint.monitor; {monitor} decides (monitor=NAME changes that)")
    modes = {run.config.get("checkpoint.mode") for run in runs if run.config.get("checkpoint.monitor") == monitor}
    chosen = modes.pop() if len(modes) == 1 else None
    return monitor, best_is(monitor, chosen)


def _test_metrics(monitor: str, runs: Sequence[Run]) -> tuple[str, tuple[str, ...]]:
    """Return what `monitor` is called on the test split, and on each further test of some run but its own."""
    names = dict.fromkeys(name for run in runs for name in tests_in(run.metrics))
    own = next((name for name in names if monitor.startswith(f"test/{name}/")), None)
    measure = monitor.removeprefix(f"test/{own}/") if own else monitor.partition("/")[2]
    return f"test/{measure}", tuple(f"test/{name}/{measure}" for name in names if name != own)


def _setting(
    levels: tuple[str, ...],
    runs: Sequence[Run],
    monitor: str,
    tests: Sequence[str],
    interval: str,
    notes: list[str],
) -> Setting:
    counted: dict[Replicate, Run] = {}
    for run in sorted(runs, key=lambda run: str(run.record.get("ended"))):
        if run.status == FINISHED and monitor in run.metrics:
            if run.replicate in counted:
                again = f"{run.name} is the same again, and later"
                notes.append(f"{counted[run.replicate].name} is left out: {again}")
            counted[run.replicate] = run
    counted = {run.replicate: run for run in sorted(counted.values(), key=_place)}
    overlap = fmean(run.overlap for run in counted.values()) if counted else 0.0
    values = {replicate: run.metrics[monitor] for replicate, run in counted.items()}
    tested = {name: [run.metrics[name] for run in counted.values() if name in run.metrics] for name in tests}
    summaries = {
        name: summarize(found, interval, overlap) for name, found in tested.items() if found and name != monitor
    }
    return Setting(
        levels,
        tuple(sorted(runs, key=_place)),
        counted,
        values,
        summarize(list(values.values()), interval, overlap) if values else None,
        summaries.pop(tests[0], None),
        summaries,
    )


def _place(run: Run) -> tuple[int, int, str]:
    return run.seed, -1 if run.fold is None else run.fold, run.name


def _ranked(settings: list[Setting], mode: str, notes: list[str], replicate: str) -> list[Setting]:
    """Sort by mean, with the best of the settings that have enough seeds or folds first."""
    sign = -1 if mode == "max" else 1
    settings = sorted(settings, key=lambda s: (s.summary is None, sign * s.summary.mean if s.summary else 0.0))
    most = max(len(setting.values) for setting in settings)
    first = next((place for place, setting in enumerate(settings) if 2 * len(setting.values) > most), 0)
    if first:
        notes.append(
            f"{first} of the settings with a better mean "
            f"{'has' if first == 1 else 'have'} too few finished {replicate}s to be called the best"
        )
    return [settings[first], *settings[:first], *settings[first + 1 :]]


def _test_differences(ranked: Sequence[Setting], monitor: str, mode: str, interval: str, test: str) -> None:
    best, *others = ranked
    known: dict[tuple[Replicate, ...], dict[Replicate, float] | None] = {}
    differences = []
    for other in others:
        common = tuple(each for each in best.counted if each in other.counted)
        if common not in known:  # it may read many long lists
            known[common] = own_images({each: best.counted[each] for each in common}, monitor)
        first, second = (best, other) if mode == "max" else (other, best)
        differences.append(_difference(first, second, known[common], interval, test))
    corrected = holm([difference.p for difference in differences])
    for other, difference, p in zip(others, differences, corrected, strict=True):
        other.difference = replace(difference, p_corrected=p)


def _difference(
    first: Setting, second: Setting, images: dict[Replicate, float] | None, interval: str, test: str
) -> Difference:
    """Return the paired difference of two settings, no surer than their numbers of images allow."""
    overlap = max(first.result.overlap, second.result.overlap)
    found = paired_difference(first.values, second.values, interval, test, overlap)
    if found.p is None or images is None:
        return found
    return replace(found, p=max(found.p, least_p(first.values, second.values, images)))


def _losses(runs: Sequence[Run]) -> list[str]:
    """Return the different losses that the runs' `val/loss` and `test/loss` are of, in words."""
    told = set()
    for run in runs:
        keys = {key.partition(".")[2]: value for key, value in run.config.items() if key.startswith("loss.")}
        target = str(keys.pop("_target_"))
        if target.startswith("tlab."):  # these measure without it
            keys.pop("label_smoothing", None)
        told.add(" ".join([target.rpartition(".")[2], *(f"{key}={keys[key]}" for key in sorted(keys))]))
    return sorted(told)


def _cautions(runs: Sequence[Run], ranked: Sequence[Setting], monitor: str, interval: str, test: str) -> list[str]:
    counts = Counter(run.status for run in runs if run.status not in (FINISHED, PRUNED))
    notes = [f"{counted(number, 'run')} {status}, left out" for status, number in sorted(counts.items())]
    if pruned := sum(run.status == PRUNED for run in runs):
        notes.append(f"{pruned} pruned, left out")
    if monitor.startswith("test/"):
        notes.append(f"{monitor} chooses here, so it no longer tells how good the choice is on new images")
    losses = _losses([run for run in runs if run.status == FINISHED and "loss._target_" in run.config])
    if len(losses) > 1:
        notes.append(f"val/loss and test/loss are those of different losses ({', '.join(losses)})")
    if changed := sum(bool(run.record.get("data_changes")) for run in runs):
        notes.append(f"{changed} went on over other images than at first (resume=anyway)")
    if refitted := sum(run.is_refitted for run in runs if run.status == FINISHED):
        notes.append(f"{refitted} of {len(runs)} refitted: what is compared is how they were before, by validation")
    if lacking := sum(run.lacks_refit for run in runs):
        notes.append(f"{lacking} of {len(runs)} not refitted yet: the same command goes on with the refit")
    fewest = min((len(setting.values) for setting in ranked), default=0)
    if any(setting.result.overlap for setting in ranked) and (interval, test) != ("t", "t"):
        notes.append("folds share training images, which only interval=t and test=t take into account")
    if interval == "bootstrap" and 1 < fewest < 10:
        notes.append(f"{INTERVAL_NAMES[interval]} intervals of less than 10 seeds are too narrow")
    return notes
