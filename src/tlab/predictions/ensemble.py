"""The model or models that predict: one run, several, or all runs of a sweep."""

import logging
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from torch import Tensor

from tlab.core.errors import UserError
from tlab.core.files import file_identity
from tlab.core.text import counted, few, noun
from tlab.data.decode_options import Levels
from tlab.models.autotune.precision import Precision
from tlab.runs.directory import RunDirectory
from tlab.runs.load import load_trained
from tlab.runs.trained_model import Prediction, TrainedModel, View

log = logging.getLogger(__name__)


class Ensemble:
    """Models whose mean probabilities are the prediction; mostly a single one.

    Lakshminarayanan, Pritzel and Blundell, "Simple and Scalable Predictive Uncertainty Estimation using Deep
    Ensembles", 2017, section 2.4.

    Args:
        models: The models, which have the same classes in any order.
        max_megapixels: Largest readable image; None: as in each run.
        flip: Whether each model's probabilities are the mean over an image and its mirror image.
        coverage: Probability with which the prediction sets hold the right class; None: no sets.

    Attributes:
        views: The ways in which its models want images, each once.
    """

    def __init__(
        self,
        models: Sequence[TrainedModel],
        max_megapixels: float | None = None,
        flip: bool = False,
        coverage: float | None = None,
    ) -> None:
        self.models, self.flip, self.coverage = models, flip, coverage
        self.views: list[View] = []
        self._view_of: list[int] = []
        for model in models:
            view = model.view
            if max_megapixels is not None:
                view = view._replace(options=replace(view.options, max_megapixels=max_megapixels))
            if view not in self.views:
                self.views.append(view)
            self._view_of.append(self.views.index(view))

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the K classes, in the order of the first model."""
        return self.models[0].classes

    @property
    def additions(self) -> list[str]:
        """Columns that rows have besides the probabilities: `known` and `set`."""
        known = ["known"] if all(model.trained.uncertainty is not None for model in self.models) else []
        return known + (["set"] if self.coverage is not None else [])

    @property
    def batch_size(self) -> int:
        """Number of images in a batch, as in the first model's run."""
        return int(self.models[0].trained.config.data.batch_size)

    @property
    def levels(self) -> Levels:
        """Black and white of samples of more than 8 bits, as in the first model's run."""
        return self.views[0].options.levels

    @property
    def max_megapixels(self) -> float:
        """The largest image that every model reads."""
        return min(view.options.max_megapixels for view in self.views)

    def digest(self) -> bytes:
        """Return a hash of the checkpoints, and of how they compute."""
        found = blake2b(digest_size=16)
        for model in self.models:
            file = model.trained.checkpoint.resolve()
            found.update(os.fsencode(f"{file} {file_identity(file)} {model.precision} {model.device.type}\0"))
        return found.digest()

    def predictions(self, images: Sequence[Tensor]) -> Iterator[Prediction]:
        """Yield a prediction for each image of a batch.

        Args:
            images: The batch in each of the `views`: uint8 `B 3 S S`.
        """
        each = [
            model.predictions(images[view], self.flip, self.coverage)
            for model, view in zip(self.models, self._view_of, strict=True)
        ]
        for several in zip(*each, strict=True):
            yield several[0] if len(several) == 1 else mean_prediction(several)


def mean_prediction(predictions: Sequence[Prediction]) -> Prediction:
    """Return the prediction with the mean probability of each class, in the order of the first one's classes.

    At least half of the models know a known image, and at least half of their sets have each class of its set: a
    vote, which misses the right class at most twice as often as one set does (Gasparin and Ramdas 2024, "Merging
    uncertainty sets via majority vote", arXiv:2401.09379, theorem 2.1), and mostly about as often.
    """
    names, half = predictions[0].probabilities, len(predictions) / 2
    known = [each.known for each in predictions if each.known is not None]
    sets = [each.prediction_set for each in predictions if each.prediction_set is not None]
    return Prediction.of(
        {name: sum(p.probabilities[name] for p in predictions) / len(predictions) for name in names},
        sum(known) >= half if len(known) == len(predictions) else None,
        [name for name in names if sum(name in each for each in sets) >= half] if sets else None,
    )


