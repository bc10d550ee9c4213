"""Weights that are spread over several numbered files, as large models are published."""

import json
import re
from pathlib import Path

from tlab.core.errors import UserError
from tlab.core.text import few, shell_word

NUMBERED = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.\w+)")
INDEX = "*.index.json"  # key -> file, below "weight_map" (huggingface/transformers, "Sharded checkpoints")


def index_in(folder: Path) -> Path | None:
    """Return the index of the numbered files in a folder, that of safetensors first; None without one."""
    found = sorted(folder.glob(INDEX), key=lambda file: (".safetensors" not in file.name, file.name))
    return next((file for file in found if _named_in(file)), None)


def shards(file: Path) -> list[Path]:
    """Return all files of a set of which `file` is one, or the index; for any other file that one alone.

    Raises:
        UserError: Some are missing.
    """
    names = _named_in(file) if file.suffix == ".json" else []
    if match := NUMBERED.fullmatch(file.name):
        stem, number, count, suffix = match.groups()
        if int(count) < 10_000:  # more are none
            names = [f"{stem}-{each:0{len(number)}d}-of-{count}{suffix}" for each in range(1, int(count) + 1)]
    files = [file.with_name(name) for name in names] or [file]
    if missing := [each.name for each in files if not each.is_file()]:
        raise UserError(
            f"backbone.weights={file} is part of weights in {len(files)} files, of which {few(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not in {shell_word(str(file.parent))}; fetch all of them"
        )
    return files


def _named_in(index: Path) -> list[str]:
    """Return the names of the files in an index, each once; none if it is no index."""
    try:
        return sorted({Path(name).name for name in json.loads(index.read_bytes())["weight_map"].values()})
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return []
