"""Configuration reference of the site: every key from the schema, every choice from its YAML file.

mkdocs calls `on_page_markdown` for each page; `<!-- keys train -->` and `<!-- choices -->` stand for what is made.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import Field
from functools import cache
from itertools import groupby
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args

from omegaconf import MISSING, OmegaConf

from tlab.config import schema
from tlab.config.hydra import compose, conf_dir
from tlab.config.validation import typed

# Choices that have keys which the defaults lack
VARIANTS = {
    "train": ("data=folder", "data=csv", "data=torchvision", "loss=focal", "loss=logit_adjusted"),
    "study": ("studies=data_size",),
}
NOT_COMPOSED = {"run_dir": "run_dir=outputs/runs/NAME"}
TYPES = {str: "text", int: "integer", float: "number", bool: "true, false", Any: "any", NoneType: "null"}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the tables in the places of their markers."""
    markdown = re.sub(r"^<!-- keys (\w+) -->$", lambda found: key_tables(found[1]), markdown, flags=re.MULTILINE)
    return re.sub(r"^<!-- choices -->$", lambda _: choices(), markdown, flags=re.MULTILINE)


def key_tables(command: str) -> str:
    """Return the keys of a command in Markdown; of tlab.train a table for each group."""
    declared = {name: key for name, key in schema.keys(schema.COMMANDS[command]).items() if key.metadata["help"]}
    if command != "train":
        return _table(command, declared)
    single = {name: key for name, key in declared.items() if "." not in name}
    tables = [f"### The run\n\n{_table(command, single)}"]
    below = ((name, key) for name, key in declared.items() if "." in name)
    for group, members in groupby(below, key=lambda each: each[0].partition(".")[0]):
        tables.append(f"### {group}\n\n{_table(command, dict(members))}")
    return "\n\n".join(tables)


def _table(command: str, declared: dict[str, Field[Any]]) -> str:
    rows = ["| key | default | values | meaning |", "|---|---|---|---|"]
    for name, key in declared.items():
        cells = (_default(command, name, key), _values(key), key.metadata["help"])
        rows.append(" | ".join([f'| <a id="{command}.{name}"></a>`{name}`', *map(_cell, cells)]) + " |")
    return "\n".join(rows)


def _cell(text: str) -> str:
    """Return text for a cell of a table, with what is Markdown in it only where it is code."""
    return text if "`" in text else re.sub(r"([|*_<>\\])", r"\\\1", text)


@cache
def _composed(command: str) -> tuple[dict[str, Any], ...]:
    own = ["run_dir=outputs/runs/NAME"] if command == "train" else []
    each = (
        (compose([*own, variant], command) for variant in VARIANTS.get(command, ())) if command in VARIANTS else ()
    )
    return tuple(OmegaConf.to_container(cfg) for cfg in (each or [compose(own, command)]))  # type: ignore[misc]


def _default(command: str, name: str, key: Field[Any]) -> str:
    """Return the value that a command takes if nothing is given, as YAML has it; "" for one that must be given."""
    for node in _composed(command):
        value: Any = node
        for part in name.split("."):
            value = value.get(part, MISSING) if isinstance(value, dict) else MISSING
        if value != MISSING:
            return f"`{typed(value)}`" if not isinstance(value, dict) else "`{...}`" if value else "`{}`"
    return (
        f"`{typed(key.default)}`"
        if isinstance(key.default, str | int | float | bool) and key.default != MISSING
        else ""
    )


def _values(key: Field[Any]) -> str:
    """Return what a key may be: its choices, or its type and bounds."""
    if allowed := key.metadata["choices"]:
        return ", ".join(f"`{typed(value)}`" for value in allowed)
    return ", ".join([" or ".join(_types(key)), *_bounds(*key.metadata["bounds"])])


def _types(key: Field[Any]) -> Iterator[str]:
    kinds = get_args(key.type) if isinstance(key.type, UnionType) else (key.type,)
    for kind in kinds:
        if kind is str and key.metadata["path"]:
            yield "path"
        else:
            yield TYPES.get(kind, "list" if str(kind).startswith("list") else "mapping")


def _bounds(least: float | None, above: float | None, most: float | None) -> Iterator[str]:
    for word, bound in (("at least", least), ("above", above), ("at most", most)):
        if bound is not None and math.isfinite(bound):
            yield f"{word} {bound:g}"


def choices() -> str:
    """Return all choices of all groups in Markdown: when to choose each, and its file."""
    folders = [*conf_dir().glob("[!h_]*/"), conf_dir() / "head", conf_dir() / "hydra/launcher"]
    sections = []
    for folder in sorted(folders):
        group = folder.relative_to(conf_dir()).as_posix()
        files = [file for file in sorted(folder.glob("*.yaml")) if not file.name.startswith("_")]
        sections += [f"### Choices of {group}", *(_choice(group, file) for file in files)]
    return "\n\n".join(sections)


def _choice(group: str, file: Path) -> str:
    text = file.read_text(encoding="utf-8").strip()
    comment = " ".join(re.findall(r"^# (?!@)(\S.*)$", text.partition("\n\n")[0], flags=re.MULTILINE))
    when = re.split(r"(?<=\w)[.:](?= |$)", comment)[0].removeprefix(f"Choose {file.stem} ")
    body = "\n".join(f"    {line}" for line in text.splitlines())
    return f'??? note "`{group}={file.stem}` {when}"\n\n    ```yaml\n{body}\n    ```'.replace('\\"', '"')