def load_ensemble(
    run: Any,
    trust: bool = False,
    accelerator: str = "auto",
    precision: Precision | None = None,
    max_megapixels: float | None = None,
    flip: bool = False,
    coverage: float | None = None,
    calibrate: str | bool | None = "auto",
) -> Ensemble:
    """Read the models that `run` names: a run or checkpoint, a list of them, or a folder of runs.

    Args:
        run: The value of `run`.
        trust: See `load_trained`.
        accelerator: See `TrainedModel`.
        precision: See `TrainedModel`.
        max_megapixels: See `Ensemble`.
        flip: See `Ensemble`.
        coverage: See `Ensemble`.
        calibrate: See `TrainedModel`.

    Raises:
        UserError: One of them is not there or has no sets, or their classes differ.
    """
    texts = [str(run)] if isinstance(run, str | os.PathLike) else list(map(str, run))
    paths = [path for text in texts for path in _members(Path(text))]
    if not paths:
        raise UserError("run=[] names no run; give the directory of a finished run, or a .ckpt file")
    models = [TrainedModel(load_trained(path, trust), accelerator, precision, calibrate) for path in paths]
    for path, model in zip(paths, models, strict=True):
        _check_classes(paths[0], models[0].classes, path, model.classes)
    if waiting := [str(path) for path in paths if RunDirectory(path).lacks_refit]:
        log.warning("Not refitted yet, so it is best.ckpt that predicts: %s", few(waiting))
    if len(paths) > 1:
        log.warning("The mean of %d runs: %s", len(paths), few(map(str, paths), 5))
    for model in models:
        model.check_coverage(coverage)
    _remark(models, coverage)
    return Ensemble(models, max_megapixels, flip, coverage)


def _remark(models: Sequence[TrainedModel], coverage: float | None) -> None:
    """Log which models cannot tell known images, and whether validation images were too few for the coverage."""
    kept = [model.trained.uncertainty for model in models]
    if silent := [str(model.trained.checkpoint) for model in models if model.trained.uncertainty is None]:
        log.warning("No column known: %s (unfinished, or of an earlier version) does not tell", few(silent))
    numbers = [len(each.calibration) for each in kept if each is not None]
    if coverage is not None and coverage * (min(numbers) + 1) > min(numbers):
        least = math.ceil(coverage / (1 - coverage) - 1e-9)
        log.warning(
            "coverage=%g needs %s, and %d %s there: no set leaves a class out",
            *(coverage, counted(least, "validation image"), min(numbers), noun(min(numbers), "was", "were")),
        )


def _members(path: Path) -> list[Path]:
    """Return the run or checkpoint, or the finished runs below a folder of runs, such as a sweep."""
    run = RunDirectory(path)
    if not path.is_dir() or run.record_file.exists() or run.used.exists():
        return [path]
    runs = [file.parent for file in sorted(path.rglob("run.json")) if file.parent.parent.name != "baselines"]
    finished = [each for each in runs if (one := RunDirectory(each)).is_trained and one.used.exists()]
    if not runs:
        return [path]  # which loading then refuses
    left_out = [str(each.relative_to(path)) for each in runs if each not in finished]
    if not finished:
        raise UserError(
            f"run={path} holds {counted(runs, 'run')}, of which none is finished; finish one, or give another"
        )
    if left_out:
        are = noun(len(left_out), "is", "are")
        what = "%d of %d runs in %s %s not finished and left out: %s"
        log.warning(what, len(left_out), len(runs), path, are, few(left_out))
    return finished


def _check_classes(first: Path, classes: Sequence[str], path: Path, others: Sequence[str]) -> None:
    """Refuse a run whose classes are not those of the first one."""
    for one, own, two, theirs in ((path, others, first, classes), (first, classes, path, others)):
        if more := [name for name in own if name not in theirs]:
            number = counted({*own} ^ {*theirs}, "class is", "classes are")
            raise UserError(
                f"run={one} has the class {more[0]!r}, which run={two} has not ({number} in one of the two alone); "
                "give runs with the same classes"
            )
