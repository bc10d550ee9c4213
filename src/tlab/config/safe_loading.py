"""Safe reading of untrusted configurations: they may build only what tlab lists.

`torch.load(weights_only=True)` runs no code, but Hydra calls whatever a `_target_` names. A checkpoint, a
`run.json` or a `study.json` may come from anyone, so a `_target_` in it must be one of those that conf/ has at that
place, with plain values below; `models.builder_arguments` refuses `backbone.kwargs` that could read another file.
Nodes that are never built from a file (augmentation, optimizer, ...) may name anything; it is left out.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import GrammarParseError, OmegaConfBaseException
from omegaconf.grammar_parser import OmegaConfGrammarParser, parse

from tlab.config.schema import REMOVED_KEYS, BackboneConfig, DataConfig
from tlab.config.targets import renewed
from tlab.core.errors import UserError
from tlab.core.nested import leaves, with_leaves

_SOURCES = (
    "tlab.data.sources.demo.index.demo_index",
    "tlab.data.sources.folder.folder_index",
    "tlab.data.sources.csv_table.csv_index",
    "tlab.data.sources.torchvision_sets.torchvision_index",
)
# Place in a configuration -> the targets allowed there. A test compares this with conf/.
TARGETS = {
    "backbone": ("tlab.models.backbones.build_backbone",),
    "head": ("tlab.models.head.Head",),
    "data.module": ("tlab.data.datamodule.ImageDataModule",),
    "data.module.source": _SOURCES,
    "data.source": _SOURCES,
    "loss": ("tlab.models.losses.CrossEntropy", "tlab.models.losses.Focal", "tlab.models.losses.LogitAdjusted"),
    "sampler": ("optuna.samplers.RandomSampler", "optuna.samplers.TPESampler"),
    "pruner": ("optuna.pruners.HyperbandPruner", "optuna.pruners.MedianPruner", "optuna.pruners.NopPruner"),
}
# Places where nothing is built from a file; `*` stands for any one key.
NEVER_BUILT = (
    *("aug", "callbacks", "logger", "optimizer", "scheduler"),
    *("data.module.augment", "data.module.mix", "finetune.phases.*.aug"),
)
_NETWORK = ("backbone", "head", "data")  # what each command builds; evaluate builds the loss too
# Places where `trust=true` lets a file build anything.
TRUSTED = (*_NETWORK, "loss")
# Sources that write below their `root`: a root from a file is dropped, so they write into the cache directory.
_WRITING = ("tlab.data.sources.demo.index.demo_index", "tlab.data.sources.torchvision_sets.torchvision_index")
_SPECIAL = re.compile(r"_\w+_")  # Hydra's keys: _target_, _args_, _partial_, ...
TRUST = "if it is your own, or you trust whoever made the file, give trust=true"
ANOTHER = "give a checkpoint that tlab.train wrote"

_PLAIN = (type(None), bool, int, float, str)

Place = tuple[str, ...]


def read_config(raw: Any, file: Path, trust: bool = False) -> DictConfig:
    """Return a checkpoint's configuration, from which backbone, head and data source are safe to build.

    Args:
        raw: Configuration as `torch.load(weights_only=True)` returns it.
        file: The checkpoint, for error messages.
        trust: Allow any target for backbone, head and data source, and interpolations that call resolvers.

    Returns:
        The configuration with interpolations that refer to its own keys only. Below `NEVER_BUILT`, and of the loss
        (see `read_loss`), targets and resolver calls are left out.

    Raises:
        UserError: It would build something else, calls a resolver (`${oc.env:HOME}`), or cannot be read.
    """
    try:
        whole = renewed(raw)
        loss = _defused(whole.pop("loss", None)) if isinstance(whole, dict) else None
        checked = {**_Reader(file, trust).mapping(whole, ()), "loss": loss}
        types = OmegaConf.create({"backbone": BackboneConfig, "data": DataConfig})
        for group in ("backbone", "data"):
            OmegaConf.set_struct(types[group], False)  # a user's own group may have other keys
        config = OmegaConf.merge(types, checked)
        assert isinstance(config, DictConfig)
        # once more, resolved: an interpolation may have moved a value or completed another interpolation
        read = {group: OmegaConf.to_container(config[group], resolve=True) for group in _NETWORK}
        _Reader(file, trust, resolved=True).mapping(read, ())
    except (OmegaConfBaseException, RecursionError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{file} holds a configuration that cannot be read ({reason}); {ANOTHER}") from error
    plain: Any = OmegaConf.to_container(config, resolve=False)
    return OmegaConf.create(plain)  # untyped: evaluate replaces its data node


def read_loss(raw: Any, config: DictConfig, file: Path, trust: bool = False) -> dict[str, Any]:
    """Return the loss of a checkpoint's configuration, which is safe to build.

    Args:
        raw: The configuration as for `read_config`.
        config: What `read_config` returned for it.
        file: As for `read_config`.
        trust: As for `read_config`.

    Raises:
        UserError: It would build another loss than tlab's, calls a resolver, or cannot be read.
    """
    node = _Reader(file, trust).mapping(renewed(raw).get("loss"), ("loss",))
    try:
        resolved: Any = OmegaConf.to_container(OmegaConf.merge(config, {"loss": node}).loss, resolve=True)
    except (OmegaConfBaseException, RecursionError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"loss in {file} cannot be read ({reason}); {ANOTHER}") from error
    return _Reader(file, trust, resolved=True).mapping(resolved, ("loss",))


def read_node(raw: Any, place: str, file: Path) -> dict[str, Any]:
    """Return one node of a file, such as a study's sampler, checked against `TARGETS` at that place.

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
    """Check that a configuration composed from overrides in `file` builds only `targets`.

    Raises:
        UserError: It would build something else.
    """
    for place, value in leaves(OmegaConf.to_container(config, resolve=True)):
        if "_target_" in place and str(value) not in targets:
            raise UserError(
                f"{'.'.join(place)}={value} comes from {file} and is nothing that conf/ names; give the overrides "
                f"of the search again on the command line (with --config-dir DIR where it had one)"
            )


