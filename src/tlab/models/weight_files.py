"""Read what a weights file holds; none of its code is run.

Files of torch are read with `weights_only=True`. What training scripts save beside the weights (their arguments, a
metric as a NumPy scalar) refers to classes that torch does not allow; in place of those that hold mere data, and of
torch's own layers and optimizers, an empty stand-in is made. A file that refers to anything else is refused.
"""

import json
import pickletools
import re
import sys
import tarfile
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING  # the names of Python 2, which protocol 2 writes
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch

from tlab.core.errors import UserError
from tlab.core.files import is_device_or_pipe
from tlab.core.text import shell_command, shell_word
from tlab.models.weight_shards import index_in, shards

# A run's checkpoints below its directory, the one to take first; `tlab.runs.directory` has the names. None of a
# refit: who trains on from it with the same images would validate on what it has learned.
OF_A_RUN = ("checkpoints/soup.ckpt", "checkpoints/best.ckpt", "checkpoints/last.ckpt")
SUFFIXES = (".pth", ".pt", ".ckpt", ".safetensors", ".bin", ".tar", ".th", ".pkl")
BEGINNINGS = {  # of files that are none of torch's
    b"version https://git-lfs": "is a Git LFS pointer in place of the file; run git lfs pull where it came from",
    b"\x1f\x8b": "is compressed by gzip; unpack it with gunzip, and give the file that comes of it",
    b"BZh": "is compressed by bzip2; unpack it with bunzip2, and give the file that comes of it",
    b"\xfd7zXZ": "is compressed by xz; unpack it with unxz, and give the file that comes of it",
    b"\x28\xb5\x2f\xfd": "is compressed by zstd; unpack it with unzstd, and give the file that comes of it",
    b"\x89HDF": "is an HDF5 file, as Keras writes them; give weights that were trained with torch",
}
# Classes (full name) of which nothing is needed.
HARMLESS = re.compile(
    r"(argparse\.Namespace|types\.SimpleNamespace|functools\.partial|enum\.\w+|uuid\.\w+|typing\.\w+"
    r"|(datetime|decimal|fractions|zoneinfo|collections|omegaconf|pathlib|easydict|addict|munch|yacs|ml_collections|fvcore|mmcv|mmengine)"
    r"\.[\w.]+"
    r"|builtins\.(bool|int|float|str|bytes|list|tuple|dict|frozenset|range|slice|object)"
    r"|numpy\.(_?core\.multiarray\.(scalar|_reconstruct)|_?core\.numeric\._frombuffer|dtypes\.\w+|random\.[\w.]+)"
    r"|numpy\.(ndarray|dtype|(bool|int|uint|float|complex|str|bytes)\w*)"
    r"|torch\.(nn|optim|_C\._nn)\.[\w.]+|(torchvision|timm)\.[\w.]+"
    r"|(lightning|pytorch_lightning|lightning_fabric|lightning_utilities|torchmetrics)\.[\w.]+)"
)
# Those that are mappings, which may hold the weights.
MAPPINGS = re.compile(r"(.*\.)?(defaultdict|AttributeDict|EasyDict|ConfigDict|CfgNode|Munch|Dict)")
# What makes a NumPy array, which holds mere numbers
OF_ARRAYS = re.compile(r"numpy\.(_?core\.multiarray\._reconstruct|_?core\.numeric\._frombuffer|ndarray|dtype)")
PICKLE = b"\x80"
BEFORE_ZIP = b"\x80\x02\x8a\nl\xfc\x9cF\xf9"  # the number with which torch's files began before 1.6
# Python's expressions that load any objects, code and all, for who trusts a file
BY_TORCH = 'torch.load({file}, map_location="cpu", weights_only=False)'
PICKLED = 'pickle.load(open({file}, "rb"), encoding="latin1")'
NUMPY_OBJECTS = "numpy.load({file}, allow_pickle=True)"
# That goes on from what they return, c: it finds the tensors or arrays, and begins to save them
STATE_DICT = (
    'c = c.get("state_dict", c.get("model", c)) if hasattr(c, "get") else c; '
    'c = c.item() if getattr(c, "shape", 0) == () else c; '
    'c = c if hasattr(c, "get") or hasattr(c, "state_dict") else getattr(c, "model", c); '
    'c = c.state_dict() if hasattr(c, "state_dict") else c; '
    'torch.save({k: torch.as_tensor(v) for k, v in c.items() if hasattr(v, "shape")}'
)


