"""The built-in sample: ten classes of drawn objects, so that tlab runs without any download.

It is a fair test of transfer, since shape is the only cue: colors, texture, pose, size, background, clutter,
occlusion, light and noise vary independently of the class, and there are few images.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tlab.config.overrides import shell_argument
from tlab.core.errors import UserError
from tlab.core.files import cache_dir
from tlab.core.text import as_text, few
from tlab.data.progress_bar import shown
from tlab.data.sources.atomic_directory import build_atomically
from tlab.data.sources.demo.scene import draw_scene
from tlab.data.sources.demo.shapes import SHAPES
from tlab.data.sources.folder import ImageIndex, folder_index
from tlab.data.sources.scan import in_order

VERSION = 1  # raise it when the drawing changes: older folders in the cache are then ignored
IMAGES_PER_CLASS = {"train": 40, "val": 20, "test": 20}
_SPLIT_NUMBER = {"train": 0, "val": 1, "test": 2}
_MINIMUM_SIZE = 16  # pixels; below, objects cannot be recognized


def draw_demo(
    root: Path,
    seed: int = 0,
    images_per_class: Mapping[str, int] = IMAGES_PER_CLASS,
    image_size: int = 96,
) -> None:
    """Draw the sample as `root/<split>/<class>/<number>.jpg`.

    Each image is a function of (seed, split, class, number), so more images per class leave the others as they are.

    Args:
        root: Folder to draw into.
        seed: Seed of the whole sample.
        images_per_class: Split name (train, val, test) -> number of images in each class.
        image_size: Side of the images, in pixels.
    """
    names = list(SHAPES)
    wanted = [(split, name, i) for split, n in images_per_class.items() for name in names for i in range(n)]
    for split, name, i in shown(wanted, "Drawing the demo images", len(wanted)):
        rng = np.random.default_rng([seed, _SPLIT_NUMBER[split], names.index(name), i])
        path = root / split / name / f"{i:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_scene(name, image_size, rng).save(path, quality=92)


def demo_index(
    root: str | Path | None = None,
    seed: int = 0,
    images_per_class: Mapping[str, int] = IMAGES_PER_CLASS,
    image_size: int = 96,
    limit: int | float | None = None,
    folds: int | None = None,
    fold: int | None = None,
) -> ImageIndex:
    """Index the built-in sample; it is drawn the first time and kept.

    Args:
        root: Folder below which it is kept; the cache directory by default.
        seed: Seed of the drawing, of the limit and of the folds; independent of the run's seed, so that runs with
            several seeds share their data.
        images_per_class: Split name (train, val, test) -> number of images in each class.
        image_size: Side of the drawn images, in pixels.
        limit: See `Division`, as for `folds` and `fold`.
        folds: Number of folds.
        fold: The fold that is val.

    Raises:
        UserError: A number is out of range, or the folder cannot be written or holds other things.
    """
    if unknown := sorted(set(images_per_class) - set(_SPLIT_NUMBER)):
        raise UserError(f"The demo's images_per_class has no split {unknown[0]!r}: give train, val and test.")
    if min(images_per_class.get("train", 0), images_per_class.get("val", 0)) < 1:
        raise UserError("The demo's images_per_class needs at least one image in train and in val.")
    if images_per_class.get("test", 0) < 0 or seed < 0:
        raise UserError("The demo's seed and images_per_class must not be negative.")
    if image_size < _MINIMUM_SIZE:
        raise UserError(f"The demo's image_size must be at least {_MINIMUM_SIZE} pixels, not {image_size}.")
    counts = {split: int(images_per_class[split]) for split in _SPLIT_NUMBER if images_per_class.get(split)}
    name = f"v{VERSION}-seed{seed}-{image_size}px-" + "-".join(f"{split}{n}" for split, n in counts.items())
    parent = Path(root).expanduser().absolute() if root else cache_dir().absolute() / "demo"
    if root and not (parent / name).exists() and parent.is_dir():
        others = in_order([p.name for p in parent.iterdir() if not re.match(r"\.|v\d+-seed\d", p.name)])
        if others:
            raise UserError(
                f"data.root={root} holds other things ({few(map(as_text, others))}), and the demo is drawn into a "
                "folder of its own: give data.root=null for the cache, or train on what is there with data=folder "
                f"{shell_argument('data.root', parent)}"
            )
    folder = build_atomically(parent / name, lambda fresh: draw_demo(fresh, seed, counts, image_size))
    return folder_index(folder, seed=seed, limit=limit, folds=folds, fold=fold)
