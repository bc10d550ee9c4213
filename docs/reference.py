"""Configuration reference of the site: every key from the schema, every choice from its YAML file.

mkdocs calls `on_page_markdown` for each page; a comment such as `<!-- choices -->` stands for what is made.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import Field, fields
from functools import cache
from html import escape
from itertools import groupby
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args

from omegaconf import MISSING, OmegaConf

from tlab.config import schema
from tlab.config.hydra import compose, conf_dir
from tlab.config.validation import typed

# Choices of tlab.train that have keys which the defaults lack
VARIANTS = [[], ["data=csv"], ["data=torchvision"], ["loss=focal"], ["loss=logit_adjusted"]]
TYPES = {str: "text", int: "integer", float: "number", bool: "true, false", Any: "any", NoneType: "null"}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the tables in the places of their markers."""
    for name, made in (("train", keys_of_train), ("choices", choices), ("commands", keys_of_other_commands)):
        if (marker := f"<!-- {name} -->") in markdown:
            markdown = markdown.replace(marker, made())
    return markdown


def keys_of_train() -> str:
    """Return the keys of tlab.train in Markdown: those of the run, then a table for each group."""
    tables = []
    for group, members in groupby(_declared("train"), key=lambda name: name.rpartition(".")[0].partition(".")[0]):
        tables.append(f"### {group or 'The run'}\n\n{_table('train', [*members])}")
    return "\n\n".join(tables)


def keys_of_other_commands() -> str:
    """Return the keys of the other commands in Markdown, a section for each."""
    sections = []
    for command, node in schema.COMMANDS.items():
        if command != "train":
            of_runs = "overrides" in {key.name for key in fields(node)}
            sections += [f"## tlab.{command}", "Anything else is a key of tlab.train." if of_runs else ""]
            sections.append(_table(command, _declared(command)))
    return "\n\n".join(sections)


def _declared(command: str) -> list[str]:
    """Return the keys of a command that have a meaning of their own, those without a group first."""
    declared = schema.keys(schema.COMMANDS[command]).items()
    return sorted((name for name, key in declared if key.metadata["help"]), key=lambda name: "." in name)


def _table(command: str, names: Sequence[str]) -> str:
    declared = schema.keys(schema.COMMANDS[command])
    rows = ["| key | default | values | meaning |", "|---|---|---|---|"]
    for name in names:
        cells = (_default(command, name), _values(declared[name]), declared[name].metadata["help"])
        rows.append(" | ".join([f'| <a id="{command}.{name}"></a>`{name}`', *map(_cell, cells)]) + " |")
    return "\n".join(rows)


def _cell(text: str) -> str:
    """Return text for a cell of a table, with nothing of Markdown or HTML in it but code."""
    return text if "`" in text else re.sub(r"([|*_{}\\])", r"\\\1", escape(text, quote=False))


@cache
def _composed(command: str) -> tuple[dict[str, Any], ...]:
    """Return a command's configuration with each of its variants, references to other keys as they are."""
    each = (compose(variant, command) for variant in (VARIANTS if command == "train" else [[]]))
    return tuple(OmegaConf.to_container(cfg) for cfg in each)  # type: ignore[misc]


def _default(command: str, name: str) -> str:
    """Return the value that a command takes if nothing is given, as typed; "" for one that must be given."""
    for node in _composed(command):
        value: Any = node
        for part in name.split("."):
            value = value.get(part, ...) if isinstance(value, dict) else ...
        if value is not ...:
            shown = "{...}" if value and isinstance(value, dict) else typed(value)
            return f"`{shown}`" if value != MISSING else ""
    return ""


def _values(key: Field[Any]) -> str:
    """Return what a key may be: its choices, or its type and bounds."""
    if allowed := key.metadata["choices"]:
        return ", ".join(f"`{typed(value)}`" for value in allowed)
    kinds = get_args(key.type) if isinstance(key.type, UnionType) else (key.type,)
    named = (TYPES.get(kind, "list" if str(kind).startswith("list") else "mapping") for kind in kinds)
    bounds = zip(("at least", "above", "at most"), key.metadata["bounds"], strict=True)
    given = (f"{words} {bound}" for words, bound in bounds if bound is not None and math.isfinite(bound))
    return ", ".join([" or ".join(named), *given])


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
    when = re.split(r"(?<=[\w)])(?::|, for example|\.(?= [A-Z0-9]|$))", comment)[0].removeprefix(
        f"Choose {file.stem} "
    )
    body = "\n".join(f"    {line}" for line in text.splitlines())
    return f'??? note "`{group}={file.stem}` {when}"\n\n    ```yaml\n{body}\n    ```'.replace('\\"', '"')
