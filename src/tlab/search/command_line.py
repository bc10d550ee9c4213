"""The command line of tlab.tune, split into its own keys and the trials' overrides."""

from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from tlab.config.overrides import key_and_value
from tlab.config.run_overrides import asks, quoted, with_overrides
from tlab.config.schema import TuneConfig
from tlab.core.errors import UserError

OWN_KEYS = {"hydra", *TuneConfig.__dataclass_fields__}


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
    own, trials = [], []
    for argument in arguments:
        key, value = key_and_value(argument)
        root = key.replace("/", ".").partition(".")[0]
        if argument in ("-m", "--multirun"):
            raise UserError("tlab.tune searches by itself; leave -m out")
        if key == "seed":
            own.append(f"seeds=[{_seeds(value)}]")
        elif key in ("run_dir", "sweep"):
            raise UserError(f"{key} is set by the search; name its folder with study=NAME or dir=DIR")
        elif argument.startswith("-") or root in OWN_KEYS or not ("=" in argument or argument[:1] == "~"):
            own.append(argument)
        else:
            trials.append(quoted(argument))
    given = dict(map(key_and_value, own))
    if not asks(own) and "study" not in given:
        raise UserError("study is not set; name the search with study=NAME, by which it is also resumed")
    more = []
    if given.get("workers", "1") != "1" and "hydra/launcher" not in given:
        more.append("hydra/launcher=joblib")
    if trials:
        more.append(f"overrides=[{','.join(trials)}]")
    return with_overrides(own, more)


def _seeds(value: str) -> str:
    """Return the seeds that `seed=VALUE` names, joined by commas; VALUE is a number, a list, or as for a sweep."""
    try:
        one = OverridesParser.create().parse_override(f"seed={value}")
        return ",".join(one.sweep_string_iterator()) if one.is_sweep_override() else value.strip("[]")
    except HydraException as error:
        raise UserError(f"seed={value} cannot be read; write seed=0,1,2 or seed=range(0, 3)") from error
