"""Fast, ordered listing of the folders and image files below a root, and exclusion patterns."""

import glob
import logging
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import translate
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

from PIL import Image

from tlab.config.overrides import exclude_argument, shell_argument
from tlab.core.errors import UserError
from tlab.core.files import cache_dir
from tlab.core.text import as_text, few

log = logging.getLogger(__name__)

# Pictures that Pillow may lack a decoder for: they are listed, so that each gets a reason why it cannot be read.
PICTURES = frozenset(
    {
        *(".heic", ".heif", ".hif", ".avif", ".avifs", ".jxl", ".jxr", ".wdp", ".svg", ".svgz", ".psb", ".xcf"),
        *(".dcm", ".dicom", ".exr", ".hdr"),
        *(".raw", ".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".orf", ".rw2", ".raf"),
        *(".pef", ".srw", ".x3f", ".3fr", ".erf", ".kdc", ".mrw"),
    }
)
HEIF = frozenset({".heic", ".heif", ".hif"})  # of which a package of its own is the decoder
# Names (in lower case) of what operating systems, network drives and interpreters leave behind; hidden ones are too
NO_DATA = frozenset(
    {
        *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "zbthumbnail.info", "picasa.ini"),
        *("icon\r", "__macosx", "network trash folder", "temporary items", "lost+found", "found.000"),
        *("system volume information", "$recycle.bin", "recycler", "#recycle", "#snapshot"),
        *("@eadir", "@recycle", "@recently-snapshot", "__pycache__", "node_modules"),
    }
)
# Files that mark a folder as a run, a sweep or a search of tlab, or as a virtual environment
OUTPUTS = frozenset({"run.json", "sweep.json", "study.json", "pyvenv.cfg"})
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".7z", ".rar")


@cache
def image_extensions() -> frozenset[str]:
    """Return the file extensions that Pillow can open, in lower case, with the dot."""
    by_name_only = {"BUFR", "GRIB", "HDF5", "MPEG"}  # Pillow identifies these but has no decoder
    readable = Image.registered_extensions().items()
    return frozenset(ext for ext, name in readable if name in Image.OPEN and name not in by_name_only)


@cache
def _decodable() -> frozenset[str]:
    return image_extensions() | (HEIF if find_spec("pillow_heif") else frozenset())


def with_decoder(names: Collection[str]) -> list[str]:
    """Return the file names for whose extension there is a decoder."""
    endings = {name.rpartition(".")[2] for name in names}
    decodable = {ending for ending in endings if f".{ending.lower()}" in _decodable()}
    return [*names] if endings == decodable else [name for name in names if name.rpartition(".")[2] in decodable]


def nfc(name: str) -> str:
    """Return `name` as text in Unicode's composed form, so that folders sort and split alike on every system."""
    return unicodedata.normalize("NFC", as_text(name))


def folded(name: str) -> str:
    """Return a class name without capitals, and with single blanks between words alone."""
    return " ".join(name.casefold().split())


_compiled = cache(re.compile)


class Exclude:
    """Glob patterns on POSIX paths relative to the root; `*` also matches `/`.

    Args:
        patterns: Patterns such as `["train/ants/imageNotFound.gif", "*.gif", "val/unsure"]`; one that
            matches a folder excludes everything below it. It may also begin with the root.
        root: The root, as typed.
    """

    def __init__(self, patterns: Iterable[str] = (), root: str | os.PathLike[str] = "") -> None:
        if isinstance(patterns, str):
            patterns = [patterns]
        typed = os.path.normpath(os.path.expanduser(root))  # noqa: PTH111 - Path lacks normpath
        starts = [f"{nfc(os.path.abspath(typed))}/"]  # noqa: PTH100 - keeps symbolic links as typed
        if not os.path.lexists(f"{typed}/{typed.partition('/')[0]}"):
            starts.append(f"{nfc(typed)}/")
        self.patterns = [nfc(str(pattern)).removeprefix("./") for pattern in patterns]
        for start in starts if root else ():
            self.patterns = [pattern.removeprefix(start) for pattern in self.patterns]
        self.used: set[str] = set()
        folders = {pattern: re.sub(r"/\*{0,2}$", "", pattern) for pattern in self.patterns}
        self._folders = {pattern: translate(folder) for pattern, folder in folders.items()}
        self._files = {p: f"{translate(p)}|{translate(f'{folder}/*')}" for p, folder in folders.items()}
        # names that were meant where a pattern is in fact another one, or two: photo[1].gif, Pepper,_bell
        joined = (comma.join(pair) for pair in pairwise(self.patterns) for comma in (",", ", "))
        self._meant = dict.fromkeys([*(p for p in self.patterns if glob.escape(p) != p), *joined], False)

    def file(self, relative: str) -> bool:
        """Tell whether this file is excluded."""
        return self._match(self._files, relative)

    def folder(self, relative: str) -> bool:
        """Tell whether this folder is excluded with everything below it."""
        return self._match(self._folders, relative)

    def _match(self, expressions: Mapping[str, str], relative: str) -> bool:
        name = nfc(relative)
        if name in self._meant:
            self._meant[name] = True
        if not expressions or _compiled("|".join(expressions.values())).match(name) is None:  # mostly so
            return False
        self.used.update(p for p, expression in expressions.items() if _compiled(expression).match(name))
        return True

    def issues(self) -> list[str]:
        """Return one sentence for each pattern that matched nothing (usually a typo)."""
        sentences = []
        for pattern in self.patterns:
            if pattern not in self.used:
                meant = [name for name, there in self._meant.items() if there and pattern in name]
                way_out = f"; write {exclude_argument(meant)} for what is there" if meant else ""
                sentences.append(f"data.exclude: the pattern {pattern!r} matched no file{way_out}.")
        return sentences


