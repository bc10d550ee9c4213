"""Division of images into folds, of which one is for validation: every class in each, and groups whole."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from tlab.data.sources.split import place
from tlab.data.sources.splitting.groups import GroupOf


def fold_files(names: Mapping[str, Sequence[str]], folds: int, seed: int) -> dict[str, int]:
    """Return file -> fold; the folds' numbers of images of a class, and of all images, differ by at most one.

    The files of a class lie in the order of a hash of their names and are cut into blocks, one for each fold, so
    that an added file moves few others. A class of one file has none in a fold: every fold needs it in train.

    Args:
        names: Class name -> its files (POSIX paths relative to the root).
        folds: Number of folds.
        seed: Seed of the division.
    """
    fold_of: dict[str, int] = {}
    for name in sorted(names):
        if len(names[name]) > 1:
            files = sorted(names[name], key=lambda file: (place(f"fold\0{file}", seed), file))
            start = len(fold_of)  # the folds take turns at having one file more
            sizes = [len(range((fold - start) % folds, len(files), folds)) for fold in range(folds)]
            fold_of |= zip(files, (fold for fold, size in enumerate(sizes) for _ in range(size)), strict=True)
    return fold_of


def fold_groups(names: Mapping[str, Sequence[str]], group_of: GroupOf, folds: int, seed: int) -> dict[str, int]:
    """Return file -> fold, with no group in two folds, and classes as evenly divided as groups allow.

    The groups, the largest first and of equal ones in the order of a hash of their names, go one by one to the fold
    that has the smallest share so far of the classes in them. A group without which a class would be missing in the
    train images of some fold is in none.

    Args:
        names: Class name -> its files (POSIX paths relative to the root).
        group_of: File -> its group, which may have several classes.
        folds: Number of folds.
        seed: Seed of the division.
    """
    sizes: dict[str, Counter[str]] = defaultdict(Counter)  # group -> class -> images
    for name, files in names.items():
        for file in files:
            sizes[group_of.get(file, file)][name] += 1
    left = Counter(name for count in sizes.values() for name in count)  # groups of a class to come
    used: dict[str, set[int]] = defaultdict(set)  # folds with a class; -1 stands for train in every fold
    held = [Counter[str]() for _ in range(folds)]
    totals = [0] * folds
    fold_of: dict[str, int] = {}
    for group in sorted(sizes, key=lambda group: (-sizes[group].total(), place(f"fold\0{group}", seed), group)):
        count = sizes[group]
        last = [used[name] for name in count if left[name] == 1]  # classes of which no other group comes
        free = [fold for fold in range(folds) if all(others - {fold} for others in last)]
        shares = {name: images / len(names[name]) ** 2 for name, images in count.items()}
        best = min(
            free,
            key=lambda fold: (sum(w * held[fold][name] for name, w in shares.items()), totals[fold]),
            default=-1,
        )
        fold_of[group] = best
        if best >= 0:
            held[best].update(count)
            totals[best] += count.total()
        for name in count:
            used[name].add(best)
        left.subtract(count.keys())
    return {
        file: fold for files in names.values() for file in files if (fold := fold_of[group_of.get(file, file)]) >= 0
    }