class StandIn:
    """Stands for an object whose class is not loaded; it takes any arguments and any state, and keeps none."""

    def __new__(cls, *_: Any) -> "StandIn":
        """Return an empty object."""
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        """Leave the state out."""


class MappingStandIn:
    """Makes an ordinary mapping in place of one whose class is not loaded."""

    def __new__(cls, *_: Any) -> Any:
        """Return an empty mapping, which the file then fills."""
        return OrderedDict()


def weights_file(path: Path) -> Path:
    """Return the file to read: of a run's directory its best checkpoint, of another the index of numbered files.

    Raises:
        UserError: There is nothing, or a directory that is no run's.
    """
    if not path.is_dir():
        if is_device_or_pipe(path):
            raise UserError(
                f"backbone.weights={path} is a pipe or device, which can be read once, and a run that is resumed "
                "reads its weights again; write it to a file, and give backbone.weights=FILE"
            )
        if not path.is_file():
            raise UserError(f"backbone.weights={path} is not there, give the path of an existing weights file")
        return path
    for name in OF_A_RUN:
        if (path / name).is_file():
            return path / name
    if index := index_in(path):
        return index
    inside = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
    way_out = "the directory of a trained run, or a weights file"
    if inside:
        way_out = shell_word(f"backbone.weights={inside[0]}")
    raise UserError(f"backbone.weights={path} is a folder without a run's {OF_A_RUN[1]}; give {way_out}")


def read_content(path: Path) -> Any:
    """Return what a file of torch or of safetensors holds, or all files of a numbered set, on the CPU.

    Raises:
        UserError: A file is missing, damaged or of another kind, or holds more than data.
    """
    first, *others = (_content_of(file) for file in shards(path))
    for content in others if isinstance(first, Mapping) else ():
        first = {**first, **content} if isinstance(content, Mapping) else first
    return first


