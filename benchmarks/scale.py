"""Seconds and peak memory of what comes before the first step, on a folder of very many images.

Makes a folder of 1,000 classes with hard links to a few drawn images, and prints what each step of preparing a run
takes in a process of its own, with an empty cache and again; then the same for a whole `tlab.train`, which trains
some batches. With --broken every so-manieth link is to a file that is no image.

    python benchmarks/scale.py --images 1000000
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

PICTURES = 4_000
CLASSES = 1_000
TRAIN = (
    *("backbone=resnet18", "backbone.weights=null", "finetune=full", "trainer=cpu", "trainer.precision=32-true"),
    *("trainer.max_epochs=1", "trainer.limit_train_batches=50", "trainer.limit_val_batches=10"),
    *("data.image_size=32", "logger=none"),
)


def fill(root: Path, images: int, broken: int) -> Path:
    """Draw some pictures, fill a folder of classes with links to them, and return it.

    Args:
        root: Folder for both.
        images: Number of links.
        broken: Every so-manieth link is to a file that is no image; 0: none is.
    """
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    pool = [root / "pictures" / f"{number}.jpg" for number in range(PICTURES)]
    pool[0].parent.mkdir()
    for file in pool:
        Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8)).resize((48, 40), Image.Resampling.BICUBIC).save(
            file
        )
    damaged = root / "pictures" / "damaged.jpg"
    damaged.write_bytes(pool[0].read_bytes()[:400])
    per_class, number = -(-images // CLASSES), 0
    for label in range(CLASSES):
        folder = root / "images" / f"class_{label:04}"
        folder.mkdir(parents=True)
        for place in range(min(per_class, images - number)):
            number += 1
            is_broken = broken and number % broken == 0
            os.link(damaged if is_broken else pool[number * 7 % PICTURES], folder / f"{label:04}_{place:06}.jpg")
    return root / "images"


def prepare(root: str) -> None:
    """Print seconds and memory of each step of preparing a run."""
    start = time.monotonic()

    def told(step: str) -> None:
        nonlocal start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
        print(f"| {step} | {time.monotonic() - start:.1f} | {peak:.0f} |", flush=True)
        start = time.monotonic()

    import tlab.models.module  # noqa: F401
    from tlab.data.datamodule import ImageDataModule
    from tlab.data.sources.folder import folder_index

    told("import")
    index = folder_index(root)
    told("index")
    data = ImageDataModule(partial(lambda found: found, index), image_size=32)
    data.setup()
    told(f"check ({data.passed_over} passed over, {len(data.unreadable)} unreadable)")
    data.contents().fingerprint()
    data.index.fingerprint()
    told("fingerprints")
    keys = sum(1 for _ in data.train_dataloader().sampler)
    told(f"the {keys} keys of an epoch")


def main() -> None:
    """Fill the folder, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_000_000, help="%(default)s")
    parser.add_argument("--broken", type=int, default=0, help="every so-manieth image is none; 0: all are images")
    parser.add_argument("--prepare", metavar="ROOT", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.prepare:
        prepare(args.prepare)
        return
    with tempfile.TemporaryDirectory() as folder:
        root = fill(Path(folder), args.images, args.broken)
        own = {**os.environ, "TLAB_CACHE": f"{folder}/cache"}
        for time_of in ("first", "second"):
            print(f"\n| {time_of} time | seconds | peak MB |\n| --- | --- | --- |", flush=True)
            subprocess.run([sys.executable, __file__, "--prepare", str(root)], env=own, check=True)
        start = time.monotonic()
        command = [sys.executable, "-m", "tlab.train", f"data.root={root}", f"run_dir={folder}/run", *TRAIN]
        process = subprocess.Popen(command, env=own)
        _, status, usage = os.wait4(process.pid, 0)
        peak = usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
        listed = Path(folder, "run", "unreadable.csv")
        skipped = len(listed.read_text().splitlines()) - 1 if listed.exists() else 0
        print(
            f"\ntlab.train {' '.join(TRAIN)}: ended with {os.waitstatus_to_exitcode(status)}, "
            f"{time.monotonic() - start:.0f} s, peak {peak:.0f} MB, {skipped} images skipped"
        )


if __name__ == "__main__":
    main()