def check_root(root: str | os.PathLike[str], key: str = "data.root") -> Path:
    """Return `root` as an absolute path, or raise a `UserError` if it is not a readable folder."""
    if not str(root).strip():
        raise UserError(f"{key} is empty: give the folder that holds the images, {key}=DIR.")
    path = Path(os.path.abspath(Path(root).expanduser()))  # noqa: PTH100 - keeps symbolic links as typed
    if not path.exists():
        raise UserError(f"{key}={root} does not exist (looked in {path}): give a folder of images, {key}=DIR.")
    if not path.is_dir():
        raise UserError(f"{key}={root} is a file: give the folder that holds the images (unpack an archive first).")
    if not os.access(path, os.R_OK | os.X_OK):
        raise UserError(f"{key}={root} may not be read by this user: change its permissions.")
    return path


def check_apart(output: Path, root: str | None, key: str) -> None:
    """Raise a `UserError` if the place of an output is a folder with images below the root of the data.

    The output's files would mark it as none of the data.

    Args:
        output: Folder that is to be written to.
        root: Root of the data, as typed.
        key: Key that names the output.
    """
    top = Path(os.path.abspath(Path(root).expanduser())) if root else None  # noqa: PTH100
    if top not in output.absolute().parents or not output.is_dir() or OUTPUTS & {*os.listdir(output)}:  # noqa: PTH208
        return
    if images := image_files(output):
        other = shell_argument(key, f"{top}_{key.split('.')[1]}")
        raise UserError(
            f"{key}={output} holds images of data.root={root} ({few(images)}), but a folder with an output of "
            f"tlab is never data: give another one, such as {other}"
        )


@dataclass
class Folder:
    """A folder below a root, and what is in it; what is no data or excluded is not.

    Attributes:
        place: Absolute path.
        path: POSIX path relative to the root, "" for the root.
        folders: The folders in it, sorted by name.
        images: Names of the image files in it, unsorted.
        others: Extension -> number of the other files in it and below; what is no regular file is under its name.
        archives: Names of the archives in it, unsorted.
        outputs: Paths of the folders in it that are left out as outputs of tlab, though images lie in them.
        count: Number of image files in it and below.
        is_closed: Whether the user may not read it.
        has_outputs: Whether outputs of tlab lie in it or below.
        is_output: Whether it is itself an output of tlab.
    """

    place: str
    path: str
    folders: list["Folder"] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    archives: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    count: int = 0
    is_closed: bool = False
    has_outputs: bool = False
    is_output: bool = False

    @property
    def name(self) -> str:
        """Its own name, in composed Unicode."""
        return nfc(self.path.rpartition("/")[2])

    @property
    def filled(self) -> list["Folder"]:
        """The folders in it that hold an image or, as far as the user may know, could."""
        return [folder for folder in self.folders if folder.count or folder.is_closed]

    def files(self) -> list[str]:
        """Return the POSIX paths, relative to the root, of the image files in it and below, unsorted.

        Raises:
            UserError: The user may not read a folder.
        """
        if self.is_closed:
            raise UserError(f"{self.place} may not be read by this user: change its permissions")
        prefix = f"{self.path}/" if self.path else ""
        found = [prefix + name for name in self.images]
        for folder in self.folders:
            found += folder.files()
        return found


def read_folder(root: Path, exclude: Exclude | None = None) -> Folder:
    """Return a folder with all that lies below it, read once.

    Links to folders are followed, unless they lead back. Neither hidden files and folders count, nor what
    `NO_DATA` names, nor the cache directory, nor tlab's own outputs (unless they are the root itself).

    Args:
        root: Absolute path of the folder.
        exclude: Patterns of files and folders to leave out.
    """
    found = _read(str(root), "", exclude or Exclude(), frozenset(), str(cache_dir().absolute()))
    assert found is not None
    return found


