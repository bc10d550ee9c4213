"""What a configuration that lies in a file may build: nothing but what tlab itself lists.

`torch.load(weights_only=True)` runs no code, but Hydra calls whatever a `_target_` names. A checkpoint, a
`run.json` or a `study.json` may be anybody's, so a `_target_` in it must be one of those that conf/ has at that
place, with plain values below; of `backbone.kwargs`, `tlab.models.arguments` refuses what could read another file.
What is not built from a file at all (augmentation, optimizer, ...) may have any; they are left out.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import GrammarParseError, OmegaConfBaseException
from omegaconf.grammar_parser import OmegaConfGrammarParser, parse

from tlab.config.schema import GONE, BackboneConfig, DataConfig
from tlab.config.targets import renewed
from tlab.core.errors import UserError

_SOURCES = (
    "tlab.data.sources.demo.index.demo_index",
    "tlab.data.sources.folder.folder_index",
    "tlab.data.sources.csv_table.csv_index",
    "tlab.data.sources.torchvision_sets.torchvision_index",
)
# Place in a configuration -> what may be built there. A test holds it against conf/.
TARGETS = {
    "backbone": ("tlab.models.backbones.build_backbone",),
    "head": ("tlab.models.head.Head",),
    "data.module": ("tlab.data.datamodule.ImageDataModule",),
    "data.module.source": _SOURCES,
    "data.source": _SOURCES,
    "sampler": ("optuna.samplers.RandomSampler", "optuna.samplers.TPESampler"),
    "pruner": ("optuna.pruners.HyperbandPruner", "optuna.pruners.MedianPruner", "optuna.pruners.NopPruner"),
}
# Places of which nothing is built from a file; `*` stands for any one key.
NEVER_BUILT = (
    *("aug", "callbacks", "logger", "loss", "optimizer", "scheduler"),
    *("data.module.augment", "data.module.mix", "finetune.phases.*.aug"),
)
# Places where `trust=true` lets a file build anything.
TRUSTED = ("backbone", "head", "data")
# Sources that write below their `root`; from a file that is left out, and they write into the cache directory.
_WRITING = ("tlab.data.sources.demo.index.demo_index", "tlab.data.sources.torchvision_sets.torchvision_index")
_SPECIAL = re.compile(r"_\w+_")  # Hydra's keys: _target_, _args_, _partial_, ...
TRUST = "if it is your own, or you trust whoever made the file, give trust=true"
ANOTHER = "give a checkpoint that tlab.train wrote"

_PLAIN = (type(None), bool, int, float, str)

Place = tuple[str, ...]


def read_config(raw: Any, file: Path, trust: bool = False) -> DictConfig:
    """Return the configuration that a checkpoint holds, safe to build backbone, head and data source from.

    Args:
        raw: As `torch.load(weights_only=True)` gives it.
        file: The checkpoint.
        trust: Let backbone, head and data source be anybody's, and interpolations ask resolvers.

    Returns:
        The same with its interpolations, which name keys of the file only. Below `NEVER_BUILT` what would build
        something or ask a resolver is left out.

    Raises:
        UserError: It would build something else, asks a resolver (`${oc.env:HOME}`), or cannot be read.
    """
    try:
        checked = _Reader(file, trust).mapping(renewed(raw), ())
        types = OmegaConf.create({"backbone": BackboneConfig, "data": DataConfig})
        for group in ("backbone", "data"):
            OmegaConf.set_struct(types[group], False)  # one of the user's own may have other keys
        config = OmegaConf.merge(types, checked)
        assert isinstance(config, DictConfig)
        # once more where an interpolation may have brought something to another place, or completed another one
        read = {group: OmegaConf.to_container(config[group], resolve=True) for group in TRUSTED}
        _Reader(file, trust, resolved=True).mapping(read, ())
    except (OmegaConfBaseException, RecursionError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{file} holds a configuration that cannot be read ({reason}); {ANOTHER}") from error
    plain: Any = OmegaConf.to_container(config, resolve=False)
    return OmegaConf.create(plain)  # without types: evaluate gives it other data


def read_node(raw: Any, place: str, file: Path) -> dict[str, Any]:
    """Return a node of a file that is built as what `TARGETS` has at that place, such as a study's sampler.

    Raises:
        UserError: It would build something else, or holds more than plain values.
    """
    return _Reader(file).mapping(renewed(raw), tuple(place.split(".")))


def conf_targets(conf: Path) -> frozenset[str]:
    """Return each `_target_` in the YAML files of the groups below `conf`."""
    files = [file for file in conf.glob("*/*.yaml") if file.parent.name != "hydra"]
    found = (re.findall(r"\b_target_: *([\w.]+)", file.read_text(encoding="utf-8")) for file in files)
    return frozenset(target for targets in found for target in targets)


def check_targets(config: DictConfig, targets: Collection[str], file: Path) -> None:
    """Hold a run's configuration, which was composed from overrides in `file`, against what it may build.

    Raises:
        UserError: It would build something else.
    """

    def look(node: Any, key: str) -> None:
        for name, value in node.items() if isinstance(node, dict) else enumerate(node):
            if name == "_target_" and str(value) not in targets:
                raise UserError(
                    f"{key}{name}={value} comes from {file} and is nothing that conf/ names; give the overrides of "
                    f"the search again on the command line (with --config-dir DIR where it had one)"
                )
            if isinstance(value, dict | list):
                look(value, f"{key}{name}.")

    look(OmegaConf.to_container(config, resolve=True), "")


def inert(value: Any) -> Any:
    """Return a copy of plain data in which an interpolation that asks a resolver is mere text."""
    if isinstance(value, dict):
        return {key: inert(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [inert(inner) for inner in value]
    return value.replace("${", "$ {") if _reaches_out(value) else value


@dataclass(frozen=True)
class _Reader:
    """Copies plain data, and refuses what could build something or reach out of the file.

    Attributes:
        file: Where they come from.
        trust: See `read_config`.
        resolved: Their interpolations are resolved.
    """

    file: Path
    trust: bool = False
    resolved: bool = False

    def mapping(self, node: Any, place: Place) -> dict[str, Any]:
        """Return a copy of the mapping at `place`, without keys that tlab has no more."""
        if not isinstance(node, dict):
            raise self._refusal(place, node, "is no mapping")
        copied = {}
        for key, value in node.items():
            if ".".join((*place, str(key))) in GONE:
                continue
            self._check_key(key, value, place)
            copied[key] = self._value(value, (*place, str(key)))
        if copied.get("_target_") in _WRITING and not self.trust:
            copied["root"] = None
        return copied

    def _value(self, value: Any, place: Place) -> Any:
        if any(_lies_at(place, known) for known in NEVER_BUILT):
            return None if place[0] in TRUSTED else _defused(value)  # the values may still be referred to
        if isinstance(value, dict):
            return self.mapping(value, place)
        if isinstance(value, list | tuple):
            return [self._value(inner, (*place, str(i))) for i, inner in enumerate(value)]
        if type(value) not in _PLAIN:
            raise self._refusal(place, type(value).__name__, "is no plain value")
        if not self.trust and (_reaches_out(value) or (self.resolved and "${" in str(value))):
            raise self._refusal(place, value, "asks for more than a key of the same file", TRUST)
        return value

    def _check_key(self, key: Any, value: Any, place: Place) -> None:
        """Refuse a key that would build something which is not allowed there."""
        if type(key) not in _PLAIN or "${" in str(key):
            raise self._refusal(place, key, "has a key that is no name")
        below, allowed = (*place, str(key)), TARGETS.get(".".join(place), ())
        if self.trust and any(_lies_at(below, known) for known in TRUSTED):
            return
        known = value in allowed if key == "_target_" else bool(allowed) and key in ("_partial_", "_convert_")
        if _SPECIAL.fullmatch(str(key)) and not known:
            why = "is nothing that tlab builds there, and could run any code"
            raise self._refusal(below, value, why, _way_out(below))

    def _refusal(self, place: Place, value: Any, why: str, way_out: str = ANOTHER) -> UserError:
        told = f"{'.'.join(place) or 'the configuration'}={value}"
        told = "".join(letter if letter.isprintable() else " " for letter in told)  # it may be anybody's
        return UserError(f"{told[:120]}{'...' * (len(told) > 120)} in {self.file} {why}; {way_out}")


def _way_out(place: Place) -> str:
    """Return what to do about something else that is built at a place."""
    if place[0] in ("sampler", "pruner"):
        return f"choose again with {place[0]}=NAME (one of your own: and with --config-dir DIR)"
    return TRUST if any(_lies_at(place, known) for known in TRUSTED) else ANOTHER


def _defused(value: Any) -> Any:
    """Return a copy of what is never built, without what would build something or ask a resolver."""
    if isinstance(value, dict):
        named = {key: inner for key, inner in value.items() if type(key) in _PLAIN}
        return {key: _defused(inner) for key, inner in named.items() if not _SPECIAL.fullmatch(str(key))}
    if isinstance(value, list | tuple):
        return [_defused(inner) for inner in value]
    return value if type(value) in _PLAIN and not _reaches_out(value) else None


def _lies_at(place: Place, known: str) -> bool:
    """Tell whether `place` is `known` or lies below it."""
    parts = known.split(".")
    return len(place) >= len(parts) and all(part in ("*", key) for part, key in zip(parts, place, strict=False))


def _reaches_out(value: Any) -> bool:
    """Tell whether a text has an interpolation that calls something (`${oc.env:HOME}`), or one that is escaped.

    An escaped one would be a real one the next time.
    """
    return isinstance(value, str) and "${" in value and _text_reaches_out(value)


@cache
def _text_reaches_out(text: str) -> bool:
    try:
        contexts: list[Any] = [parse(text)]
    except GrammarParseError:
        return True
    for context in contexts:  # which grows
        if isinstance(context, OmegaConfGrammarParser.InterpolationResolverContext):
            return True
        contexts.extend(getattr(context, "children", None) or ())
    return "\\${" in text
