"""The points of a study's figure, read from its run directories."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from tlab.core.errors import UserError
from tlab.core.files import write_csv
from tlab.core.text import counted, few
from tlab.runs.directory import RunDirectory
from tlab.studies.study_runs import LIMIT, StudyRun

WIDE = 8  # ratio of the largest to the smallest number from which the axis is logarithmic


@dataclass(frozen=True)
class Point:
    """The runs of a line at one place.

    Attributes:
        x: The place as it is written.
        position: Where that is along the figure.
        values: Seed -> metric.
    """

    x: str
    position: float
    values: Mapping[int, float]

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return sum(self.values.values()) / len(self.values)

    @property
    def low(self) -> float:
        """Lowest value of a seed."""
        return min(self.values.values())

    @property
    def high(self) -> float:
        """Highest value of a seed."""
        return max(self.values.values())


@dataclass(frozen=True)
class Line:
    """One line: its points in order, or the only one of a line that is the same at all places."""

    name: str
    points: tuple[Point, ...]
    moves: bool


@dataclass(frozen=True)
class Figure:
    """What a study shows.

    Attributes:
        metric: Metric along the vertical axis.
        lines: The lines that have points.
        is_number: Whether places are numbers, else names at 0, 1, ...
        remarks: What was left out.
    """

    metric: str
    lines: tuple[Line, ...]
    is_number: bool
    remarks: tuple[str, ...]

    @property
    def ticks(self) -> dict[float, str]:
        """Positions along the figure in order, with their names."""
        moving = [point for line in self.lines if line.moves for point in line.points]
        return {point.position: point.x for point in sorted(moving, key=lambda point: point.position)}

    @property
    def is_log(self) -> bool:
        """Whether the numbers along the figure are far enough apart for a logarithmic axis."""
        return self.is_number and min(self.ticks, default=0) > 0 and max(self.ticks) >= WIDE * min(self.ticks)


def read_figure(cfg: DictConfig, results: Mapping[StudyRun, RunDirectory]) -> Figure:
    """Return the figure as far as its runs are finished.

    Args:
        cfg: Configuration of tlab.study.
        results: Directory of each run.

    Raises:
        UserError: No run is finished, or none has the metric.
    """
    measured = {run: directory.metrics() for run, directory in results.items() if directory.status == "finished"}
    if not measured:
        raise UserError(f"no run of name={cfg.name} is finished; give the command again once what failed is mended")
    metric = cfg.y or ("test/acc" if all("test/acc" in each for each in measured.values()) else "val/acc")
    shown = {run: each[metric] for run, each in measured.items() if metric in each}
    if not shown:
        names = [name for name in next(iter(measured.values())) if "/" in name and "class" not in name]
        raise UserError(f"y={metric} is no metric of the runs; give y={names[0]}, or another of {few(names, 20)}")
    remarks = []
    if left := len(results) - len(shown):
        remarks.append(f"{counted(left, 'run')} of {len(results)} left out, not finished or without {metric}.")
    positions, is_number = _positions(cfg.x, {run: results[run] for run in shown})
    lines, doubled = [], 0
    for name in dict.fromkeys(run.line for run in results):
        labels: dict[float, str] = {}
        values: dict[float, dict[int, float]] = defaultdict(dict)
        for run, value in shown.items():
            if run.line == name:
                place, seed = positions[name, run.x or ""], int(results[run].record["seed"])
                labels.setdefault(place, f"{place:,.0f}" if cfg.x == LIMIT else run.x or "")
                doubled += seed in values[place]
                values[place].setdefault(seed, value)
        points = (Point(labels[place], place, dict(sorted(values[place].items()))) for place in sorted(values))
        if values:
            moves = any(run.x is not None for run in results if run.line == name)
            lines.append(Line(name, tuple(points), moves))
    if doubled:
        alike = "images" if cfg.x == LIMIT else cfg.x
        remarks.append(f"{counted(doubled, 'run')} left out, with the same seed and {alike} as another.")
    return Figure(metric, tuple(lines), is_number, tuple(remarks))


def _positions(x: str, runs: Mapping[StudyRun, RunDirectory]) -> tuple[dict[tuple[str, str], float], bool]:
    """Return where each line's places are along the figure, and whether these are numbers."""
    if x == LIMIT:
        counts = defaultdict(list)
        for run, directory in runs.items():
            counts[run.line, run.x or ""].append(directory.record["data"]["images"]["train"])
        return {key: sum(each) / len(each) for key, each in counts.items()}, True
    numbers: dict[str, float] = {}
    names = list(dict.fromkeys(run.x for run in runs if run.x is not None))
    with suppress(ValueError):
        numbers = {name: float(name) for name in names}
    places = numbers if len(numbers) == len(names) else {name: float(i) for i, name in enumerate(names)}
    return {(run.line, run.x or ""): places.get(run.x or "", 0.0) for run in runs}, bool(numbers)


def write_points(figure: Figure, file: Path) -> None:
    """Write the points as a table, a row for each run; places that are numbers as plain ones."""
    rows: Iterable[dict[str, object]] = (
        {
            "line": line.name,
            "x": "" if not line.moves else f"{point.position:.12g}" if figure.is_number else point.x,
            "seed": seed,
            figure.metric: value,
        }
        for line in figure.lines
        for point in line.points
        for seed, value in point.values.items()
    )
    write_csv(file, ["line", "x", "seed", figure.metric], rows)