def inert(value: Any) -> Any:
    """Return a copy of plain data in which interpolations that call resolvers are mere text."""
    return with_leaves(value, lambda _, leaf: leaf.replace("${", "$ {") if reaches_out(leaf) else leaf)


@dataclass(frozen=True)
class _Reader:
    """Copies plain data, and refuses what could build something or refer to anything outside the file."""

    file: Path  # that the data come from, for error messages
    trust: bool = False  # see `read_config`
    resolved: bool = False  # whether interpolations have been resolved

    def mapping(self, node: Any, place: Place) -> dict[str, Any]:
        """Return a copy of the mapping at `place`, without removed keys."""
        if not isinstance(node, dict):
            raise self._refusal(place, node, "is no mapping")
        copied = {}
        for key, value in node.items():
            if ".".join((*place, str(key))) in REMOVED_KEYS:
                continue
            self._check_key(key, value, place)
            copied[key] = self._value(value, (*place, str(key)))
        if copied.get("_target_") in _WRITING and not self.trust:
            copied["root"] = None
        return copied

    def _value(self, value: Any, place: Place) -> Any:
        if _lies_at(place, NEVER_BUILT):
            return None if place[0] in TRUSTED else _defused(value)  # interpolations may refer to the values
        if isinstance(value, dict):
            return self.mapping(value, place)
        if isinstance(value, list | tuple):
            return [self._value(inner, (*place, str(i))) for i, inner in enumerate(value)]
        if type(value) not in _PLAIN:
            raise self._refusal(place, type(value).__name__, "is no plain value")
        if not self.trust and (reaches_out(value) or (self.resolved and "${" in str(value))):
            raise self._refusal(place, value, "asks for more than a key of the same file", TRUST)
        return value

    def _check_key(self, key: Any, value: Any, place: Place) -> None:
        """Refuse a key that would build something not allowed there."""
        if type(key) not in _PLAIN or "${" in str(key):
            raise self._refusal(place, key, "has a key that is no name")
        below, allowed = (*place, str(key)), TARGETS.get(".".join(place), ())
        if self.trust and _lies_at(below, TRUSTED):
            return
        known = value in allowed if key == "_target_" else bool(allowed) and key in ("_partial_", "_convert_")
        if _SPECIAL.fullmatch(str(key)) and not known:
            way_out = TRUST if _lies_at(below, TRUSTED) else ANOTHER
            if below[0] in ("sampler", "pruner"):
                way_out = f"choose again with {below[0]}=NAME (one of your own: and with --config-dir DIR)"
            why = "is nothing that tlab builds there, and could run any code"
            raise self._refusal(below, value, why, way_out)

    def _refusal(self, place: Place, value: Any, why: str, way_out: str = ANOTHER) -> UserError:
        told = f"{'.'.join(place) or 'the configuration'}={value}"
        told = "".join(letter if letter.isprintable() else " " for letter in told)  # it may come from anyone
        return UserError(f"{told[:120]}{'...' * (len(told) > 120)} in {self.file} {why}; {way_out}")


def _defused(value: Any) -> Any:
    """Return a copy of a node that is never built, without Hydra's keys and resolver calls."""
    if isinstance(value, dict):
        named = {key: inner for key, inner in value.items() if type(key) in _PLAIN}
        return {key: _defused(inner) for key, inner in named.items() if not _SPECIAL.fullmatch(str(key))}
    if isinstance(value, list | tuple):
        return [_defused(inner) for inner in value]
    return value if type(value) in _PLAIN and not reaches_out(value) else None


def _lies_at(place: Place, nodes: Collection[str]) -> bool:
    """Tell whether `place` is one of the nodes or lies below it."""
    parts = [node.split(".") for node in nodes]
    return any(len(place) >= len(each) and all(map(fnmatchcase, place, each)) for each in parts)


def reaches_out(value: Any) -> bool:
    """Tell whether a text calls a resolver (`${oc.env:HOME}`), or has an escaped one, which resolving revives."""
    return isinstance(value, str) and "${" in value and _text_reaches_out(value)


@cache
def _text_reaches_out(text: str) -> bool:
    try:
        contexts: list[Any] = [parse(text)]
    except GrammarParseError:
        return True
    for context in contexts:  # the list grows
        if isinstance(context, OmegaConfGrammarParser.InterpolationResolverContext):
            return True
        contexts.extend(getattr(context, "children", None) or ())
    return "\\${" in text
