"""torchvision's classification datasets, written once as folders of images."""

import difflib
import inspect
import re
import shutil
from collections.abc import Iterable, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any

from PIL import Image

from tlab.core.errors import UserError
from tlab.core.files import cache_dir
from tlab.data.progress_bar import shown
from tlab.data.sources.atomic_directory import build_atomically
from tlab.data.sources.folder import ImageIndex, folder_index

# torchvision's own names of the splits, where they are not `train` and `test` (or `train=True` and `train=False`).
# A missing test split is split off by data.test_fraction, a missing val split by data.val_fraction.
_TWO = {"train": "train", "val": "val"}
_THREE = {**_TWO, "test": "test"}
_SPLITS = {
    **dict.fromkeys(("CLEVRClassification", "ImageNet", "Imagenette"), _TWO),
    **dict.fromkeys(("DTD", "FGVCAircraft", "Flowers102", "PCAM", "RenderedSST2"), _THREE),
    "Country211": {"train": "train", "val": "valid", "test": "test"},
    "FER2013": {"train": "train"},  # the test labels are not public
    "OxfordIIITPet": {"train": "trainval", "test": "test"},
    "Places365": {"train": "train-standard", "val": "val"},
}
# Not one class per image, or nothing to download: use data=folder for these.
_NOT_OFFERED = {
    "CelebA",
    "DatasetFolder",
    "FakeData",
    "ImageFolder",
    "Kinetics",
    "LSUN",
    "LSUNClass",
    "VisionDataset",
}
_ARCHIVE = re.compile(r"[^/]+\.(tar|tar\.gz|tgz|zip|mat|gz|bz2|h5|pt|data)")


def torchvision_index(
    name: str,
    root: str | Path | None = None,
    val_fraction: float = 0.2,
    test_fraction: float = 0.0,
    seed: int = 0,
    exclude: Iterable[str] = (),
    min_images: int | None = None,
    limit: int | float | None = None,
    options: Mapping[str, Any] | None = None,
    group: str | None = None,
    folds: int | None = None,
    fold: int | None = None,
) -> ImageIndex:
    """Index one of torchvision's classification datasets.

    It is downloaded by torchvision, then written once below the cache directory: as `<split>/<class>/<number>.png`,
    or with the original bytes if the dataset consists of image files. Official val and test splits are kept; a
    missing one is split off train by its fraction.

    Args:
        name: Name of a class in `torchvision.datasets`, such as STL10, CIFAR10 or OxfordIIITPet.
        root: Folder where torchvision finds or downloads its files; in the cache directory by default.
        val_fraction: Share of train for validation, if there is no official val split.
        test_fraction: Share of train for test, if there is no official test split.
        seed: Seed of the split.
        exclude: Glob patterns of files to leave out, relative to the written folder (`train/<class>`).
        min_images: Least number of training images of a class; classes with fewer are left out. None keeps all.
        limit: See `Division`, as for `folds` and `fold`.
        options: Further arguments of the torchvision class, such as `{"split": "letters"}` of EMNIST.
        group: Regular expression that finds in a path what groups it with others (`groups.groups_by_pattern`).
        folds: Number of folds.
        fold: The fold that is val.

    Raises:
        UserError: The name is unknown, or the dataset is not for classification or cannot be downloaded.
    """
    base = cache_dir().absolute() / "torchvision"
    source = Path(root).expanduser().absolute() if root else base / "downloads"
    options = dict(options or {})
    label = "-".join([name, *(f"{key}={options[key]}" for key in sorted(options))]).replace("/", "_")
    folder = build_atomically(base / label, lambda fresh: _export(_dataset_class(name), source, options, fresh))
    fractions = (val_fraction, test_fraction)
    return folder_index(folder, *fractions, seed, exclude, min_images, False, group, limit, folds, fold)


def _dataset_class(name: str) -> type:
    from torchvision import __version__, datasets  # not needed once the folder is written

    offered = {
        n: c
        for n, c in vars(datasets).items()
        if inspect.isclass(c) and issubclass(c, datasets.VisionDataset) and n not in _NOT_OFFERED
    }
    if name in offered:
        return offered[name]
    by_fold = {n.lower(): n for n in offered}
    close = [by_fold[n] for n in difflib.get_close_matches(name.lower(), by_fold, n=3, cutoff=0.5)]
    hint = f"did you mean {' or '.join(close)}?" if close else "try STL10, CIFAR10, OxfordIIITPet or Flowers102."
    version = __version__.split("+")[0]
    raise UserError(f"data.name={name} is no classification data set of torchvision {version}: {hint}")


def _export(kind: type, source: Path, options: dict[str, Any], target: Path) -> None:
    """Write every split of one dataset below `target`."""
    parameters = inspect.signature(kind).parameters
    if "train" in parameters:
        splits: dict[str, dict[str, Any]] = {"train": {"train": True}, "test": {"train": False}}
    elif "split" in parameters:
        names = _SPLITS.get(kind.__name__, {"train": "train", "test": "test"})
        splits = {ours: {"split": theirs} for ours, theirs in names.items()}
    else:
        splits = {"train": {}}
    # EMNIST and QMNIST pass `download` on through their **kwargs
    downloads = "download" in parameters or ("kwargs" in parameters and kind.__name__ != "ImageNet")
    more = {"download": True, **options} if downloads else options
    for split, arguments in splits.items():
        _write_split(_load(kind, source, arguments | more), target / split)


