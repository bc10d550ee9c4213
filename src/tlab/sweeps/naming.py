"""The directory names of a sweep's runs: their overrides, without the seed and without what all of them share."""

from collections.abc import Mapping, Sequence

from tlab.config.diff import without_effect
from tlab.config.overrides import NEVER_IN_NAMES, key_and_value


def constants(runs: Sequence[Sequence[str]]) -> dict[str, str]:
    """Return the overrides that all runs of a command share: key -> value, without those that change no result.

    Args:
        runs: The overrides of each run.
    """
    shared = dict(map(key_and_value, runs[0])) if runs else {}
    for overrides in runs:
        values = dict(map(key_and_value, overrides))
        shared = {key: value for key, value in shared.items() if values.get(key) == value}
    return {key: value for key, value in shared.items() if key not in NEVER_IN_NAMES and not without_effect(key)}


def distinguishing(runs: Sequence[Sequence[str]], noted: Mapping[str, str]) -> list[list[str]]:
    """Return for each run the overrides that its name is made of.

    Left out is what equals the constants of the command that began the sweep: so an override that gets a second
    value later (`aug=none`, then `aug=none,strong`) leaves finished runs where they are.

    Args:
        runs: The overrides of each run of this command.
        noted: Constants in the manifest of the sweep.
    """
    seen: dict[str, set[str]] = {}
    for overrides in runs:
        for key, value in map(key_and_value, overrides):
            seen.setdefault(key, set()).add(value)

    def told(override: str) -> bool:
        key, value = key_and_value(override)
        return noted.get(key) != value and (len(seen[key]) > 1 or not without_effect(key))

    return [[override for override in overrides if told(override)] for overrides in runs]
