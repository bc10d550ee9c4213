"""The run directory: the files that a run leaves, under names that later work relies on."""

import csv
import json
import re
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from tlab.config.diff import differences
from tlab.config.overrides import shell_argument
from tlab.core.errors import INTERRUPTED, RunDirectoryConflict, RunDirectoryLocked, UserError
from tlab.core.files import leave_memory, write_csv, write_text
from tlab.core.locks import FileLock
from tlab.core.processes import first_process
from tlab.core.text import few

if TYPE_CHECKING:
    from tlab.data.contents import Contents
    from tlab.data.sources.verify import Unreadable

TIME = "%Y-%m-%dT%H:%M:%S%z"  # format of times in records
PERCENT = ("acc", "f1", "acc_top5", "unknown")  # shares of 1, printed as percent
MEASURES = ("loss", *PERCENT)  # of a split; those of classes are called `test/acc_class/NAME`
ELSEWHERE = "give another hydra.run.dir, or the same settings"
TEMPORARY = re.compile(r"\..+\.\w+\.[a-z0-9_]{8}")  # files of `core.files.atomic_path`: `.run.json.ab12cd09`


class RunDirectory:
    """One run's directory; everything about it that is read later is read through this class.

    Of several processes of a run only the first one writes.

    Args:
        path: Path of the directory, which is made on the first write.
        stage: What the files of training begin with; "" for the run itself, see `refitting`.
    """

    def __init__(self, path: Path, stage: str = "") -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.best = self.checkpoints / f"{stage}best.ckpt"
        self.last = self.checkpoints / f"{stage}last.ckpt"
        self.previous = self.checkpoints / f"{stage}previous.ckpt"
        self.head = self.checkpoints / "head.ckpt"
        self.soup = self.checkpoints / "soup.ckpt"
        self.refit = self.checkpoints / "refit.ckpt"
        self.history_file = path / f"{stage}history.csv"
        self.metrics_file = path / "metrics.json"
        self.record_file = path / "run.json"
        self.data_file = path / "data.csv"
        self.val_predictions_file = path / "predictions_val.csv"
        self.unreadable_file = path / "unreadable.csv"
        self.traceback_file = path / "traceback.txt"
        self.overrides_file = path / ".hydra" / "overrides.yaml"

    @classmethod
    def of_checkpoint(cls, checkpoint: Path, classes: Sequence[str]) -> "RunDirectory | None":
        """Return the directory of the run that a checkpoint is of, under its absolute path; None for a lone one.

        Args:
            checkpoint: The checkpoint.
            classes: Names of the classes that it was trained on, which a run has whose checkpoint it is.

        Raises:
            UserError: The record of the run is damaged.
        """
        folder = checkpoint.absolute().parent
        run = cls(folder.parent)
        if folder != run.checkpoints or run.record.get("class_names") != list(classes):
            return None
        return run

    @property
    def record(self) -> dict[str, Any]:
        """`run.json`: status, versions, seed, device, data, phases; empty before the run has begun.

        Raises:
            UserError: The file is damaged.
        """
        return self._read_json(self.record_file)

    @property
    def status(self) -> str | None:
        """`running`, `finished`, `failed`, `pruned` (ended by a search), or None where no run has begun."""
        return self.record.get("status")

    @property
    def has_begun(self) -> bool:
        """Whether there is a checkpoint to resume from."""
        return self.last.exists() or self.previous.exists()

    @property
    def selected(self) -> Path:
        """The checkpoint that validation has chosen, and that `metrics.json` is of: a soup, else the best epoch."""
        return self.soup if self.soup.exists() else self.best

    @property
    def used(self) -> Path:
        """The checkpoint that prediction and evaluation take: of a refit, else the selected one."""
        return self.refit if self.refit.exists() else self.selected

    @property
    def refitting(self) -> "RunDirectory":
        """The same directory with the names that a refit's own training has: `refit_last.ckpt` and the like."""
        return RunDirectory(self.path, "refit_")

    @property
    def is_refitted(self) -> bool:
        """Whether the run has been trained again, on its validation images too."""
        return bool(self.record.get("refit")) and self.refit.exists()

    @property
    def is_trained(self) -> bool:
        """Whether the training that `metrics.json` is of is over; a refit, or a further test, may not be."""
        return self.metrics_file.exists()

    @property
    def _of_weights(self) -> tuple[Path, ...]:
        """The files that are of a training's weights, or tell of them."""
        checkpoints = (self.best, self.last, self.previous, self.head, self.soup, self.refit)
        measured = (self.metrics_file, self.val_predictions_file, *self.path.glob("confusion_*.csv"))
        return (*checkpoints, self.history_file, *measured)

    def lacking(self, config: Mapping[str, Any]) -> list[str]:
        """Return what a run that is trained lacks of what its configuration makes, but for `data.tests`.

        Args:
            config: The whole configuration, resolved, or a record of it.
        """
        lacks = {
            "its refit": config.get("refit") and not self.is_refitted,
            self.val_predictions_file.name: (config.get("data") or {}).get("folds") is not None
            and not self.val_predictions_file.exists(),
        }
        return [name for name, lacking in lacks.items() if lacking]

    @property
    def lacks_refit(self) -> bool:
        """Whether it is trained and its refit, which was interrupted or has failed, is still to do."""
        return self.is_trained and bool(self.record.get("config", {}).get("refit")) and not self.is_refitted

    def metrics(self) -> dict[str, float]:
        """Return `metrics.json`; empty before the run has finished.

        Raises:
            UserError: The file is damaged.
        """
        return self._read_json(self.metrics_file)

    def images(self) -> dict[str, int]:
        """Return the number of images of each split, and of each further test, `test/NAME`; of old runs of none.

        A split that was measured in part, by `trainer.limit_val_batches` or the like, is left out.
        """
        record = self.record
        tests = {f"test/{name}": each["images"] for name, each in record.get("tests", {}).items()}
        numbers: dict[str, int] = record.get("data", {}).get("images", {}) | tests
        limits = record.get("config", {}).get("trainer") or {}
        limit_of = {split: limits.get(f"limit_{split}_batches") for split in ("train", "val", "test")}
        partly = {
            split
            for split, limit in limit_of.items()
            if limit is not None and not (isinstance(limit, float) and limit == 1)  # 1.0 is all, but 1 is one batch
        }
        return {name: number for name, number in numbers.items() if name.partition("/")[0] not in partly}

    def update(self, **entries: Any) -> None:
        """Merge `entries` into `run.json`."""
        self._write_json(self.record_file, self.record | entries)

    def is_finished(
        self, config: dict[str, Any], resume: str, way_out: Callable[[Sequence[str]], str] | None = None
    ) -> bool:
        """Tell whether this very run is trained here; False where it is to begin or to be resumed.

        Args:
            config: The whole configuration, resolved.
            resume: `never` refuses a directory in which a run has begun; anything else resumes that run.
            way_out: Function of the keys that differ, which says what to do then; None: another directory.

        Raises:
            RunDirectoryConflict: A run with other settings is here, or any with `resume=never`.
        """
        if self.status is None or (self.status == "failed" and not self.has_begun):
            return False
        if resume == "never":
            raise RunDirectoryConflict(
                f"{self.path} already holds a run; give another hydra.run.dir, or resume=auto to resume it"
            )
        changed = sorted(differences(self.record.get("config", {}), config))
        if changed:
            told = [key for key in changed if not key.startswith("data.module.")] or changed
            raise RunDirectoryConflict(
                f"{self.path} holds a run with another {few(told)}; {way_out(changed) if way_out else ELSEWHERE}"
            )
        return self.is_trained  # one whose metrics were moved away measures its best checkpoint again

    @contextmanager
    def recording(self, config: dict[str, Any], **entries: Any) -> Iterator[None]:
        """Keep the status in `run.json`: `running` inside the block, `failed` if it ends with an exception.

        Raises:
            RunDirectoryLocked: Another process is at work in this directory, or has just finished the run.
        """
        with self._locked():
            if self.status == "finished" and self.is_trained:  # since `is_finished` has looked
                raise RunDirectoryLocked(
                    f"another process has just finished {self.path}; the same command returns its result"
                )
            self.update(status="running", started=now(), ended=None, error=None, config=config, **entries)
            # without a checkpoint to resume from, what there is of an earlier run is not this one's
            left = () if self.has_begun else (*self._of_weights, *self.refitting._of_weights)
            for file in (self.traceback_file, *left):
                file.unlink(missing_ok=True)
            try:
                yield
            except (KeyboardInterrupt, SystemExit) as error:  # Lightning turns the first into the second
                self.update(status="failed", ended=now(), error="interrupted")
                code = error.code if isinstance(error, SystemExit) else INTERRUPTED
                raise SystemExit(code) from error
            except BaseException as error:
                self._record_failure(error)
                raise

    def record_failure(self, error: BaseException) -> None:
        """Record what kept a run from beginning or resuming: status `failed`, and `traceback.txt`.

        A finished run stays as it is, and so does one that another process is at work on, or whose directory cannot
        be written.
        """
        with suppress(RunDirectoryLocked, OSError), self._locked():
            if self.status != "finished":
                self._record_failure(error)

    def _record_failure(self, error: BaseException) -> None:
        with suppress(OSError):  # the very reason may be a full disk, and `error` is what counts
            kind = "UserError" if isinstance(error, UserError) else type(error).__name__
            self.update(status="failed", ended=now(), error=f"{kind}: {error}")
            if first_process():
                write_text(self.traceback_file, "".join(traceback.format_exception(error)))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes out."""
        lock = FileLock(self.path / ".lock")
        if not lock.acquire(wait=False):
            raise RunDirectoryLocked(
                f"another process is at work in {self.path}; wait for it, or give another hydra.run.dir"
            )
        try:
            # without locks another process may be writing them now
            for folder in (self.path, self.checkpoints, self.path / ".hydra") if lock.excludes else ():
                for left_over in folder.glob(".*"):
                    if TEMPORARY.fullmatch(left_over.name):  # left by a process that was killed while it wrote
                        left_over.unlink(missing_ok=True)
            yield
        finally:
            lock.release()

    def write_config(self, config: str, overrides: list[str]) -> None:
        """Write the composed configuration (YAML) and the overrides it came from, where Hydra would.

        Hydra itself writes before a directory with another run in it can be refused.
        """
        if first_process():
            write_text(self.path / ".hydra" / "config.yaml", config)
            write_text(self.overrides_file, OmegaConf.to_yaml(OmegaConf.create(list(overrides))))

    def finish(self, metrics: dict[str, float], **entries: Any) -> None:
        """Write the metrics, record that the run is finished, and delete what only resuming needs.

        Besides the checkpoint before the last these are those of a refit, which is done, or wanted no more.
        """
        self._write_json(self.metrics_file, metrics)
        self.update(status="finished", ended=now(), **entries)
        for file in (self.previous, self.refitting.last, self.refitting.previous):
            file.unlink(missing_ok=True)
        for checkpoint in (self.best, self.last, self.head, self.soup, self.refit):
            leave_memory(checkpoint)

    def end_training(self, metrics: dict[str, float], **entries: Any) -> None:
        """Write the metrics before the run is finished, since a refit may still take long."""
        self.update(**entries)
        self._write_json(self.metrics_file, metrics)

    def reopen(self, lacking: Sequence[str], tests: Sequence[str] = ()) -> None:
        """Record that a trained run is gone on with, for what it lacks.

        Args:
            lacking: See there.
            tests: Names of further tests that it is to be measured on.

        Raises:
            UserError: There is no checkpoint to go on from.
        """
        there = {self.last: self.has_begun, self.selected: self.selected.exists()}
        if gone := next((file for file, is_there in there.items() if not is_there), None):
            what = few([*lacking, *(f"data.tests.{name}" for name in tests)]) or "the rest of its command"
            way_out = "give another hydra.run.dir"
            if tests and not lacking and there[self.selected]:
                way_out = (
                    f"measure each with python -m tlab.evaluate {shell_argument('run', self.path)} data.root=DIR"
                )
            raise UserError(f"{self.path} is finished, but {gone.name} is gone, which {what} needs; {way_out}")
        self.update(status="running")

    def prune(self, **entries: Any) -> None:
        """Record that the run was pruned; `tlab.train` in its directory would resume it."""
        self.update(status="pruned", ended=now(), **entries)

    def history(self) -> list[dict[str, str]]:
        """Return the rows of `history.csv`, one per epoch, as text."""
        return _read_rows(self.history_file)

    def write_history(self, rows: list[dict[str, Any]]) -> None:
        """Write `history.csv`; its columns are those of all rows, in order of appearance."""
        if first_process():
            write_csv(self.history_file, list(dict.fromkeys(key for row in rows for key in row)), rows)

    def overrides(self) -> list[str]:
        """Return the overrides that the run was composed from; empty where none were written."""
        if not self.overrides_file.exists():
            return []
        read = OmegaConf.to_container(OmegaConf.load(self.overrides_file))
        return [str(override) for override in read] if isinstance(read, list) else []

    def confusion(self, split: str) -> list[dict[str, str]]:
        """Return the rows of `confusion_<split>.csv` (`label`, `prediction`, `count`) as text; empty without it."""
        return _read_rows(self.path / f"confusion_{split}.csv")

    def write_confusion(self, split: str, rows: list[dict[str, Any]]) -> None:
        """Write `confusion_<split>.csv`; pairs of classes that never occur have no row."""
        if first_process():
            write_csv(self.path / f"confusion_{split}.csv", ["label", "prediction", "count"], rows)

    def write_data(self, contents: "Contents") -> None:
        """Write `data.csv`: the images of the run (`split`, `path` below the root, `label`, `size`, `digest`)."""
        if first_process():
            contents.write(self.data_file)

    def write_unreadable(self, files: "Iterable[Unreadable]") -> None:
        """Write `unreadable.csv`: the image files that were skipped (`path`, `reason`); none, no file."""
        rows = [{"path": str(file.path), "reason": file.reason} for file in files]
        if first_process() and rows:
            write_csv(self.unreadable_file, ["path", "reason"], rows)
        elif first_process():
            self.unreadable_file.unlink(missing_ok=True)

    def unreadable(self) -> dict[str, str]:
        """Return path -> reason of the files in `unreadable.csv`."""
        if not self.unreadable_file.exists():
            return {}
        with self.unreadable_file.open(encoding="utf-8", newline="") as lines:
            return {row["path"]: row["reason"] for row in csv.DictReader(lines)}

    def _read_json(self, file: Path) -> dict[str, Any]:
        try:
            return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}
        except (ValueError, TypeError) as error:
            raise UserError(f"{file} is damaged ({error}); move it away, or give another hydra.run.dir") from error

    def _write_json(self, file: Path, content: dict[str, Any]) -> None:
        if first_process():
            write_text(file, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _read_rows(file: Path) -> list[dict[str, str]]:
    if not file.exists():
        return []
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def now() -> str:
    """Return the current time in the records' format."""
    return time.strftime(TIME)


def tests_in(metrics: Iterable[str]) -> list[str]:
    """Return the names of the further tests that metrics of a run are of: `sketch` of `test/sketch/acc`."""
    parts = [name.split("/") for name in metrics if name.startswith("test/")]
    tests = dict.fromkeys(each[1] for each in parts if len(each) == 3 and each[2] in MEASURES)
    return [name for name in tests if name != "acc_class"]
