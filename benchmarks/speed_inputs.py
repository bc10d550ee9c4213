"""Images and weights where none are given: drawn photographs, random weights; and longer epochs by repetition."""

import shutil
from pathlib import Path

from tlab.data.sources.demo.index import draw_demo

QUICK_IMAGES = {"train": 16, "val": 6}  # per class, of ten classes
QUICK_SIDE = 320  # pixels: large enough that decoding takes a part of the time, as with photographs


def drawn_images(folder: Path) -> Path:
    """Return `folder` with train/ and val/ of tlab's demo images; drawn once."""
    if not folder.exists():
        fresh = folder.with_name(f"{folder.name}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        draw_demo(fresh, images_per_class=QUICK_IMAGES, image_size=QUICK_SIDE)
        fresh.rename(folder)
    return folder


def repeated(root: Path, folder: Path, copies: int) -> Path:
    """Return `folder` with each training image of `root` linked `copies` times, and its validation images once.

    GIF files are left out, because ImageFolder does not know them.
    """
    if copies == 1:
        return root
    shutil.rmtree(folder, ignore_errors=True)
    for split, number in (("train", copies), ("val", 1)):
        for file in sorted((root / split).glob("*/*")):
            if file.suffix.lower() == ".gif":
                continue
            place = folder / split / file.parent.name
            place.mkdir(parents=True, exist_ok=True)
            for copy in range(number):
                (place / f"{copy}_{file.name}").symlink_to(file.resolve())
    return folder


def random_weights(folder: Path, arch: str) -> Path:
    """Return a state dict of random weights for 1000 classes, the same every time; written once."""
    import torch
    from torchvision import models

    path = folder / f"{arch}_random.pth"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        fresh = path.with_suffix(".new")
        torch.save(models.get_model(arch, weights=None).state_dict(), fresh)
        fresh.rename(path)
    return path
