"""What a comparison holds: settings with their statistics, the best one first."""

from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from tlab.comparison.effects import Effects
from tlab.comparison.factors import Factor
from tlab.comparison.load import Replicate, Run, differ_in
from tlab.comparison.statistics import SIGNIFICANT, Difference, Summary
from tlab.core.text import counted
from tlab.runs.advice import METRIC
from tlab.runs.loggers import short_name


@dataclass
class Setting:
    """Runs that differ in their seed and fold only, and their statistics.

    Attributes:
        levels: Level of each factor, in their order.
        runs: All of its runs, of any status.
        counted: Seed, or seed and fold -> the finished run that counts for it.
        values: The same -> monitored metric of that run.
        summary: Summary of the values; None without any.
        test: Summary of the metric on the test split; None where there is none.
        further_tests: Summary of the metric on each further test of some run, by the test's metric.
        difference: Difference to the best setting; None for the best itself and where no run has finished.
        epochs_to_target: Median epochs, counted from 1, of the runs that reached the target; None if none did.
        reached: Number of runs that did.
        joined: Of the counted runs with folds those whose predictions have each image once, in `oof.csv`.
        out_of_fold: Accuracy of these predictions over all images, the mean over the seeds; None without any.
    """

    levels: tuple[str, ...]
    runs: tuple[Run, ...]
    counted: dict[Replicate, Run]
    values: dict[Replicate, float]
    summary: Summary | None
    test: Summary | None
    further_tests: dict[str, Summary] = field(default_factory=dict)
    difference: Difference | None = None
    epochs_to_target: float | None = None
    reached: int = 0
    joined: tuple[Run, ...] = ()
    out_of_fold: float | None = None

    @property
    def result(self) -> Summary:
        """The summary, of a setting that has one."""
        assert self.summary is not None
        return self.summary

    @property
    def behind(self) -> Summary | None:
        """Summary of the differences to the best setting, seed by seed or fold by fold; None without any."""
        return self.difference.summary if self.difference else None

    @property
    def p(self) -> float | None:
        """Corrected p-value of no difference to the best setting; None without a test."""
        return self.difference.p_corrected if self.difference else None

    @property
    def is_tied(self) -> bool:
        """Whether it cannot be told from the best setting."""
        return self.p is None or self.p >= SIGNIFICANT

    @property
    def advised(self) -> list[Run]:
        """The counted runs that were run as advised, whose advice is therefore kept or missed."""
        return [run for run in self.counted.values() if run.is_kept is not None]

    @property
    def expected(self) -> tuple[float, float] | None:
        """The interval in which their advice expects `val/acc`, the mean where it differs; None without any."""
        intervals = [run.advice["expected"][METRIC] for run in self.advised]
        low, high = ([each[end] for each in intervals] for end in ("low", "high"))
        return (fmean(low), fmean(high)) if intervals else None

    def count(self, status: str) -> int:
        """Return how many of its runs have this status."""
        return sum(run.status == status for run in self.runs)

    def mean_of(self, attribute: str) -> float | None:
        """Return the mean of a number that its counted runs have as an attribute, such as `seconds`."""
        numbers = [number for run in self.counted.values() if (number := getattr(run, attribute)) is not None]
        return fmean(numbers) if numbers else None


@dataclass(frozen=True, repr=False)
class Comparison:
    """Result of `tlab.compare`.

    Attributes:
        directory: Directory in which the runs lie.
        monitor: Metric that decides, at the epoch that each run kept as its best.
        mode: `max` or `min`, whichever is better.
        test_metric: The same metric on the test split, `test/acc` for `val/acc`.
        further_tests: The same on each further test (`data.tests`) that some run has: `test/sketch/acc`.
        interval: Kind of confidence interval, `t` or `bootstrap`.
        test: Paired test, `t` or `wilcoxon`.
        target: Value of the metric that "epochs to target" counts to; None without a finished run.
        factors: What differs between the runs.
        settings: All settings, the best first; those without a finished run last.
        effects: Main effects; None where nothing varies, and over several sets of images.
        runs: All runs.
        notes: Cautions, a sentence each.
        data_sets: The sets of images that the runs are of, with the number of runs; empty where there is one, since
            only then numbers compare.
    """

    directory: Path
    monitor: str
    mode: str
    test_metric: str
    further_tests: tuple[str, ...]
    interval: str
    test: str
    target: float | None
    factors: tuple[Factor, ...]
    settings: tuple[Setting, ...]
    effects: Effects | None
    runs: tuple[Run, ...]
    notes: tuple[str, ...]
    data_sets: dict[str, int] = field(default_factory=dict)

    def __repr__(self) -> str:
        best = f", best: {self.label(self.ranked[0])}" if self.ranked else ""
        best = f" of {len(self.data_sets)} sets of images" if self.data_sets else best
        size = f"{counted(self.runs, 'run')}, {counted(self.settings, 'setting')}"
        return f"Comparison({str(self.directory)!r}: {size}{best})"

    @property
    def ranked(self) -> tuple[Setting, ...]:
        """The settings with a finished run, the best one first."""
        return tuple(setting for setting in self.settings if setting.summary is not None)

    @property
    def replicate(self) -> str:
        """What the runs of a setting are called, see `differ_in`."""
        return differ_in(self.runs)

    @property
    def is_advised(self) -> bool:
        """Whether some counted run was given advice."""
        return any(run.advice for setting in self.settings for run in setting.counted.values())

    def places(self) -> list[tuple[Run, Setting | None, int]]:
        """Return every run with its setting and that one's place; last, without one, those that never began."""
        rows = [(run, setting, place) for place, setting in enumerate(self.settings) for run in setting.runs]
        known = {run.path for run, _, _ in rows}
        return [*rows, *((run, None, len(self.settings)) for run in self.runs if run.path not in known)]

    @property
    def short_names(self) -> list[str]:
        """The factors' names; of a dotted one only the last part, where that is unique."""
        last = [factor.name.rpartition(".")[2] for factor in self.factors]
        pairs = zip(self.factors, last, strict=True)
        return [short if last.count(short) == 1 else factor.name for factor, short in pairs]

    def label(self, setting: Setting) -> str:
        """Return a setting in words, `backbone=vgg16, aug=none`; where nothing differs, the directory's name."""
        if self.factors:
            pairs = zip(self.factors, setting.levels, strict=True)
            return ", ".join(f"{factor.name}={level}" for factor, level in pairs)
        return short_name(self.directory.resolve())
