"""What differs between runs besides the seed, and the settings that follow from it."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tlab.comparison.load import Run, number
from tlab.config.diff import without_effect

NOT_A_FACTOR = ("seed", "hydra", "baseline", "data.tests", "refit")
SOLVER = "head.solver"
DEFAULT = "default"  # level of a run in which a factor was not set and whose record does not tell its value
UNKNOWN = "not recorded"  # level of a run whose record tells neither overrides nor choices


@dataclass(frozen=True)
class Factor:
    """Something that differs between the runs compared.

    Attributes:
        name: Key as on the command line: `backbone`, `optimizer.lr`.
        levels: Its values, numbers by size, anything else in the order of appearance.
    """

    name: str
    levels: tuple[str, ...]

    @property
    def is_number(self) -> bool:
        """Whether every level is a number."""
        return all(isinstance(number(level), float) for level in self.levels)


def group(runs: Sequence[Run]) -> tuple[tuple[Factor, ...], dict[tuple[str, ...], list[Run]]]:
    """Group runs by everything but the seed and the fold.

    A factor is a choice or override that is not the same in all runs. Where two runs with the same choices and
    overrides still have other configurations (a YAML file was changed in between), the keys in which they differ
    are factors too; and so is the solver of the head, where `head.solver=auto` was not the same for all that have
    a phase of the head alone. `backbone.weights` is none where `backbone` determines it.

    Returns:
        What differs between the runs; and level of each factor, in their order -> its runs, sorted by level.
    """
    keys = _named_keys(runs)
    levels = _varying([_named_levels(run, keys) | solver for run, solver in zip(runs, _solvers(runs), strict=True)])
    unexplained = _unexplained(runs, levels)
    for run, own in zip(runs, levels, strict=True):
        own |= {key: _text(run.setting(key)) for key in unexplained}
    levels = _shortened(_without_followers(_varying(levels)))
    factors = tuple(_factor(name, [own[name] for own in levels]) for name in levels[0])
    settings: dict[tuple[str, ...], list[Run]] = defaultdict(list)
    for run, own in zip(runs, levels, strict=True):
        settings[tuple(own.values())].append(run)
    ordered = sorted(settings, key=lambda key: [f.levels.index(v) for f, v in zip(factors, key, strict=True)])
    return factors, {key: settings[key] for key in ordered}


def _solvers(runs: Sequence[Run]) -> list[dict[str, str]]:
    """Return the level of `head.solver` of each run; one that solves or trains no head alone is like any other."""
    known = {run.config[SOLVER] for run in runs if SOLVER in run.config}
    any_other = known.pop() if len(known) == 1 else "none"
    return [{SOLVER: run.config.get(SOLVER, any_other)} for run in runs]


def _named_keys(runs: Sequence[Run]) -> list[str]:
    keys = dict.fromkeys(key for run in runs for key in (*run.overrides, *run.choices))
    overridden = {key for run in runs for key in run.overrides}
    shared = set.intersection(*(set(run.choices) for run in runs))
    return [key for key in keys if (key in overridden or key in shared) and _may_matter(key)]


def _may_matter(key: str) -> bool:
    is_fold = key.startswith("data.") and key.endswith(".fold")
    return not key.startswith(NOT_A_FACTOR) and not is_fold and not without_effect(key)


def _named_levels(run: Run, keys: Iterable[str]) -> dict[str, str]:
    """Return the level of each key: a value's from the configuration, a group's from the choices."""
    levels = {}
    for key in keys:
        held = _text(run.setting(key)) if key in run.config else _unrecorded(run, key)
        is_value = "." in key and key in run.config
        levels[key] = held if is_value else run.choices.get(key, run.overrides.get(key, held))
    return levels


def _unrecorded(run: Run, key: str) -> str:
    """Return the level of a group that the record does not tell: its name, or what is said in place of one."""
    if run.choices or run.overrides:
        return DEFAULT
    return _text(run.config.get(f"{key}.name", UNKNOWN))


def _varying(levels: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    keys = [key for key in levels[0] if len({own[key] for own in levels}) > 1]
    return [{key: own[key] for key in keys} for own in levels]


def _unexplained(runs: Sequence[Run], levels: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the configuration keys in which runs of the same levels differ."""
    alike: dict[tuple[str, ...], list[Run]] = defaultdict(list)
    for run, own in zip(runs, levels, strict=True):
        alike[tuple(own.values())].append(run)
    found: dict[str, None] = {}
    for first, *others in alike.values():
        for other in others:
            for key in first.config | other.config:
                if (
                    key != SOLVER
                    and _may_matter(key)
                    and _text(first.config.get(key)) != _text(other.config.get(key))
                ):
                    found[key] = None
    return list(found)


def _without_followers(levels: list[dict[str, str]]) -> list[dict[str, str]]:
    """Leave out `a.b` where it has one value for each value of `a`."""
    keys = list(levels[0])
    followers = set()
    for key in keys:
        above = key.partition(".")[0]
        if above != key and above in keys:
            pairs = {(own[above], own[key]) for own in levels}
            if len(pairs) == len({first for first, _ in pairs}):
                followers.add(key)
    return [{key: own[key] for key in keys if key not in followers} for own in levels]


def _shortened(levels: list[dict[str, str]]) -> list[dict[str, str]]:
    """Keep the last part of a path where that still tells the levels apart."""
    for key in levels[0]:
        short = {own[key]: own[key].rstrip("/").rpartition("/")[2] for own in levels}
        if len(set(short.values())) == len(short):
            for own in levels:
                own[key] = short[own[key]]
    return levels


def _factor(name: str, values: Iterable[str]) -> Factor:
    factor = Factor(name, tuple(dict.fromkeys(values)))
    return replace(factor, levels=tuple(sorted(factor.levels, key=float))) if factor.is_number else factor


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return f"{value:g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)
