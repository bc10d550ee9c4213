"""The directory names of a sweep's runs: their overrides, without the seed and without what all of them share."""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence

from tlab.config.diff import without_effect
from tlab.config.overrides import NEVER_IN_NAMES, key_and_value


def constants(runs: Sequence[Sequence[str]]) -> dict[str, str]:
    """Return the overrides that all runs of a command share: key -> value, without those that change no result.

    Args:
        runs: The overrides of each run.
    """
    first, *others = (dict(map(key_and_value, overrides)) for overrides in runs)
    return {
        key: value
        for key, value in first.items()
        if key not in NEVER_IN_NAMES
        and not without_effect(key)
        and all(other.get(key) == value for other in others)
    }


def distinguishing(runs: Sequence[Sequence[str]], noted: Mapping[str, str]) -> list[list[str]]:
    """Return for each run the overrides that its name is made of.

    Left out is what equals the constants of the command that began the sweep: so an override that gets a second
    value later (`aug=none`, then `aug=none,strong`) leaves finished runs where they are.

    Args:
        runs: The overrides of each run of this command.
        noted: Constants in the manifest of the sweep.
    """
    values = Counter(key for key, _ in set(map(key_and_value, itertools.chain.from_iterable(runs))))

    def told(override: str) -> bool:
        key, value = key_and_value(override)
        return noted.get(key) != value and (values[key] > 1 or not without_effect(key))

    return [[override for override in overrides if told(override)] for overrides in runs]
