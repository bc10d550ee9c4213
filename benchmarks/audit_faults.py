"""What `tlab.audit` finds of faults that were put into a copy of a folder of images: precision and recall by kind.

python benchmarks/audit_faults.py --root DATA/hymenoptera DATA/pacs_photo --seeds 0 1
python benchmarks/audit_faults.py --pairs DATA/cifar10_kaggle   # near pairs among all images, side by side
python benchmarks/audit_faults.py --time 10000                  # seconds for drawn images of 256 px
"""

import argparse
import csv
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

SUFFIXES = (".jpg", ".jpeg", ".png")
EXACT, ACROSS, NEAR, SWAPPED, BROKEN = 30, 10, 20, 15, 8


@dataclass
class Faults:
    """What was put in: paths relative to the root.

    Attributes:
        exact: Pairs of files with the same bytes.
        near: Pair of files -> what was done to the second.
        swapped: Files that were moved to the folder of another class.
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
    files = [file for file in sorted(root.glob("*/*/*")) if file.suffix.lower() in SUFFIXES]
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


def audit(folder: Path, *arguments: str) -> list[dict[str, str]]:
    """Run the command with an empty cache in a folder, and return the rows of findings.csv."""
    command = [sys.executable, "-m", "tlab.audit", *arguments, f"output={folder / 'audit'}"]
    env = {**os.environ, "TLAB_CACHE": str(folder / "cache")}
    subprocess.run(command, check=True, env=env, stdout=subprocess.DEVNULL)
    with (folder / "audit/findings.csv").open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def _told(kind: str, found: Collection[object], put_in: Collection[object]) -> str:
    hits = len({*found} & {*put_in})
    recall, precision = hits / max(1, len(put_in)), hits / max(1, len(found))
    counts = f"{len(put_in):>3} put in, {len(found):>3} found"
    return f"  {kind:<16} {counts}: recall {recall:.2f}, precision {precision:.2f}"


def faults(source: Path, seed: int) -> None:
    """Print recall and precision of each kind for a folder."""
    with tempfile.TemporaryDirectory() as work:
        root = Path(work) / source.name
        shutil.copytree(source, root)
        put_in = seed_faults(root, seed)
        rows = audit(Path(work), f"data.root={root}", "data.image_size=128")
    print(f"{source.name}, seed {seed}")

    def pairs(kind: str) -> set[frozenset[str]]:
        return {frozenset((row["path"], row["other"])) for row in rows if row["kind"] == kind}

    def files(kind: str) -> set[str]:
        return {row["path"] for row in rows if row["kind"] == kind}

    print(_told("exact duplicates", pairs("exact_duplicate"), put_in.exact))
    print(_told("near duplicates", pairs("near_duplicate"), put_in.near))
    for pair in put_in.near.keys() - pairs("near_duplicate"):
        print(f"    not found: {' = '.join(sorted(pair))} ({put_in.near[pair]})")
    for pair in pairs("near_duplicate") - put_in.near.keys():
        print(f"    not put in: {' = '.join(sorted(pair))}")
    print(_told("labels", files("label_issue"), put_in.swapped))
    print(_told("unreadable", files("unreadable"), put_in.broken))


def near_pairs(source: Path, picture: Path) -> None:
    """Print the near pairs among all images below a folder, whatever their labels, and draw them side by side."""
    names = sorted(f.relative_to(source).as_posix() for f in source.rglob("*") if f.suffix.lower() in SUFFIXES)
    with tempfile.TemporaryDirectory() as work:
        table = Path(work) / "all.csv"
        lines = [f"{name},{number % 2}" for number, name in enumerate(names)]  # any two classes
        table.write_text("\n".join(["path,label", *lines]), encoding="utf-8")
        columns = ("data.images=.", "data.image_column=path", "data.label_column=label")
        rows = audit(
            Path(work), "data=csv", f"data.root={source}", f"data.labels={table}", *columns, "data.image_size=64"
        )
    found = [row for row in rows if row["kind"] == "near_duplicate"]
    print(f"{source.name}: {len(found)} near pairs among {len(names)} images")
    sheet = Image.new("RGB", (4 * 260, max(1, -(-len(found) // 4)) * 130))
    for number, row in enumerate(found):
        print(f"  {row['path']} = {row['other']}: {row['reason']}")
        for side, name in enumerate((row["path"], row["other"])):
            with Image.open(source / name) as image:
                place = (number % 4 * 260 + side * 128, number // 4 * 130)
                sheet.paste(image.convert("RGB").resize((126, 126)), place)
    sheet.save(picture)
    print(f"drawn: {picture}")


def _draw(root: Path, count: int) -> None:
    """Draw JPEG files of 256 px in ten classes, the fifth of them for validation."""
    draw = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(draw.integers(0, 256, (6, 6, 3), np.uint8)).resize(
            (256, 256), Image.Resampling.BICUBIC
        )
        fine = Image.fromarray(draw.integers(0, 256, (64, 64, 3), np.uint8)).resize((256, 256))
        folder = root / ("val" if number // 10 % 5 == 0 else "train") / str(number % 10)
        folder.mkdir(parents=True, exist_ok=True)
        Image.blend(coarse, fine, 0.3).save(folder / f"{number}.jpg", quality=85)


def timing(count: int) -> None:
    """Print the seconds of the hashes alone, and of the whole command with an empty cache."""
    from tlab.auditing.image_hash import close_pairs, low_frequencies
    from tlab.auditing.image_measures import measure_images
    from tlab.data.sources.verify import check_files

    with tempfile.TemporaryDirectory() as work:
        root = Path(work) / "images"
        _draw(root, count)
        files = sorted(map(str, root.rglob("*.jpg")))
        os.environ["TLAB_CACHE"] = str(Path(work) / "check")
        checks = check_files(root, files, seconds=None)
        start = time.perf_counter()
        close_pairs(low_frequencies(measure_images(files, checks).gray), 64, 10 * count)
        print(f"{count} images: hashes and their comparison {time.perf_counter() - start:.1f} s", flush=True)
        start = time.perf_counter()
        audit(Path(work), f"data.root={root}")
        print(f"{count} images: the command {time.perf_counter() - start:.1f} s")


def main() -> None:
    """Do what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", nargs="*", type=Path, default=[], help="folders with train/, val/ ...")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0], help="each a choice of images")
    parser.add_argument("--pairs", type=Path, help="any folder of images")
    parser.add_argument("--picture", type=Path, default=Path("outputs/near_pairs.png"), help="where to draw them")
    parser.add_argument("--time", type=int, help="number of images to draw")
    arguments = parser.parse_args()
    for root in arguments.root:
        for seed in arguments.seeds:
            faults(root, seed)
    if arguments.pairs:
        arguments.picture.parent.mkdir(parents=True, exist_ok=True)
        near_pairs(arguments.pairs.resolve(), arguments.picture)
    if arguments.time:
        timing(arguments.time)


if __name__ == "__main__":
    main()
