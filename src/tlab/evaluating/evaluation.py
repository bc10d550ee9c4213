"""What an evaluation has found."""

import json
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlab.core.text import as_text

if TYPE_CHECKING:  # torch is imported when the work begins, not for --help
    import numpy as np
    from numpy.typing import NDArray

    from tlab.data.datamodule import ImageDataModule
    from tlab.data.sources.samples import Sample
    from tlab.models.calibration.measures import Measures
    from tlab.runs.load import Trained


@dataclass(frozen=True)
class Evaluation:
    """What a trained run is worth on a split.

    Attributes:
        metrics: `<split>/acc`, `<split>/loss` and the rest, as the run itself would measure them.
        trained: The run.
        split: What was measured: `test`, or `test/NAME` of a further test.
        root: Folder of the images.
        choices: What of `data.*` decides which images of the folder are measured, where it is not as in the run.
        is_own: Whether they are the run's own.
        images: Number of images.
        absent: Classes without an image.
        divisor: What logits were divided by.
        measures: See `models.calibration.measures`.
        by_divisor: `nll` and `ece` with logits as they are (1), and divided by the checkpoint's temperature.
        data: The data, with this split alone.
        logits: Of each image that could be read: `N K`, float32.
        remarks: Sentences about what to beware of.
    """

    metrics: dict[str, float]
    trained: "Trained"
    split: str
    root: Path
    choices: Mapping[str, Any]
    is_own: bool
    images: int
    absent: list[str]
    divisor: float
    measures: "Measures"
    by_divisor: "dict[float, Measures]"
    data: "ImageDataModule"
    logits: "NDArray[np.float32]"
    remarks: list[str]

    @property
    def title(self) -> str:
        """The split, and of which folder it is where that is not the run's own."""
        return self.split if self.is_own else f"{self.split} of {self.root.name}"

    @property
    def samples(self) -> "list[Sample]":
        """The images that could be read, with their labels: N."""
        (split,) = self.data.index.splits
        return [sample for sample in self.data.samples(split) if sample.file not in self.data.skipped]

    def plain(self) -> dict[str, Any]:
        """Return the contents of `evaluation_<split>.json`."""
        value, lowers_nll = self.trained.temperature
        without, scaled = (_plain(self.by_divisor[divisor]) for divisor in (1.0, value))
        return {
            "split": self.split,
            "root": as_text(str(self.root)),
            "choices": {name: _text_of(value) for name, value in self.choices.items()},
            "checkpoint": as_text(str(self.trained.checkpoint.resolve())),
            "images": self.images,
            "absent_classes": self.absent,
            **_plain(self.measures),
            "calibrated": self.divisor != 1,
            "temperature": {"value": value, "lowers_nll_of_val": lowers_nll, "without": without, "with": scaled},
            **self.metrics,
        }

    def name_in(self, folder: Path) -> str:
        """Return the name by which this evaluation is kept in a folder, as `evaluation_<name>.json`.

        It is the split; where the images are not the run's own also their folder, what is left out of it, and the
        table. Where an evaluation of other images or of another checkpoint has this name there, what differs is
        added: the folder above the images, the checkpoint; and where that is taken too, a digest.
        """
        checkpoint, said = self.trained.checkpoint.resolve(), self.plain()
        is_below = checkpoint.is_relative_to(folder.resolve())  # so it may have been moved with its evaluations
        words = {"split": "", "checkpoint": checkpoint.stem}
        name = self.split.replace("/", "_")
        if not self.is_own:
            words = {"split": "", "root": self.root.parent.name, "choices": "", "checkpoint": checkpoint.stem}
            name = "_".join([f"{name}_of_{self.root.name}", *_words(self.choices)])

        def differing(name: str) -> list[str]:
            there = _content(folder / f"evaluation_{name}.json")
            if is_below and Path(there.get("checkpoint", "")).name == checkpoint.name:
                there["checkpoint"] = said["checkpoint"]
            if there:  # maybe of an earlier version, which told the table alone
                there.setdefault("choices", {"labels": there["labels"]} if there.get("labels") else {})
            return [key for key in words if key in there and there[key] != said[key]]

        added = [words[key] for key in differing(name) if words[key]]
        if not differing(longer := "_".join([name, *added])):
            return longer
        digest = blake2b("\0".join(str(said[key]) for key in words).encode(), digest_size=4)
        return f"{name}_{digest.hexdigest()}"

    @property
    def of_temperature(self) -> str:
        """What the checkpoint's temperature changes, and whether it was applied, in a sentence."""
        value = self.trained.temperature.value
        if value == 1:
            return "temperature 1: probabilities are those of the network"
        parts = []
        for name, title in (("nll", "NLL"), ("ece", "ECE")):
            before, after = (self.by_divisor[divisor][name] for divisor in (1.0, value))
            if before is not None and after is not None:
                parts.append(f"{title} {before.value:.4f} without, {after.value:.4f} with it")
        fitted = " (fitted on these images)" if self.is_own and self.split == "val" else ""
        told = f": {'; '.join(parts)}{fitted}" if parts else ""
        applied = "not applied (calibrate=true applies it)" if self.divisor == 1 else "applied"
        return f"temperature {value:.3g}, {applied}{told}"


def _text_of(value: Any) -> Any:
    if isinstance(value, list):
        return [*map(as_text, value)]
    return as_text(value) if isinstance(value, str) else value


def _words(choices: Mapping[str, Any]) -> list[str]:
    """Return what a file's name tells of the choices: what is left out, and the table."""
    left_out = "_".join(re.findall(r"[\w.-]+", " ".join(choices.get("exclude", ()))))[:40]
    table = Path(choices.get("labels", "")).stem
    return [*([f"without_{left_out}"] if left_out else []), *([table] if table else [])]


def _plain(measures: "Measures") -> dict[str, Any]:
    return {name: found and found._asdict() for name, found in measures.items()}


def _content(file: Path) -> dict[str, Any]:
    """Return what a JSON file says; nothing if it is not there, or says something else."""
    with suppress(OSError, ValueError):
        if isinstance(content := json.loads(file.read_text(encoding="utf-8")), dict):
            return content
    return {}


def as_json(values: Mapping[str, Any]) -> str:
    """Return JSON in which what is no finite number is null."""

    def finite(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: finite(each) for key, each in value.items()}
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(finite(values), indent=2, ensure_ascii=False) + "\n"