def image_files(folder: Path) -> list[str]:
    """Return the POSIX paths, relative to `folder`, of the image files in it and below, sorted."""
    return in_order(read_folder(folder).files())


def images_to_predict(folder: Path, key: str = "", exclude: Exclude | None = None) -> list[str]:
    """Return `image_files` of a folder of which each is wanted; other files in it are counted in a warning.

    Args:
        folder: The folder.
        key: What the error calls it: `input=`.
        exclude: Patterns of files and folders to leave out.

    Raises:
        UserError: It holds no image file.
    """
    found = read_folder(folder, exclude)
    if found.others:
        log.warning("Not images by their extensions below %s: %s", folder, extensions(found.others))
    if not found.count:
        raise UserError(f"{key}{folder} holds no image file; give an image file, or a folder of images")
    return in_order(found.files())


def in_order(names: Sequence[str]) -> list[str]:
    """Return names sorted by their composed Unicode form."""
    return sorted(names) if all(map(str.isascii, names)) else sorted(names, key=nfc)


def in_class_order(names: Iterable[str]) -> list[str]:
    """Return class names sorted as people count: `0, 1, 2, 10`, `grade 2, grade 10`, `-1, 0, 0.5`."""
    listed = list(names)
    if all(re.fullmatch(r"-?\d+(\.\d+)?", name) for name in listed):
        return sorted(listed, key=lambda name: (float(name), name))

    def key(name: str) -> tuple[list[str | int], str]:
        pieces = re.split(r"(\d+)", name)  # text and digits in turn, so that only like is compared with like
        return [int(piece) if i % 2 else piece for i, piece in enumerate(pieces)], name

    return sorted(listed, key=key)


def extensions(others: Mapping[str, int]) -> str:
    """Return numbers of files by extension, the largest first: `.txt 3, .xml 2`."""
    counted = sorted(others.items(), key=lambda item: (-item[1], item[0]))
    return few((f"{extension or 'no extension'} {number}" for extension, number in counted), 6)


def _is_regular(entry: os.DirEntry[str]) -> bool:
    """Tell whether an entry is a file, or a link to one or to nothing; a pipe would never end."""
    if not entry.is_symlink():
        return entry.is_file()
    return os.path.isfile(entry.path) or not os.path.exists(entry.path)  # noqa: PTH110, PTH113 - Path is slow here


def _read(place: str, path: str, exclude: Exclude, above: frozenset[str], cached: str) -> Folder | None:
    """Return a folder with all that lies below it, or None if runs of tlab lie there."""
    taken, prefix = image_extensions() | PICTURES, f"{path}/" if path else ""
    found, names = Folder(place, path), []
    is_output = place == cached
    try:
        with os.scandir(place) as entries:
            for entry in entries:
                name = entry.name
                if name.startswith(".") or name.lower() in NO_DATA:
                    continue
                try:
                    is_folder = entry.is_dir()
                except OSError:  # a link to itself
                    is_folder = False
                if is_folder:
                    names.append(name)
                    continue
                dot = name.rfind(".")  # not the first letter
                extension = name[dot:].lower() if dot > 0 else ""
                if exclude.patterns and exclude.file(prefix + name):
                    continue
                is_output |= name in OUTPUTS
                if extension in taken:
                    if _is_regular(entry):
                        found.images.append(name)
                    else:
                        found.others[f"{name}, a pipe or device:"] += 1
                else:
                    if name.lower().endswith(ARCHIVES):
                        found.archives.append(name)
                    found.others[extension] += 1
    except PermissionError:
        found.is_closed = True
    except FileNotFoundError:  # another run has removed it since
        return found
    if path and is_output:
        found.is_output = True
        return found
    if names:
        above = above | {os.path.realpath(place)}
    for name in in_order(names):
        inner = f"{place}/{name}"
        if exclude.folder(prefix + name):
            continue
        # A link to a folder above would never end
        if os.path.islink(inner) and os.path.realpath(inner) in above:  # noqa: PTH114 - Path is slow here
            continue
        below = _read(inner, prefix + name, exclude, above, cached)
        if below is None or below.is_output:
            found.has_outputs = True
            found.outputs += [below.path] if below and below.images else []
            continue
        found.folders.append(below)
        found.others.update(below.others)
        found.has_outputs |= below.has_outputs
    found.count = len(found.images) + sum(folder.count for folder in found.folders)
    # where runs lie by default, beside what is written for several of them
    return None if found.has_outputs and path.rpartition("/")[2] == "outputs" else found
