"""Recognizes the folders of the splits under the names that people give them."""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from tlab.config.overrides import exclude_argument, shell_argument
from tlab.core.errors import UserError
from tlab.core.text import few
from tlab.data.sources.scan import Folder, folded, nfc

_WORDS = {
    "train": "train|training|trn|entrenamiento|entrainement|entraînement|treino|训练|訓練|学習|훈련|학습",
    "val": "val|valid|validate|validation|dev|devel|development|eval|evaluation|"
    "validierung|validación|validacion|validação|验证|驗證|検証|검증",
    "test": "test|tests|testing|tst|prueba|pruebas|teste|测试|測試|テスト|테스트",
}
_PLAIN = "sets?|splits?|data|datasets?|images?|imgs?|pictures?|pics?|photos?|folders?|jpe?gs?|pngs?"
_SPLIT_WORD = {split: re.compile(rf"({words})({_PLAIN}|[集用])?") for split, words in _WORDS.items()}
_PLAIN_WORD = re.compile(_PLAIN)
_TRAIN_AND_VAL = re.compile("trainval")  # train where neither train nor val is, as in Pascal VOC


@dataclass(frozen=True)
class Layout:
    """What the folders of a dataset stand for.

    Attributes:
        base: The folder that holds the split folders or, where there are none, the class folders.
        splits: Split name -> the folder that holds its class folders; empty where nothing is split.
        unlabeled: Folders with a split's name, in which is no folder of one of the classes.
        as_classes: Folders that have a split's name but are taken for classes.
        beside: Folders with images that are not used.
    """

    base: Folder
    splits: dict[str, Folder] = field(default_factory=dict)
    unlabeled: list[Folder] = field(default_factory=list)
    as_classes: list[Folder] = field(default_factory=list)
    beside: list[Folder] = field(default_factory=list)


def split_of(name: str) -> str | None:
    """Return the split (train, val or test) that a folder's name says it is, in any case and with other words.

    `Training`, `test_set`, `seg_train` and `TrainImages` name one; `train_valid` names two, and thus none.
    """
    splits = {split for word in _words(name) for split, known in _SPLIT_WORD.items() if known.fullmatch(word)}
    return splits.pop() if len(splits) == 1 else None


def splits_of(names: Iterable[str]) -> dict[str, str | None]:
    """Return the split that each of several names says; `trainval` is train where no other is, nor val."""
    found = {name: split_of(name) for name in names}
    if not {"train", "val"}.intersection(found.values()):
        found |= {name: "train" for name in found if _TRAIN_AND_VAL.fullmatch(name.strip().lower())}
    return found


def is_plain(name: str) -> bool:
    """Tell whether a folder's name says nothing but that it holds images: `data`, `images`."""
    return all(map(_PLAIN_WORD.fullmatch, _words(name) or " "))


def find_splits(top: Folder, known: Collection[str] = (), any_split: bool = False) -> Layout:
    """Return which folders are splits; they may lie in the one folder of an unpacked archive.

    A name alone makes no split: train has to be there, and to hold class folders, or those of another split. Other
    folders of such a name are classes, unless there are none but those that are plainly named as splits.

    Args:
        top: Root of the data.
        known: Names of the classes of a trained run; a folder named like one of them is that class.
        any_split: Whether train may be missing.

    Raises:
        UserError: Two folders are for the same split, or train is missing.
    """
    known = {*map(folded, known)}
    base = _without_wrapper(top, known)
    if any(folded(folder.name) in known for folder in base.filled):
        return Layout(base)
    named = [_Named(split, folder) for folder in base.filled if (split := split_of(folder.name))]
    if not {"train", "val"}.intersection(each.split for each in named):
        both = [folder for folder in base.filled if _TRAIN_AND_VAL.fullmatch(folder.name.lower())]
        named += [_Named("train", folder) for folder in both]
    trains = _plainest(each for each in named if each.split == "train" and each.classes)
    labels = known or set().union(*(each.classes for each in (named if any_split else trains)))
    fitting = [each for each in named if each.classes & labels]
    is_split = any_split and bool(fitting)
    is_split |= any(each.split != "train" for each in fitting)
    is_split |= len(labels) > 1 and any(each.is_plain for each in trains)
    is_split |= len(named) == len(base.filled) and all(each.is_plain for each in named)
    is_split |= len(named) == len(base.filled) > 1 < len(labels) and len({each.other_words for each in named}) == 1
    if not is_split or not named:
        return Layout(base, as_classes=[each.folder for each in named])
    splits: dict[str, _Named] = {}
    for split in dict.fromkeys(each.split for each in named):
        found = [each for each in fitting if each.split == split] or [
            # otherwise images without labels; but several folders of validation images are classes, only other ones
            each
            for each in named
            if each.split == split and (split == "train" or (split == "val" and len(each.classes) > 1))
        ]
        found = _plainest(found)
        if len(found) > 1:
            names, others = [each.folder.name for each in found], [each.folder.path for each in found[1:]]
            raise UserError(
                f"{base.place} has several folders for {split}, {few(map(repr, names))}: keep one, for example "
                f"with {exclude_argument(others)}"
            )
        splits.update((split, each) for each in found)
    if "train" not in splits and not any_split:
        one = named[0].place
        raise UserError(
            f"{base.place} has a folder {named[0].folder.name!r} but no 'train' with images: add train/<class>/, "
            f"rename it if it is a class, or train on it alone with {shell_argument('data.root', one.place)}"
        )
    unlabeled = [each.folder for each in named if each not in (*fitting, *splits.values())]
    used = [*unlabeled, *(each.folder for each in splits.values())]
    beside = [folder for folder in base.filled if folder not in used]
    return Layout(base, {split: each.place for split, each in splits.items()}, unlabeled, beside=beside)


class _Named:
    """A folder with a split's name."""

    def __init__(self, split: str, folder: Folder) -> None:
        self.split, self.folder, self.place = split, folder, _class_level(folder, split)
        self.classes = {folded(inner.name) for inner in self.place.filled}
        known = (*_SPLIT_WORD.values(), _PLAIN_WORD, _TRAIN_AND_VAL)
        words = _words(folder.name)
        self.other_words = tuple(word for word in words if not any(each.fullmatch(word) for each in known))
        self.is_plain = not self.other_words


def _plainest(named: Iterable[_Named]) -> list[_Named]:
    """Return the folders whose names say nothing but their split, else all: `train` goes before `seg_train`."""
    every = list(named)
    return [each for each in every if each.is_plain] or every


def _words(name: str) -> list[str]:
    """Return the words of a folder's name, in lower case: `TrainImages_2` has train and images."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", nfc(name))
    return re.findall(r"[^\W\d_]+", apart.lower())


def _without_wrapper(top: Folder, known: Collection[str]) -> Folder:
    """Return the folder in which an archive was unpacked: the only one with images, which are in folders of it."""
    while len(top.filled) == 1:
        (only,) = top.filled
        named = [folder for folder in only.filled if split_of(folder.name)]
        if only.images or not only.filled or folded(only.name) in known or (split_of(only.name) and len(named) < 2):
            break
        top = only
    return top


def _class_level(folder: Folder, split: str) -> Folder:
    """Return the folder that holds a split's class folders: `seg_train/seg_train`, `train/images`, or itself."""
    while len(folder.filled) == 1 and not folder.images:
        (only,) = folder.filled
        if split_of(only.name) != split and not is_plain(only.name):
            break
        folder = only
    return folder
