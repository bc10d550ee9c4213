"""What takes the place of images that turn out to be unreadable while they are used.

In training another image of the class does, so that every batch keeps its size and every process its number of
batches; in evaluation nothing does.
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np

from tlab.config.overrides import exclude_argument
from tlab.core.errors import UserError
from tlab.data.sources.samples import Samples

# What a batch has in the place of an image that cannot be read: an error, nothing, another image of the class, or a
# black one, whose features are marked afterwards (`rows.without_features`)
IfUnreadable = Literal["error", "drop", "replace", "blank"]
MOST_TRIES = 100  # images of a class in a row, beyond which their folder is probably gone


def others_of_class(labels: np.ndarray, index: int) -> Iterator[int]:
    """Yield the samples of one's class after sample `index`, in a ring without itself.

    Args:
        labels: Label of each sample of the split: N, int64.
        index: Position of the sample.
    """
    of_class = np.flatnonzero(labels == labels[index])
    place = int(np.searchsorted(of_class, index))
    yield from np.roll(of_class, -place)[1:].tolist()


def replaced_rows(rows: np.ndarray, samples: Samples, there: np.ndarray) -> np.ndarray:
    """Return the rows of a split's samples, with that of another one of the class where there are no features.

    Args:
        rows: Row of each sample: N, int64.
        samples: The samples.
        there: Whether a sample has features: N, bool.

    Raises:
        UserError: No image of a class has any.
    """
    found = rows.copy()
    for index in np.flatnonzero(~there).tolist():
        other = next((each for each in others_of_class(samples.labels, index) if there[each]), None)
        if other is None:
            raise no_other_of_class(samples[index].file)
        found[index] = rows[other]
    return found


def no_other_of_class(file: str, reason: str = "") -> UserError:
    """Return the error for an image that cannot be read, if nor can others of its class take its place."""
    return UserError(
        f"{file} cannot be read{f' ({reason})' if reason else ''}, nor can others of its class: look whether "
        f"data.root is still there, mend the files, or give {exclude_argument([file])} to leave this one out"
    )


def cannot_be_read(file: object, reason: str) -> UserError:
    """Return the error for an image that could be read before training."""
    return UserError(
        f"{file} can no longer be read ({reason}), though it could before training: put it back, "
        "or start again and it will be listed and skipped."
    )
