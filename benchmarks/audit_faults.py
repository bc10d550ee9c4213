"""What `tlab.audit` finds of faults that were put into a copy of a folder of images: precision and recall by kind.

python benchmarks/audit_faults.py --root DATA/hymenoptera DATA/pacs_photo
python benchmarks/audit_faults.py --pairs DATA/cifar10_kaggle   # near pairs among all images, side by side
python benchmarks/audit_faults.py --time 10000                  # seconds for drawn images of 256 px
"""

import argparse
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageEnhance, ImageOps

EXACT, ACROSS, NEAR, SWAPPED, BROKEN = 30, 10, 20, 15, 8


@dataclass
class Faults:
    """What was put in: paths relative to the root.

    Attributes:
        exact: Pairs of files with the same bytes.
        near: Pair of files -> what was done to the second.
        swapped: Files that were moved to another class.
        broken: Files that cannot be read.
    """

    exact: list[frozenset[str]] = field(default_factory=list)
    near: dict[frozenset[str], str] = field(default_factory=dict)
    swapped: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


def _resized(image: Image.Image) -> Image.Image:
    return image.resize((round(image.width * 0.6), round(image.height * 0.6)), Image.Resampling.LANCZOS)


def _brightened(image: Image.Image) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(1.25)


def _cropped(image: Image.Image) -> Image.Image:
    """Without 5 % of the width and of the height, at one corner."""
    width, height = image.size
    return image.crop((round(0.05 * width), round(0.05 * height), width, height))


CHANGES: dict[str, tuple[Callable[[Image.Image], Image.Image], int]] = {  # and the quality of the JPEG
    "resized": (_resized, 90),
    "recompressed": (lambda image: image, 30),
    "brightened": (_brightened, 90),
    "flipped": (ImageOps.mirror, 90),
    "cropped": (_cropped, 90),
}


def seed_faults(root: Path, seed: int) -> Faults:
    """Put the faults into a folder `root/<split>/<class>/*`; each in other images.

    Args:
        root: The folder, whose files are changed.
        seed: What the choice of images follows from.
    """
    draw = random.Random(seed)
    files = [file for file in sorted(root.glob("*/*/*")) if file.suffix.lower() in (".jpg", ".png")]
    draw.shuffle(files)
    left = iter(files)
    splits, faults = sorted(folder.name for folder in root.iterdir()), Faults()

    def name(file: Path) -> str:
        return file.relative_to(root).as_posix()

    for number in range(EXACT):
        file = next(left)
        split = draw.choice([s for s in splits if s != file.parts[-3]]) if number < ACROSS else file.parts[-3]
        copy = root / split / file.parts[-2] / f"copy{number:02}{file.suffix}"
        shutil.copyfile(file, copy)
        faults.exact.append(frozenset((name(file), name(copy))))
    for number in range(NEAR):
        file, how = next(left), list(CHANGES)[number % len(CHANGES)]
        change, quality = CHANGES[how]
        copy = root / draw.choice(splits) / file.parts[-2] / f"near{number:02}.jpg"
        with Image.open(file) as image:
            change(image.convert("RGB")).save(copy, quality=quality)
        faults.near[frozenset((name(file), name(copy)))] = how
    classes = sorted(folder.name for folder in (root / "train").iterdir())
    for number in range(SWAPPED):
        file = next(left)
        other = draw.choice([each for each in classes if each != file.parts[-2]])
        moved = file.parent.parent / other / f"moved{number:02}{file.suffix}"
        faults.swapped.append(name(file.rename(moved)))
    for number in range(BROKEN):
        file = next(left)
        content = file.read_bytes()
        file.write_bytes([b"", content[: len(content) // 4], b"no image" * 99, content[:200]][number % 4])
        faults.broken.append(name(file))
    return faults
