"""Writing of a torchvision dataset as folders of images."""

import re
import shutil
from pathlib import Path
from typing import Any

from PIL import Image

from tlab.core.errors import UserError
from tlab.data.progress_bar import shown


def write_split(dataset: Any, target: Path) -> None:
    """Write one split as `target/<class>/<number>.<extension>`, numbered in the order of the dataset.

    Args:
        dataset: Dataset of (image, label); if it keeps lists of its image files, these are linked or copied.
        target: Folder of the split.

    Raises:
        UserError: The dataset does not give one class per image.
    """
    names, files = _class_names(dataset), _files(dataset)
    count = len(dataset)
    for i in shown(range(count), f"Writing {type(dataset).__name__} {target.name}", count):
        image, label = dataset[i] if files is None else files[i]
        if not isinstance(image, Image.Image | Path) or isinstance(label, bool) or not hasattr(label, "__index__"):
            raise UserError(
                f"torchvision's {type(dataset).__name__} does not give one class per image: tlab needs "
                "classification."
            )
        folder = target / (names[int(label)] if names else f"{int(label):03d}")
        folder.mkdir(parents=True, exist_ok=True)
        if not isinstance(image, Path):
            image.save(folder / f"{i:05d}.png", compress_level=1)  # four times as fast, a tenth larger
            continue
        file = folder / f"{i:05d}{image.suffix.lower()}"
        try:
            file.hardlink_to(image)
        except OSError:  # the file system cannot
            shutil.copyfile(image, file)


def _class_names(dataset: Any) -> list[str] | None:
    """Return one folder name per label, or None if the dataset does not name its classes."""
    classes = getattr(dataset, "classes", None)
    if not isinstance(classes, list | tuple):
        return None
    # ImageNet gives tuples of synonyms; no name may contain a slash or be hidden
    plain = [c[0] if isinstance(c, tuple) else str(c) for c in classes]
    safe = [re.sub(r"[/\\:]", "-", c).strip(". ") or f"class {k}" for k, c in enumerate(plain)]
    clash = {c.lower() for c in safe if [s.lower() for s in safe].count(c.lower()) > 1}
    return [f"{c} ({k})" if c.lower() in clash else c for k, c in enumerate(safe)]


def _files(dataset: Any) -> list[tuple[Path, int]] | None:
    """Return (image file, label) of every sample if the dataset keeps such lists, else None."""
    lists = ("_samples", "samples", "_image_files", "_images")  # pairs; or paths, beside `_labels`
    pairs: Any = next((getattr(dataset, name) for name in lists if hasattr(dataset, name)), ())
    try:
        if hasattr(dataset, "_labels"):
            pairs = zip(pairs, dataset._labels, strict=True)
        files = [(Path(path), int(label)) for path, label in pairs]
    except (TypeError, ValueError):
        return None
    alike = files and len(files) == len(dataset) and all(_same(dataset, i, *files[i]) for i in (0, len(files) - 1))
    return files if alike else None


def _same(dataset: Any, i: int, path: Path, label: int) -> bool:
    """Tell whether this file is the i-th sample of the dataset."""
    if not path.is_file():
        return False
    image, own = dataset[i]
    with Image.open(path) as opened:
        return own == label and image.convert("RGB").tobytes() == opened.convert("RGB").tobytes()
