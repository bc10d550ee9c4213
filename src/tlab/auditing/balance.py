"""Classes of which there are few images to train on."""

from collections.abc import Mapping

from tlab.core.text import counted

FEW = 1 / 3  # of the mean number of images of a class


def rare_classes(counts: Mapping[str, int]) -> list[tuple[str, float, str]]:
    """Return the classes that have less than a third of the images that a class has in the mean.

    Args:
        counts: Class -> number of training images.

    Returns:
        Class, what it lacks of the mean as a share, and why that matters.
    """
    mean = sum(counts.values()) / max(1, len(counts))
    return [
        (
            name,
            1 - count / mean,
            f"{counted(count, 'training image')}, a class has {mean:.0f} in the mean: data.balanced=true or "
            "data.class_weights=true makes up for it"
            if count
            else "no training image that can be read: add some, or leave the class out",
        )
        for name, count in counts.items()
        if count < FEW * mean
    ]
