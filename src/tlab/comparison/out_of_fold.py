"""Out-of-fold predictions: what each fold's run says of the images that it has not trained on, joined."""

import csv
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean

from tlab.comparison.factors import Factor
from tlab.comparison.load import Run
from tlab.comparison.result import Comparison, Setting
from tlab.core.errors import UserError
from tlab.core.files import atomic_path, csv_line
from tlab.core.text import few, noun
from tlab.runs.directory import RunDirectory

OWN = ("fold", "seed", "setting")  # columns of `oof.csv` that come after those of `predictions_val.csv`


def join_folds(setting: Setting, factors: Sequence[Factor]) -> list[str]:
    """Note which runs of a setting have predictions of each image once between them, and how many are right.

    Args:
        setting: The setting, in which this is noted.
        factors: What differs between the settings, for the sentences.

    Returns:
        A sentence for each seed of which that is not so: what is missing, or double.
    """
    by_seed: dict[int, list[Run]] = defaultdict(list)
    for run in setting.counted.values():
        if run.folds:
            by_seed[run.seed].append(run)
    joined, accuracies, notes = [], [], []
    name = ", ".join(f"{each.name}={level}" for each, level in zip(factors, setting.levels, strict=True))
    for seed, runs in by_seed.items():
        try:
            accuracies.append(_accuracy(runs))
            joined += runs
        except (UserError, OSError, ValueError, KeyError, csv.Error) as error:
            notes.append(f"oof.csv has nothing of {f'{name}, ' if name else ''}seed {seed}: {error}")
    setting.joined, setting.out_of_fold = tuple(joined), fmean(accuracies) if accuracies else None
    return notes


def _accuracy(runs: Sequence[Run]) -> float:
    """Return the accuracy of the predictions of one seed's folds, each image once.

    Raises:
        UserError: A fold is missing, or an image is in none or in several.
        OSError, ValueError, KeyError, csv.Error: A table cannot be read.
    """
    from tlab.data.contents import read_entries  # with the checks of images, for which --help need not wait

    folds = range(runs[0].folds or 0)
    if missing := [str(fold) for fold in folds if fold not in {run.fold for run in runs}]:
        raise UserError(f"fold {few(missing)} of {len(folds)} has no finished run")
    seen: Counter[str] = Counter()
    right, measured = 0, set[str]()  # a class of one image is trained on in every fold
    for run in runs:
        entries = read_entries(RunDirectory(run.path).data_file)
        skipped, root = RunDirectory(run.path).unreadable(), run.record.get("data", {}).get("root")
        measured |= {e.path for e in entries if e.split == "val" and f"{root}/{e.path}" not in skipped}
        for row in _rows(run):
            seen[row["path"]] += 1
            right += row["label"] == row["prediction"]
    doubled = [path for path, times in seen.items() if times > 1]
    lacking = sorted(measured - seen.keys())
    for paths, what in ((doubled, "predicted by several folds"), (lacking, "predicted by no fold")):
        if paths:
            raise UserError(
                f"{len(paths)} of {len(measured)} images {noun(len(paths), 'is', 'are')} {what} ({few(paths)})"
            )
    return right / seen.total()


def _rows(run: Run) -> Iterator[dict[str, str]]:
    file = RunDirectory(run.path).val_predictions_file
    if not file.exists():
        raise UserError(f"{file} is missing; the run's command writes it again")
    with file.open(encoding="utf-8", newline="") as lines:
        yield from csv.DictReader(lines)


def write_out_of_fold(comparison: Comparison, directory: Path) -> Path | None:
    """Write `oof.csv` and return its path; None without folds whose predictions have each image once.

    A row for each image, setting and seed: the columns of the runs' `predictions_val.csv`, then `fold`, `seed` and
    `setting`. What an earlier comparison of folds has left is removed where there is nothing to write.
    """
    file = directory / "oof.csv"
    runs = [(run, comparison.label(setting)) for setting in comparison.ranked for run in setting.joined]
    if not runs:
        if comparison.replicate != "seed":
            file.unlink(missing_ok=True)
        return None
    heads = (next(iter(_rows(run)), {}) for run, _ in runs)
    columns = [*dict.fromkeys(name for head in heads for name in head)]
    with atomic_path(file) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        stream.write(csv_line([*columns, *OWN]))
        for run, label in runs:  # a table at a time
            for row in _rows(run):
                stream.write(csv_line([*(row.get(name) for name in columns), run.fold, run.seed, label]))
    return file
