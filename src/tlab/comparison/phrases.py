"""The comparison in words: numbers as people write them, and the answer in a sentence."""

from collections.abc import Sequence
from statistics import fmean

from tlab.comparison.images import common_tests
from tlab.comparison.load import STATUSES, Run
from tlab.comparison.result import Comparison, Setting
from tlab.comparison.statistics import INTERVAL_NAMES, TEST_NAMES, Summary
from tlab.core.text import counted, few, noun
from tlab.runs.advice import METRIC
from tlab.runs.directory import PERCENT


def is_share(metric: str) -> bool:
    """Tell whether a metric is written as percent."""
    return metric.split("/")[-1] in PERCENT or "acc_class/" in metric


def value(number: float | None, metric: str, unit: bool = True) -> str:
    """Return a metric as text: `91.2 %` or `0.412`; a dash for None."""
    if number is None:
        return "–"
    if is_share(metric):
        return f"{100 * number:.1f}{' %' if unit else ''}"
    return f"{number:.4g}" if abs(number) >= 100 else f"{number:.3f}"


def lead(difference: float, metric: str) -> str:
    """Return a difference without its sign: `1.4 points` or `0.03`."""
    return f"{100 * abs(difference):.1f} points" if is_share(metric) else f"{abs(difference):.3f}"


def span(summary: Summary | None, metric: str) -> str:
    """Return the interval of a mean, `90.1 to 92.3 %`, of a share within 0 and 100 %.

    A dash for one value; `all equal` where several are the same.
    """
    if summary is None or summary.low is None or summary.high is None:
        return "–"
    if summary.all_equal:
        return "all equal"
    low, high = (max(0.0, summary.low), min(1.0, summary.high)) if is_share(metric) else (summary.low, summary.high)
    return f"{value(low, metric, unit=False)} to {value(high, metric)}"


def replicate_name(run: Run) -> str:
    """Return what a run is called among those of its setting: `seed 0`, of folds `seed 0, fold 2`."""
    return f"seed {run.seed}" if run.fold is None else f"seed {run.seed}, fold {run.fold}"


def p_value(p: float | None) -> str:
    """Return a p-value as text; a dash for None."""
    if p is None:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def heading(comparison: Comparison) -> str:
    """Return what was compared: how many runs, settings and seeds."""
    statuses = [f"{n} {status}" for status in STATUSES if (n := sum(r.status == status for r in comparison.runs))]
    return (
        f"{counted(len(comparison.runs), 'run')} ({', '.join(statuses)}), "
        f"{counted(len(comparison.settings), 'setting')}, by {comparison.monitor}"
    )


def headline(comparison: Comparison) -> str:
    """Return the answer in a few words: which setting wins, and whether significantly."""
    ranked = comparison.ranked
    if not ranked:
        return "No run has finished"
    if comparison.data_sets:
        return f"These runs are of {len(comparison.data_sets)} sets of images, whose numbers do not compare"
    best, *others = ranked
    name = comparison.label(best)
    if not others:
        return f"{name}: {value(best.result.mean, comparison.monitor)}"
    if equal := [other for other in others if other.result.mean == best.result.mean]:
        return f"{name} is as good as {comparison.label(equal[0]) if len(equal) == 1 else f'{len(equal)} others'}"
    if len(best.values) < 2:
        return f"{name} is {'highest' if comparison.mode == 'max' else 'lowest'}, with one {comparison.replicate}"
    return f"{name} is ahead, but not significantly" if any(other.is_tied for other in others) else f"{name} wins"


def detail(comparison: Comparison) -> str:
    """Return the rest of the answer: how good, how far ahead, how sure, and how good on the test split."""
    ranked = comparison.ranked
    if not ranked:
        return "There is nothing to compare yet; the same command runs what is missing."
    if comparison.data_sets:
        told = few(f"{name} ({counted(number, 'run')})" for name, number in comparison.data_sets.items())
        tests = few(f"monitor={test}/acc" for test in common_tests(comparison.runs))
        way_out = "copy the runs of one set to a folder of their own and give it as sweep=DIR"
        return f"{told}: {way_out}{f', or take a test of the same images for all: {tests}' if tests else ''}."
    best, metric = ranked[0], comparison.monitor
    sentences = [f"{metric} {_result(best, comparison)}."]
    if len(ranked) > 1:
        sentences.append(_lead_sentence(ranked, comparison))
    if best.out_of_fold is not None:
        images = "each image by the fold that has not trained on it"
        sentences.append(f"Out of fold: accuracy {value(best.out_of_fold, 'acc')}, {images}.")
    if best.test is not None:
        sentences.append(f"On the test split: {comparison.test_metric} {value(best.test.mean, metric)}.")
    return " ".join(sentences)


def effects_sentence(comparison: Comparison) -> str | None:
    """Return which factor matters most; None where less than two vary."""
    effects = comparison.effects
    if effects is None or len(effects.factors) < 2:
        return None
    shares = ", ".join(f"{effect.factor} {100 * effect.share:.0f} %" for effect in effects.factors[:4])
    rest = f", the rest {100 * effects.rest:.0f} %" if effects.rest >= 0.005 else ""
    top, metric = effects.factors[0], comparison.monitor
    noise = ""
    if effects.seed_sd is not None:
        noise = f", {comparison.replicate}s of one setting by {lead(effects.seed_sd, metric)} (sd)"
    return (
        f"Of the differences between settings: {shares}{rest}. "
        f"Levels of {top.factor} differ by {lead(top.range, metric)}{noise}."
    )