def _content_of(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        reason = f"{error.strerror}; look at its permissions"
        raise UserError(f"backbone.weights={path} cannot be read: {reason}") from error
    if start[8:] == b"{":  # a length of 8 bytes, then JSON (huggingface/safetensors, "Format")
        return _read_safetensors(path)
    names = _archive(path)
    if names and all(name.endswith(".npy") for name in names):
        return _read_arrays(path)
    if start.startswith(b"\x93NUMPY"):
        raise whole_model(path, loaded=f"{NUMPY_OBJECTS}.item()")
    if start.startswith(PICKLE) and not start.startswith(BEFORE_ZIP):
        raise whole_model(path, loaded=PICKLED)
    if any("/code/" in name for name in names) and any(name.endswith("/constants.pkl") for name in names):
        raise _saved_otherwise(path, "is a TorchScript file", 'torch.jit.load({file}, map_location="cpu")')
    if any(name.endswith(("serialized_exported_program.json", "models/model.json")) for name in names):
        raise _saved_otherwise(path, "is a file of torch.export", "torch.export.load({file}).state_dict")
    try:
        with warnings.catch_warnings(action="ignore"):  # of other protocols of pickle than torch's own
            return _load(path)
    except Exception as error:  # torch.load raises a dozen types on foreign bytes
        if isinstance(error, UnpicklingError) and (names or "GLOBAL" in str(error)):
            refused = re.search(r"GLOBAL (\S+)", str(error))
            raise whole_model(path, f" ({refused[1]})" if refused else "") from error
        raise _damaged(path, names) from error


def _load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        if "Unsupported global" not in str(error):
            raise
        named = sorted(name for name in _globals(path) if HARMLESS.fullmatch(name))
        kinds = [
            getattr(np.dtypes, name) for name in np.dtypes.__all__
        ]  # of numbers, which arrays set the state of
        with torch.serialization.safe_globals([*kinds, *((_in_place_of(name), name) for name in named)]):
            return torch.load(path, map_location="cpu", weights_only=True)


def _in_place_of(name: str) -> Any:
    """Return what to make in place of a harmless class: an array where it is NumPy's."""
    if OF_ARRAYS.fullmatch(name):
        module, _, attribute = name.rpartition(".")
        return getattr(sys.modules[module.replace("numpy.core", "numpy._core")], attribute)
    return MappingStandIn if MAPPINGS.fullmatch(name) else StandIn


def _globals(path: Path) -> set[str]:
    """Return the full names of all classes and functions that a file of torch refers to; none is imported."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            record = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            pickles, operations = 1, archive.open(record)
    else:  # before torch 1.6: three small pickles, then the content
        pickles, operations = 4, path.open("rb")
    found = set()
    with operations:
        for _ in range(pickles):
            for operation, argument, _place in pickletools.genops(operations):
                if operation.name == "GLOBAL":
                    module, _, name = str(argument).partition(" ")
                    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
                    found.add(f"{module}.{name}")
    return found


def _read_safetensors(path: Path) -> Any:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:  # a class of its own for each kind of damage
        raise _damaged(path) from error


def _read_arrays(path: Path) -> Any:
    """Return the arrays of a file of `numpy.savez`."""
    try:
        with np.load(path) as arrays:
            return dict(arrays)
    except Exception as error:
        if "allow_pickle" in str(error):
            raise whole_model(path, loaded=NUMPY_OBJECTS) from error
        raise _damaged(path) from error


def _damaged(path: Path, names: Sequence[str] = ()) -> UserError:
    """Return the refusal of a file that torch cannot read: what it is, and what helps.

    Args:
        path: The file.
        names: The names in it, if it is a ZIP archive.
    """
    what = "is no weights file of torch, or is cut short; fetch it again"
    with path.open("rb") as file:
        start = file.read(512)
    if tarfile.is_tarfile(path):
        with suppress(tarfile.TarError, EOFError, OSError), tarfile.open(path) as archive:
            names = archive.getnames()
    if not start.strip(b"\0"):
        what = "holds nothing; fetch it again"
    elif inside := next((name for name in names if name.endswith(SUFFIXES)), None):
        what = f"is an archive; unpack it, and give the file in it: {shell_word(f'backbone.weights={inside}')}"
    elif start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml", b"{")):
        what = (
            "is a server's answer (HTML, XML or JSON) in place of the file; fetch it again, signed in where needed"
        )
    elif path.suffix == ".onnx":
        what = "is an ONNX model; export it from torch with torch.save(model.state_dict(), FILE)"
    else:
        what = next((told for first, told in BEGINNINGS.items() if start.startswith(first)), what)
    return UserError(f"backbone.weights={path} {what}")


def _archive(path: Path) -> list[str]:
    """Return the names in a ZIP archive, as which torch writes its files; none for other files."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except Exception:  # of several types where it is damaged
        return []


def whole_model(path: Path, which: str = "", loaded: str = BY_TORCH) -> UserError:
    """Return the refusal of a file that holds Python objects, such as a whole model.

    Args:
        path: The file.
        which: Which objects, to be told.
        loaded: Python's expression that loads them, with {file} for the file.
    """
    return _saved_otherwise(
        path,
        f"holds Python objects besides tensors{which}, which tlab does not run",
        loaded,
        ", if you trust whoever made it",
    )


def _saved_otherwise(path: Path, what: str, loaded: str, condition: str = "") -> UserError:
    """Return the refusal of a file whose tensors a command of Python can save, once it is loaded."""
    target = path.with_name(f"{path.stem}_tensors.pth")
    source, saved = (json.dumps(str(each), ensure_ascii=False) for each in (path, target))
    code = f"import numpy, pickle, torch; c = {loaded.format(file=source)}; {STATE_DICT}, {saved})"
    return UserError(
        f"backbone.weights={path} {what}; save its state dict alone{condition}, and give "
        f"{shell_word(f'backbone.weights={target}')}: {shell_command(['python', '-c', code])}"
    )
