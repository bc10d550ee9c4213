"""Digests of what pixels and features depend on: runs with equal digests share cached features."""

import hashlib
import io
import os
import pickle
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tlab.core.files import identity_if_there
from tlab.data.image_cache import digest_of_decoding
from tlab.data.sources.samples import Sample

# What turns decoded pixels into features; a change elsewhere leaves stored ones valid.
CODE = (
    *("data/augment/base", "data/augment/color", "data/augment/compose", "data/augment/geometry"),
    *("data/augment/lazy_image", "data/sampler"),
    *("finetuning/features/inference", "finetuning/features/rows", "models/autotune/precision"),
    *("models/backbones", "models/classifier", "models/freezing", "models/head", "models/stages", "models/tokens"),
    *("models/staging/splitting", "models/staging/tracing"),
)
TLAB = Path(__file__).parents[2]
LIBRARIES = ("torch", "torchvision", "pillow", "numpy", "opencv-python-headless")


def of_files(samples: Iterable[Sample]) -> str:
    """Return a digest of the files' paths, sizes, times and inodes, in their order."""
    sha = hashlib.sha256()
    for sample in samples:
        sha.update(f"{os.fsencode(sample.file)!r} {identity_if_there(sample.file)}\n".encode())
    return sha.hexdigest()


def of_transforms(transforms: Mapping[str, Any]) -> str | None:
    """Return a digest of named transforms with all their settings, and with the code of a user's own ones.

    None where one cannot be pickled (it holds a lambda or an open file).
    """
    content = io.BytesIO()
    pickler = _ByValue(content)
    pickler.fast = True  # no references: equal settings may or may not be the same object
    try:
        pickler.dump(list(transforms.items()))
    except Exception:  # whatever a user's object raises
        return None
    sha = hashlib.sha256(content.getvalue())
    for step in transforms.values():
        parts = step.modules() if isinstance(step, nn.Module) else [step]
        for module in sorted({type(part).__module__ for part in parts}):
            file = getattr(sys.modules.get(module), "__file__", None)
            if file and module.partition(".")[0] not in ("torch", "torchvision", "tlab"):
                sha.update(Path(file).read_bytes())
    return sha.hexdigest()


class _ByValue(pickle.Pickler):
    """Pickles equal values to equal bytes; torch would write a tensor's address too."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, Tensor):
            return str, (f"{obj.dtype} {obj.tolist()}",)
        return NotImplemented


@cache
def of_code() -> dict[str, str]:
    """Return the versions of the libraries, and a digest of tlab's code, that turn files into features."""
    sha = hashlib.sha256(digest_of_decoding().encode())
    for module in CODE:
        sha.update((TLAB / f"{module}.py").read_bytes())
    return {"tlab": sha.hexdigest(), **{name: version(name) for name in LIBRARIES}}
