"""Makes `train/<class>/` and `val/<class>/` from images that are labelled in a CSV file, as links.

So every side of a comparison sees the same images: of each class, in the order of the ids, the first
`--train-per-class` images go to train and the next `--val-per-class` to val. Standard library only.

    python benchmarks/folder_from_csv.py --labels trainLabels.csv --images train --extension .png --output DATA
"""

import argparse
import csv
from collections import defaultdict
from pathlib import Path


def ids_by_class(labels: Path) -> dict[str, list[str]]:
    """The ids of each class, numbers in numerical order; the file's first two columns are id and class."""
    with labels.open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    ids: defaultdict[str, list[str]] = defaultdict(list)
    for name, label, *_ in rows:
        ids[label].append(name)
    # by length first: "10" comes after "9", and names of one length stay in alphabetical order
    return {label: sorted(ids[label], key=lambda name: (len(name), name)) for label in sorted(ids)}


def link(images: Path, names: list[str], extension: str, folder: Path) -> None:
    """Fill `folder` with links to the images called `names`."""
    folder.mkdir(parents=True)
    for name in names:
        target = (images / f"{name}{extension}").resolve(strict=True)
        (folder / target.name).symlink_to(target)


def main() -> None:
    """Read the labels, make the folders, say what is in them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=Path, required=True, help="CSV file; first columns: id, class")
    parser.add_argument("--images", type=Path, required=True, help="folder of the images, named by their ids")
    parser.add_argument("--extension", default="", help="what the ids lack to be file names, such as .png")
    parser.add_argument("--train-per-class", type=int, default=100, help="%(default)s")
    parser.add_argument("--val-per-class", type=int, default=100, help="%(default)s")
    parser.add_argument("--output", type=Path, required=True, help="a folder that does not exist yet")
    args = parser.parse_args()
    middle, end = args.train_per_class, args.train_per_class + args.val_per_class
    for label, names in ids_by_class(args.labels).items():
        if len(names) < end:
            parser.error(f"{label} has {len(names)} images; {end} are needed")
        link(args.images, names[:middle], args.extension, args.output / "train" / label)
        link(args.images, names[middle:end], args.extension, args.output / "val" / label)
        print(f"{label}: {middle} train, {end - middle} val")


if __name__ == "__main__":
    main()
