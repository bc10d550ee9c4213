"""Which images the runs of a comparison have had, as far as their directories tell."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from tlab.comparison.load import Replicate, Run
from tlab.core.errors import UserError
from tlab.runs.directory import RunDirectory


def own_images(runs: Mapping[Replicate, Run], metric: str) -> dict[Replicate, float] | None:
    """Return seed or fold -> images that an accuracy is measured on; what several have is shared out among them.

    What an image is its content decides, whatever its place and times; of images that a check has passed over it is
    their paths and sizes. A further test (`data.tests`) has the same images for all.

    Args:
        runs: Seed or fold -> its run.
        metric: Name of the accuracy: `val/acc`, or `test/sketch/acc`.

    Returns:
        None for another metric, and where runs of earlier versions do not tell.
    """
    split, _, measure = metric.rpartition("/")
    if measure != "acc":
        return None
    numbers = [_number(run, split) for run in runs.values()]
    listed = _listed(runs.values(), split)
    holders = Counter(image for images in listed for image in {*images})
    own = {}
    for each, number, images in zip(runs, numbers, listed, strict=True):
        if number is None:
            return None
        own[each] = number * sum(1 / holders[image] for image in images) / max(1, len(images))
    return own


def _number(run: Run, split: str) -> int | None:
    images: dict[str, int] = run.record.get("data", {}).get("images", {})
    number: int | None = run.record.get("tests", {}).get(split.partition("/")[2], {}).get("images")
    return images.get(split, number)


def _listed(runs: Collection[Run], split: str) -> list[list[str]]:
    """Return what names the images of each run's split; one name for all of them where they are not listed."""
    from tlab.data.contents import Entry, read_entries  # with the checks of images, for which --help need not wait
    from tlab.data.sources.scan import nfc

    if "/" in split:
        return [[""] for _ in runs]
    about = [run.record.get("data", {}) for run in runs]
    places = [data.get("fingerprint", str(run.path)) for run, data in zip(runs, about, strict=True)]
    read: dict[str, list[Entry]] = {}
    try:
        for place, run in zip(places, runs, strict=True):
            if place not in read:  # else the same files of the same times
                entries = read_entries(RunDirectory(run.path).data_file)
                read[place] = [entry for entry in entries if entry.split == split]
    except UserError:  # damaged, or of an earlier version, which had none
        return [[str(data.get("content", data.get("fingerprint")))] for data in about]
    whole = all(entry.digest for entries in read.values() for entry in entries)
    names = {
        place: [entry.digest if whole else f"{nfc(entry.path)} {entry.size}" for entry in entries]
        for place, entries in read.items()
    }
    return [names[place] for place in places]


def had_other_images(runs: Sequence[Run]) -> bool:
    """Tell whether two runs had different images, or two of one seed and fold split them differently."""
    data = [(run.replicate, run.record["data"]) for run in runs if "data" in run.record]
    alike = len({which for which, _ in data})
    if not all("content" in images for _, images in data):  # earlier versions recorded only times and places
        return len({(which, images["fingerprint"]) for which, images in data}) > alike
    splits = {(which, *sorted(images["images"].items())) for which, images in data}
    limited = any(run.config.get("data.limit") is not None for run in runs)  # to others in each seed and fold
    # where a check has passed over some of the images, and another over none, only their sizes are known of both
    known = "sizes" if any(images.get("passed_over") for _, images in data) else "content"
    contents = {(which if limited else None, images.get(known, images["content"])) for which, images in data}
    return len(contents) > (alike if limited else 1) or len(splits) > alike


def sets_of_images(runs: Sequence[Run]) -> dict[str, int]:
    """Return the sets of images that the runs are of, by their classes or else folders, and the number of runs.

    Empty where there is one. Folders that share the images of some run are the same set. Only runs with as many of
    the images (`data.limit`) tell that two folders are not; runs that went on over other images do not.
    """
    kinds = Counter(tuple(sorted(run.record["class_names"])) for run in runs if run.record.get("class_names"))
    if len(kinds) > 1:
        return _by_classes(kinds)
    if not had_other_images(runs):
        return {}
    told = [run for run in runs if {"root", "content"} <= run.record.get("data", {}).keys()]
    told = [run for run in told if not run.record.get("data_changes")]
    joined: list[set[tuple[str, str]]] = []  # folders and contents that belong together
    for run in told:
        both = {(kind, run.record["data"][kind]) for kind in ("root", "content")}
        joined = [each for each in joined if not each & both] + [
            both.union(*(each for each in joined if each & both))
        ]
    place = {
        root: min(root for kind, root in each if kind == "root")
        for each in joined
        for kind, root in each
        if kind == "root"
    }
    places = [place[run.record["data"]["root"]] for run in told]
    alike: dict[object, set[str]] = {}  # limit, of which each seed and fold has other images -> folders
    for run, folder in zip(told, places, strict=True):
        limit = run.config.get("data.limit")
        alike.setdefault((limit, None if limit is None else run.replicate), set()).add(folder)
    if all(len(folders) == 1 for folders in alike.values()):
        return {}
    found = Counter(places)
    last = {folder: Path(folder).name for folder in found}
    named = last if len(set(last.values())) == len(last) else {folder: folder for folder in found}
    return {named[folder]: number for folder, number in found.most_common()}


def common_tests(runs: Sequence[Run]) -> list[str]:
    """Return the further tests, `test/sketch`, that are of the same images for all runs with a result."""
    names = dict.fromkeys(name for run in runs for name in run.record.get("tests", {}))
    done = [run.record.get("tests", {}) for run in runs if run.metrics]
    common = []
    for name in names:
        prints = {tests.get(name, {}).get("fingerprint") for tests in done}
        if len(prints) == 1 and None not in prints:
            common.append(f"test/{name}")
    return common


def _by_classes(kinds: Counter[tuple[str, ...]]) -> dict[str, int]:
    """Return the sets of classes by three names each, first those that the fewest have, or as many as tell them."""
    holders = Counter(name for names in kinds for name in names)
    rarest = {names: sorted(names, key=lambda name: (holders[name], name)) for names in kinds}
    shown = 3
    while len({tuple(names[:shown]) for names in rarest.values()}) < len(kinds):
        shown += 1
    return {" | ".join(rarest[names][:shown]): number for names, number in kinds.most_common()}
