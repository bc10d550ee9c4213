"""The command line of tlab.tune, split into its own keys and the trials' overrides."""

from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from tlab.config.overrides import key_and_value
from tlab.config.run_overrides import asks, with_overrides
from tlab.config.run_overrides import gather as gather_overrides
from tlab.config.schema import TuneConfig
from tlab.core.errors import UserError


def gather(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with all overrides of the trials in one of tune's own, `overrides=[...]`.

    So `python -m tlab.tune study=a data.root=photos aug=none,light` takes overrides as `tlab.train -m` would, while
    Hydra sees no sweep. `seed=0,1,2` are the seeds of each trial. Several workers need a launcher; joblib's starts
    them where none is named.

    Raises:
        UserError: The study has no name, or the command line asks for a sweep or for what only the search may set.
    """
    if "--shell-completion" in arguments or "-sc" in arguments:
        return list(arguments)
    read = [(argument, key_and_value(argument)) for argument in arguments]
    own = gather_overrides(
        [f"seeds=[{_seeds(value)}]" if key == "seed" else text for text, (key, value) in read],
        TuneConfig.__dataclass_fields__,
        "tlab.tune",
        sweep="searches by itself",
        place="is set by the search; name its folder with study=NAME or dir=DIR",
    )
    given = dict(map(key_and_value, own))
    if not asks(own) and "study" not in given:
        raise UserError("study is not set; name the search with study=NAME, by which it is also resumed")
    if given.get("workers", "1") != "1" and "hydra/launcher" not in given:
        own = with_overrides(own, ["hydra/launcher=joblib"])
    return own


def _seeds(value: str) -> str:
    """Return the seeds that `seed=VALUE` names, joined by commas; VALUE is a number, a list, or as for a sweep."""
    try:
        one = OverridesParser.create().parse_override(f"seed={value}")
        return ",".join(one.sweep_string_iterator()) if one.is_sweep_override() else value.strip("[]")
    except HydraException as error:
        raise UserError(f"seed={value} cannot be read; write seed=0,1,2 or seed=range(0, 3)") from error