def _load(kind: type, source: Path, arguments: dict[str, Any]) -> Any:
    """Construct the dataset, with its download; every failure becomes a `UserError`."""
    try:
        source.mkdir(parents=True, exist_ok=True)
        return kind(str(source), **arguments)
    except TypeError as error:
        raise UserError(f"torchvision's {kind.__name__} does not take its options: {error}.") from error
    except ImportError as error:
        raise UserError(f"torchvision's {kind.__name__} needs another package: {error}.") from error
    except (OSError, RuntimeError, HTTPException) as error:
        # The frame of torchvision's download function knows where the file belongs
        at = next((f.frame.f_locals["fpath"] for f in inspect.trace() if "fpath" in f.frame.f_locals), None)
        file = Path(at) if at else source / _wanted(kind)
        raise UserError(
            f"torchvision's {kind.__name__} could not be had ({_first_line(error)}): connect to the network, "
            f"or put {file.name} into {file.parent}, or point data.root at a folder where torchvision has it "
            "already."
        ) from error
    except ValueError as error:
        raise UserError(f"torchvision's {kind.__name__} refuses its options: {_first_line(error)}") from error


def _wanted(kind: type) -> str:
    """Return the names of the archives that torchvision would download, as far as the class names them."""
    texts = " ".join(str(value) for c in kind.__mro__[:-2] for key, value in vars(c).items() if "__" not in key)
    names = dict.fromkeys(name for name in re.findall(r"[\w.-]+", texts) if _ARCHIVE.fullmatch(name))
    return " and ".join(names) or f"the files of {kind.__name__}"


def _first_line(error: BaseException) -> str:
    reason = getattr(error, "reason", None) or error
    return (str(reason).splitlines() or [type(error).__name__])[0].rstrip(".")


def _write_split(dataset: Any, target: Path) -> None:
    """Write one split as `target/<class>/<number>.<extension>`; image files are linked or copied."""
    names, files = _class_names(dataset), _files(dataset)
    count = len(dataset)
    for i in shown(range(count), f"Writing {type(dataset).__name__} {target.name}", count):
        image, label = dataset[i] if files is None else files[i]
        if not isinstance(image, Image.Image | Path) or isinstance(label, bool) or not hasattr(label, "__index__"):
            raise UserError(
                f"torchvision's {type(dataset).__name__} does not give one class per image: tlab needs "
                "classification."
            )
        folder = target / (names[int(label)] if names else f"{int(label):03d}")
        folder.mkdir(parents=True, exist_ok=True)
        if not isinstance(image, Path):
            image.save(folder / f"{i:05d}.png", compress_level=1)  # four times as fast, a tenth larger
            continue
        file = folder / f"{i:05d}{image.suffix.lower()}"
        try:
            file.hardlink_to(image)
        except OSError:  # the file system cannot
            shutil.copyfile(image, file)


def _class_names(dataset: Any) -> list[str] | None:
    """Return one folder name per label, or None if the dataset does not name its classes."""
    classes = getattr(dataset, "classes", None)
    if not isinstance(classes, list | tuple):
        return None
    # ImageNet gives tuples of synonyms; no name may contain a slash or be hidden
    plain = [c[0] if isinstance(c, tuple) else str(c) for c in classes]
    safe = [re.sub(r"[/\\:]", "-", c).strip(". ") or f"class {k}" for k, c in enumerate(plain)]
    clash = {c.lower() for c in safe if [s.lower() for s in safe].count(c.lower()) > 1}
    return [f"{c} ({k})" if c.lower() in clash else c for k, c in enumerate(safe)]


def _files(dataset: Any) -> list[tuple[Path, int]] | None:
    """Return (image file, label) of every sample if the dataset keeps such lists, else None."""
    lists = ("_samples", "samples", "_image_files", "_images")  # pairs; or paths, beside `_labels`
    pairs: Any = next((getattr(dataset, name) for name in lists if hasattr(dataset, name)), ())
    try:
        if hasattr(dataset, "_labels"):
            pairs = zip(pairs, dataset._labels, strict=True)
        files = [(Path(path), int(label)) for path, label in pairs]
    except (TypeError, ValueError):
        return None
    alike = files and len(files) == len(dataset) and all(_same(dataset, i, *files[i]) for i in (0, len(files) - 1))
    return files if alike else None


def _same(dataset: Any, i: int, path: Path, label: int) -> bool:
    """Tell whether this file is the i-th sample of the dataset."""
    if not path.is_file():
        return False
    image, own = dataset[i]
    with Image.open(path) as opened:
        return own == label and image.convert("RGB").tobytes() == opened.convert("RGB").tobytes()
