"""The command line of a command about runs that are to come: its own keys, and overrides of those runs."""

import re
from collections.abc import Collection, Sequence
from itertools import chain

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import OmegaConf

from tlab.config.hydra import compose, conf_dir, groups, user_conf_dirs
from tlab.config.overrides import CONFIG_DIR, SECRETS, key_and_value
from tlab.config.schema import COMMANDS, TrainConfig
from tlab.core.error_messages import closest, known_as
from tlab.core.errors import UserError
from tlab.core.text import shell_word

# A reference to another key, `${data.batch_size}`: such a command has other keys than its runs
OF_A_RUN = re.compile(r"(?<!\\)\$\{[^:${}]*\}")

OF_A_SECRET = re.compile(r"(?<!\\)\$\{")  # a reference of any kind, where it may stand for one

LISTED = "overrides"  # the command's own key that lists them


def gather(
    arguments: Sequence[str], own_keys: Collection[str], command: str, sweep: str = "", place: str = ""
) -> list[str]:
    """Return the arguments with all overrides of runs in one of the command's own, `overrides=[...]`.

    So `python -m tlab.advise data.root=photos backbone=vgg16,resnet18` takes overrides as `tlab.train -m` would,
    while Hydra sees no sweep. Such a list on the command line is part of it.

    Args:
        arguments: The command line, after `tidy`.
        own_keys: First parts of the keys that are the command's own.
        command: Its name, for what is said.
        sweep: What is said of `-m`, if it is something of its own.
        place: Likewise of a run's directory, behind the key.

    Raises:
        UserError: The command line asks for a sweep, or for a run's directory, gives a key that neither the
            command nor its runs have, or its own list cannot be read.
    """
    if "--shell-completion" in arguments or "-sc" in arguments:
        return list(arguments)
    own, runs = [], []
    of_runs = {*TrainConfig.__dataclass_fields__, *groups([conf_dir(), *user_conf_dirs(arguments)])}
    for argument in chain.from_iterable(map(_listed, arguments)):
        key, _ = key_and_value(argument)
        root = key.replace("/", ".").partition(".")[0]
        if argument in ("-m", "--multirun"):
            raise UserError(f"{command} {sweep or 'takes several values of a key by itself'}; leave -m out")
        if "=" in argument and argument[:1] not in "-+~" and root.partition("@")[0] not in {*own_keys, *of_runs}:
            raise UserError(_unknown(argument, command, of_runs))
        if key in ("run_dir", "sweep"):
            said = place or f"is not for {command}, which trains no run of that place; leave it out"
            raise UserError(f"{key} {said}")
        if argument.startswith("-") or root in {"hydra", *own_keys} or not ("=" in argument or argument[:1] == "~"):
            own.append(argument)
        else:
            runs.append(quoted(argument))
    return with_overrides(own, [f"{LISTED}=[{','.join(runs)}]"] if runs else [])


def _unknown(argument: str, command: str, of_runs: Collection[str]) -> str:
    """Return what is said of a key that neither the command nor its runs have."""
    key, _, value = argument.partition("=")
    own = OmegaConf.structured(COMMANDS[command.removeprefix("tlab.")])
    keys = [str(name) for name in own if name != LISTED]
    hint = known_as(key, own, suffix=f"={value}") or known_as(key, compose([]), suffix=f"={value}")
    root, dot, below = key.partition(".")
    if hint is None and (close := closest(root, [*keys, *of_runs])):
        hint = f", did you mean {shell_word(f'{close}{dot}{below}={value}')}"
    hint = hint or "; tlab.train --help lists those of its runs"
    return f"{key} is not a key of {command}, which has {', '.join(keys)}, nor of its runs{hint}"


def _listed(argument: str) -> list[str]:
    """Return the overrides that `overrides=[...]` lists; another argument alone.

    Raises:
        UserError: It is no list of texts.
    """
    if key_and_value(argument)[0] != LISTED:
        return [argument]
    try:
        found = OverridesParser.create().parse_override(argument).value()
    except HydraException:
        found = None
    if not isinstance(found, list) or not all(isinstance(each, str | QuotedString) for each in found):
        raise UserError(
            f"{argument} is no list of overrides; leave it out, and give each by itself: data.root=DIR seed=1"
        )
    return [each.text if isinstance(each, QuotedString) else each for each in found]


def quoted(override: str) -> str:
    """Return an override of a run as an element of a list that Hydra reads."""
    reference = OF_A_SECRET if key_and_value(override)[0].startswith(SECRETS) else OF_A_RUN
    return QuotedString(reference.sub(r"\\\g<0>", override), Quote.single).with_quotes()


def with_overrides(own: Sequence[str], more: Sequence[str]) -> list[str]:
    """Return the command's own arguments and more overrides, all in one piece: Hydra takes none around a flag."""
    typed = [i for i, argument in enumerate(own) if "=" in argument and not argument.startswith("-")]
    end = max(typed, default=-1) + 1
    return [*own[:end], *more, *own[end:]]


def asks(own: Sequence[str]) -> bool:
    """Tell whether the command line only asks for something, such as --help."""
    return any(argument.startswith("-") and argument.partition("=")[0] not in CONFIG_DIR for argument in own)
