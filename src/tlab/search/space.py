"""What a search may change: overrides in Hydra's sweep syntax as Optuna's distributions."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.types import ChoiceSweep, Glob, IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException

from tlab.config.overrides import read_sweep
from tlab.core.errors import UserError

if TYPE_CHECKING:  # imported when a search begins, not for --help
    from optuna.distributions import BaseDistribution

DIGITS = 4  # significant ones of a real number in an override, so that it can be read and typed

Value = str | int | float


@dataclass(frozen=True)
class Space:
    """The overrides that all trials share, and those that each trial chooses.

    Attributes:
        fixed: Overrides with one value.
        searched: Key -> its values in Hydra's sweep syntax, such as `tag(log, interval(1e-4, 1))`. A glob stands
            here as the choices that it found, so that a study keeps them when the group gets others.
        distributions: Key -> the same for Optuna. A choice is categorical, and its values are texts.
    """

    fixed: tuple[str, ...]
    searched: Mapping[str, str]
    distributions: "Mapping[str, BaseDistribution]"

    def overrides(self, values: Mapping[str, Value]) -> list[str]:
        """Return the overrides of one trial, the shared ones first; real numbers come with four digits."""
        return [*self.fixed, *self.chosen(values)]

    def chosen(self, values: Mapping[str, Value]) -> list[str]:
        """Return the overrides of the searched keys of one trial."""
        return [override(key, values[key]) for key in self.distributions]

    def combinations(self) -> Iterator[dict[str, Value]]:
        """Yield the settings of all choices and of both ends of all intervals."""
        for values in itertools.product(*map(_extremes, self.distributions.values())):
            yield dict(zip(self.distributions, values, strict=True))

    def corners(self) -> list[dict[str, Value]]:
        """Return settings in which each key takes its first value, then those with one other, extreme or choice."""
        extremes = {key: _extremes(distribution) for key, distribution in self.distributions.items()}
        first = {key: values[0] for key, values in extremes.items()}
        return [first, *({**first, key: value} for key, values in extremes.items() for value in values[1:])]


def override(key: str, value: Value) -> str:
    """Return `key=value` as the command line takes it."""
    if isinstance(value, float):
        value = float(f"{value:.{DIGITS}g}")
    return f"{key}={value}"


def read_space(overrides: Sequence[str], more: Mapping[str, Any], loader: ConfigLoader) -> Space:
    """Return the space of overrides and of a mapping from keys to values in the same syntax.

    Args:
        overrides: As on the command line: `aug=none,light`, `optimizer.lr=tag(log, interval(1e-4, 1))`,
            `data.batch_size=16`. They win over `more`.
        more: Mapping such as `{"optimizer.momentum": "interval(0.8, 0.99)"}`, from a YAML file.
        loader: Hydra's loader, which finds the choices of a group, for `aug=glob(*)`.

    Raises:
        UserError: A value cannot be read, or nothing is left to search.
    """
    texts = [f"{key}={value}" for key, value in more.items()]
    parsed: dict[str, Override] = {}
    for text in (*texts, *overrides):
        try:
            (one,) = read_sweep([text], loader)
        except HydraException as error:
            raise UserError(
                f"{text} cannot be read; write KEY=VALUE, KEY=choice(a, b), KEY=interval(0.0, 1.0) or "
                f"KEY=range(1, 9), and quote it for the shell"
            ) from error
        parsed[one.get_key_element()] = one
    searched = {key: one for key, one in parsed.items() if one.is_sweep_override()}
    if not searched:
        raise UserError(
            "there is nothing to search; give keys several values, as in aug=none,light "
            "'optimizer.lr=tag(log, interval(1e-4, 1))', or a file of them with space=NAME"
        )
    return Space(
        fixed=tuple(str(one.input_line) for key, one in parsed.items() if key not in searched),
        searched={key: _text(one) for key, one in searched.items()},
        distributions={key: _distribution(key, one) for key, one in searched.items()},
    )


def _text(one: Override) -> str:
    """Return the values of an override, from which they can be read again."""
    if isinstance(one.value(), Glob):
        return f"choice({','.join(_choices(one))})"
    return str(one.input_line).partition("=")[2]


def _choices(one: Override) -> list[str]:
    """Return the choices, each once."""
    return [*dict.fromkeys(one.sweep_string_iterator())]


def _distribution(key: str, one: Override) -> "BaseDistribution":
    """Return Optuna's distribution of an override.

    `interval` is closed and real, `int(interval(...))` whole; the tag `log` makes either logarithmic. As in Python,
    the end of a `range` is not part of it.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    sweep = one.value()
    try:
        if isinstance(sweep, IntervalSweep):
            low, high = sweep.start, sweep.end
            options: dict[str, Any] = {"log": "log" in sweep.tags}
        elif isinstance(sweep, RangeSweep):
            low, high = min(sweep.range()), max(sweep.range())
            options = {"step": abs(sweep.step)}
        else:
            if isinstance(sweep, ChoiceSweep):
                sweep.shuffle = False  # all workers must see the choices in one order
            return CategoricalDistribution(_choices(one))
        kind: Any = IntDistribution if isinstance(low, int) and isinstance(high, int) else FloatDistribution
        return kind(low, high, **options)
    except (ValueError, IndexError, HydraException) as error:
        raise UserError(f"{one.input_line} has no values to choose from ({error}); correct it") from error


def _extremes(distribution: "BaseDistribution") -> list[Value]:
    """Return the choices, or the two ends."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(distribution, CategoricalDistribution):
        return [str(choice) for choice in distribution.choices]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return list(dict.fromkeys((distribution.low, distribution.high)))
