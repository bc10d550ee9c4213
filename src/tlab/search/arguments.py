"""The command line of tlab.tune: its own keys stay, everything else is for the trials."""

from collections.abc import Sequence

from hydra.core.override_parser.types import Quote, QuotedString

from tlab.errors import UserError

OWN_KEYS = {
    *("study", "dir", "storage", "space", "budget", "sampler", "pruner", "seeds", "workers", "worker"),
    *("overrides", "hydra", "debug"),
}


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
        key, equals, value = argument.lstrip("+~").partition("=")
        root = key.replace("/", ".").partition(".")[0]
        if argument in ("-m", "--multirun"):
            raise UserError("tlab.tune searches by itself; leave -m out")
        if key == "seed":
            own.append(f"seeds=[{value.strip('[]')}]")
        elif key in ("run_dir", "sweep"):
            raise UserError(f"{key} is set by the search; name its folder with study=NAME or dir=DIR")
        elif argument.startswith("-") or root in OWN_KEYS or not (equals or argument.startswith("~")):
            own.append(argument)
        else:
            trials.append(QuotedString(argument, Quote.single).with_quotes())
    asks = any(argument.startswith("-") and argument not in ("--config-dir", "-cd") for argument in own)
    if not asks and not any(argument.startswith("study=") for argument in own):
        raise UserError("study is not set; name the search with study=NAME, by which it also goes on")
    workers = next((value for key, _, value in (o.partition("=") for o in own[::-1]) if key == "workers"), "1")
    if workers != "1" and not any(argument.startswith("hydra/launcher=") for argument in own):
        own.append("hydra/launcher=joblib")
    return [*own, f"overrides=[{','.join(trials)}]"] if trials else own
