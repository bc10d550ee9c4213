"""Describes how the images of a run have changed."""

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from tlab.core.text import counted, few
from tlab.data.contents import Contents, Entry, as_far_as_known
from tlab.data.sources.scan import nfc


def changes(before: Contents, now: Contents) -> list[str]:
    """Describe which images were added, lost, relabeled, renamed, moved to another split or changed in content.

    Images are identified by content: a new file with the content of a missing one is that image, renamed. An old
    name with new content counts as changed. An image that was passed over is identified by its name and size.

    Args:
        before: The images that the run had.
        now: The images of today, checked (`read_contents(decode=True)`).

    Returns:
        Phrases such as "2 gone (train/cat/1.jpg, train/cat/2.jpg)"; empty if nothing has changed.
    """
    before, now = (replace(c, entries=tuple(map(_identified, c.entries))) for c in as_far_as_known(before, now))
    renamed = _renamed_classes(before, now)
    olds = [entry._replace(label=renamed.get(entry.label, entry.label)) for entry in before.entries]
    news = list(now.entries)
    take = partial(_take_pairs, olds, news)
    take(lambda entry: (entry.split, nfc(entry.path), entry.label, entry.digest))
    new_names = set(renamed.values())  # whose folders have new paths
    take(lambda entry: (entry.split, entry.label, entry.digest) if entry.label in new_names else None)
    same_file = take(lambda entry: (nfc(entry.path), entry.digest))
    new_path = take(lambda entry: (entry.split, entry.label, entry.digest))
    new_split = take(lambda entry: (entry.label, entry.digest))
    new_label = [*take(lambda entry: (entry.split, entry.digest)), *take(lambda entry: entry.digest)]
    changed = take(lambda entry: nfc(entry.path))
    new_label += [pair for pair in same_file if pair[0].label != pair[1].label]
    new_split += [pair for pair in same_file if pair[0].label == pair[1].label]
    count = Counter(entry.label for entry in before.entries)
    found = {
        "added": [entry.path for entry in news],
        "gone": [entry.path for entry in olds if entry.path not in now.unreadable],
        "no longer readable": [entry.path for entry in olds if entry.path in now.unreadable],
        "relabelled": [f"{old.path}: {old.label} -> {new.label}" for old, new in new_label],
        "renamed": [f"{old.path} -> {new.path}" for old, new in new_path],
        "moved to another split": [f"{old.path}: {old.split} -> {new.split}" for old, new in new_split],
        "changed in content": [new.path for _, new in changed],
    }
    return [
        *(f"class {old} renamed to {new} ({counted(count[old], 'image')})" for old, new in renamed.items()),
        *class_changes(before.classes, now.classes, renamed),
        *(f"{len(names)} {what} ({few(names)})" for what, names in found.items() if names),
    ]


def _identified(entry: Entry) -> Entry:
    return entry if entry.digest else entry._replace(digest=f"{nfc(entry.path)}, {entry.size} bytes")


def _take_pairs(
    olds: list[Entry], news: list[Entry], key: Callable[[Entry], Hashable]
) -> list[tuple[Entry, Entry]]:
    """Take pairs of an old and a new image with equal keys out of both lists; None matches nothing."""
    waiting: dict[Hashable, deque[Entry]] = defaultdict(deque)
    for entry in news:
        waiting[key(entry)].append(entry)
    waiting.pop(None, None)
    pairs = [(entry, waiting[which].popleft()) for entry in olds if waiting[which := key(entry)]]
    taken = {id(entry) for pair in pairs for entry in pair}
    for entries in (olds, news):
        entries[:] = [entry for entry in entries if id(entry) not in taken]
    return pairs


def _renamed_classes(before: Contents, now: Contents) -> dict[str, str]:
    """Return old name -> new name of each class of which most images are now in one new class."""
    known, kept = set(before.classes), set(now.classes)
    new_label = {entry.digest: entry.label for entry in now.entries if entry.label not in known}
    votes: dict[str, Counter[str]] = defaultdict(Counter)
    for entry in before.entries:
        if entry.label not in kept:
            votes[entry.label][new_label.get(entry.digest, "")] += 1
    renamed: dict[str, str] = {}
    for name, found in votes.items():
        ((best, count),) = found.most_common(1)
        if best and 2 * count > found.total() and best not in renamed.values():
            renamed[name] = best
    return renamed


def class_changes(before: Sequence[str], now: Sequence[str], renamed: Mapping[str, str] = {}) -> list[str]:
    """Describe which classes were added or removed, or that their order changed.

    Args:
        before: Old class names, in the order of the labels.
        now: Present class names, in the order of the labels.
        renamed: Old name -> new name of renamed classes.
    """
    new = [name for name in now if name not in before and name not in renamed.values()]
    gone = [name for name in before if name not in now and name not in renamed]
    reordered = not (new or gone or renamed) and list(before) != list(now)
    return [
        *(f"class {name} added" for name in new),
        *(f"class {name} gone" for name in gone),
        *(["the classes in another order"] if reordered else []),
    ]
