"""From files to rows: the images of a batch are read, the models answer, and the answers become cells."""

import math
from collections.abc import Iterator

from tlab.core.machine_failures import naming_batch_size
from tlab.data import progress_bar
from tlab.data.sources.verify import FileCheck
from tlab.predictions.ensemble import Ensemble
from tlab.predictions.file_counts import FileCounts
from tlab.predictions.images import ImageReader, Images, read_images
from tlab.predictions.rows import NO_ANSWER, Row
from tlab.runs.trained_model import Prediction


def predict_batches(
    model: Ensemble, counts: FileCounts, batch_size: int, num_workers: int | None, start: int = 0
) -> Iterator[list[Row]]:
    """Yield the rows of the files in batches, with a progress bar on a terminal.

    A file that cannot be read has a row too, with an empty prediction and the `reason`. One that is cut short is
    predicted from what can be read, if that is most of it.

    Args:
        model: What predicts.
        counts: The files; what is wrong with them is counted here.
        batch_size: Number of files in a batch.
        num_workers: Number of processes that decode; None chooses.
        start: Number of the first file.

    Raises:
        OutOfMemory: A batch is too large.
    """
    files = counts.files
    reader = ImageReader(files, model.views, model.max_megapixels)
    with naming_batch_size(batch_size):
        batches = read_images(reader, start, batch_size, num_workers)
        for images in progress_bar.shown(batches, "Predicting", len(files) - start, _size):
            yield _rows(images, model, counts)


def _size(images: Images) -> int:
    return len(images.checks)


def _rows(images: Images, model: Ensemble, counts: FileCounts) -> list[Row]:
    rows: list[Row] = []
    for number, check in enumerate(images.checks, images.start):
        counts.add(number, check)
        rows.append({"path": counts.files.path(number), "prediction": ""})
        if check.reason:
            rows[-1]["reason"] = check.reason
    if images.readable:
        for place, prediction in zip(images.readable, model.predictions(images.views), strict=True):
            if not math.isfinite(prediction.probability):
                rows[place]["reason"] = NO_ANSWER
                counts.add(images.start + place, FileCheck(reason=NO_ANSWER))
                continue
            rows[place] |= _cells(prediction)
            counts.count(images.start + place, prediction.known)
    return rows


def _cells(prediction: Prediction) -> Row:
    """Return what a prediction says in a row; `rows.columns_of` lists the columns."""
    shares = {f"p({name})": p for name, p in prediction.probabilities.items()}
    possible = None if prediction.prediction_set is None else list(prediction.prediction_set)
    additions = {"known": prediction.known, "set": possible}
    additions = {name: value for name, value in additions.items() if value is not None}
    return {"prediction": prediction.label, "probability": prediction.probability, **shares, **additions}