def expectation(setting: Setting) -> str:
    """Return the interval in which advice expects `val/acc`, `88.0 to 94.5 %`; a dash without any."""
    if setting.expected is None:
        return "–"
    low, high = setting.expected
    return f"{value(low, METRIC, unit=False)} to {value(high, METRIC)}"


def verdict(setting: Setting) -> str:
    """Return whether advice is kept: `kept`, `missed`, of several runs `kept by 2 of 3`; a dash without any."""
    runs = setting.advised
    if not runs:
        return "not as advised" if any(run.advice for run in setting.counted.values()) else "–"
    kept = sum(bool(run.is_kept) for run in runs)
    if len(runs) == 1:
        return "kept" if kept else "missed"
    return f"kept by {kept} of {len(runs)}"


def advice_lines(comparison: Comparison) -> list[str]:
    """Return a line for each setting that ran as advised, and one on the runs that depart from their advice."""
    lines = []
    for setting in comparison.ranked:
        if runs := setting.advised:
            measured = value(fmean(run.metrics[METRIC] for run in runs), METRIC)
            told = f"{METRIC} {expectation(setting)} expected, {measured} measured: {verdict(setting)}"
            lines.append(f"advice for {comparison.label(setting)}: {told}")
    departing = [run for s in comparison.ranked for run in s.counted.values() if run.advice and run.is_kept is None]
    if departing:
        keys = dict.fromkeys(key for run in departing for key in run.advice["departs_in"])
        depart = noun(len(departing), "departs", "depart")
        lines.append(
            f"no verdict on the advice of {counted(departing, 'run')}, which {depart} from it in {few(keys)}"
        )
    return lines


def methods(comparison: Comparison) -> list[str]:
    """Return how the numbers were computed, a sentence each."""
    metric, mode, each = comparison.monitor, comparison.mode, comparison.replicate
    told = [
        f"{metric} is that of the epoch that a run kept as its best; a setting's value is the mean over its "
        f"{each}s.",
        f"Intervals are 95 % ({INTERVAL_NAMES[comparison.interval]}). Settings are held against the best one "
        f"{each} by {each} ({TEST_NAMES[comparison.test]}, two-sided), p-values are corrected for their number "
        "(Holm).",
        "No p-value of an accuracy is below what its images allow: that of McNemar's exact test if every image on "
        "which two settings differ spoke for the same one.",
        "The best was chosen by the same numbers, so its lead is a little flattered; the test split was not used "
        "to choose it.",
        "ECE is the expected calibration error in validation (15 bins), of the probabilities that predict gives.",
        "Speed is that of the last phase; time is that of all epochs, without start-up.",
    ]
    if comparison.is_advised:
        told.append(
            f"Advice is kept where {METRIC} lies in the expected interval, which allows for the number of images; "
            "a run that departs from the advised command has no verdict."
        )
    if each != "seed":
        told.append(
            "Folds share training images: t intervals and t tests take the variance of a mean as "
            "1/n + n_val/n_train times that of one value, in place of 1/n (Nadeau and Bengio 2003)."
        )
    if comparison.target is not None:
        side = "reached" if mode == "max" else "came down to"
        told.insert(3, f"Epochs: the median until {metric} {side} {value(comparison.target, metric)}.")
    if comparison.effects is not None:
        told.append(
            "Effects are means over settings with the other factors in balance (least squares where the grid has "
            "gaps); a share is the part of the sum of squares between settings that no other factor explains."
        )
    return told


def _result(setting: Setting, comparison: Comparison) -> str:
    summary, metric, each = setting.result, comparison.monitor, comparison.replicate
    text = value(summary.mean, metric)
    if summary.low is None:
        return f"{text} (one {each}, so nothing can be said about its spread; add {each}s)"
    if summary.all_equal:
        return f"{text} ({summary.n} equal {each}s, which give no interval: nothing is sure yet; add {each}s)"
    name = INTERVAL_NAMES[comparison.interval]
    return f"{text} (95 % interval {span(summary, metric)}, {name}, {summary.n} {each}s)"


def _lead_sentence(ranked: Sequence[Setting], comparison: Comparison) -> str:
    best, second, *_ = ranked
    each = comparison.replicate
    ahead = best.result.mean - second.result.mean
    gap, name = lead(ahead, comparison.monitor), comparison.label(second)
    if ahead == 0:
        first = f"The next, {name}, has the same"
    elif (ahead < 0) == (comparison.mode == "max"):
        first = f"{name} is {gap} better, but of {counted(len(second.values), f'finished {each}')} only"
    else:
        first = f"That is {gap} {'above' if ahead > 0 else 'below'} the next, {name}"
    others, tied = len(ranked) - 1, sum(setting.is_tied for setting in ranked[1:])
    if not tied:
        whom = "it" if others == 1 else f"each of the other {others}"
        largest = max(setting.p or 0.0 for setting in ranked[1:])
        at_most = "< 0.001" if largest < 0.001 else f"≤ {largest:.3f}"
        return f"{first}; the difference to {whom} is significant (corrected p {at_most})."
    if len(best.values) < 2:
        return f"{first}; with one {each} nothing can be said about how sure that is."
    p = f"p = {p_value(second.p)}" if second.p is not None else ""
    if others == 1:
        return f"{first}; these {each}s cannot tell the two apart{f' ({p})' if p else ''}."
    whom = f"any of the other {others}" if tied == others else f"{tied} of the other {others}"
    return f"{first}; these {each}s cannot tell it from {whom}{f' (against the next {p})' if p else ''}."
