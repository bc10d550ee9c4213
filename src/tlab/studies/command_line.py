"""The command line of tlab.study: the study's name, its own keys, and overrides of its runs."""

import codecs
import difflib
import re
from collections.abc import Sequence
from pathlib import Path

from tlab.config.hydra import choice_names, conf_dir, user_conf_dirs
from tlab.config.overrides import key_and_value, shell_argument
from tlab.config.run_overrides import asks, gather
from tlab.config.schema import StudyConfig
from tlab.core.errors import UserError
from tlab.core.text import shell_word

GROUP = "studies"  # of conf/; `study` is a key of tlab.tune, which a group of this name would take away
PACKAGE = re.compile(r"^#\s*@package\s+_global_", re.MULTILINE)  # so that Hydra puts a file's keys at the top
OWN = {GROUP, *StudyConfig.__dataclass_fields__}


def gathered(arguments: Sequence[str]) -> list[str]:
    """Return the arguments, after `tidy`, as Hydra takes them: `name=NAME` is the choice of a group.

    Raises:
        UserError: The name is missing or unknown, its file sets no key of a study or is not UTF-8, a key is
            given twice, or see `gather`.
    """
    named = [
        f"{GROUP}={each.partition('=')[2]}" if key_and_value(each)[0] == "name" else each for each in arguments
    ]
    given: dict[str, str] = {}
    for argument in named:
        key = key_and_value(argument)[0]
        if "=" not in argument or argument.startswith("-"):
            continue
        if key in given:
            raise UserError(f"{'name' if key == GROUP else key} is given twice; {_one_of(given[key], argument)}")
        given[key] = argument
    name = key_and_value(given[GROUP])[1] if GROUP in given else None
    places = [conf_dir(), *user_conf_dirs(named)]
    there = choice_names(places, GROUP)
    if name is not None and name not in there:
        close = difflib.get_close_matches(name, there, n=1, cutoff=0.4) or there[:1]
        raise UserError(
            f"{shell_argument('name', name)} is no study, there are {', '.join(there)}; give "
            f"name={close[0]}, or --config-dir DIR with a file DIR/{GROUP}/NAME.yaml"
        )
    for file in [place / GROUP / f"{name}.yaml" for place in places]:
        if file.exists() and not PACKAGE.search(_text(file)):
            way_out = f"printf '# @package _global_\\n' | cat - {_and_move(file)}"
            raise UserError(f"{file} lacks the line '# @package _global_', so it sets no key of a study; {way_out}")
    if name is None and not asks(named):
        raise UserError(f"name is not set; there are {', '.join(there)}: give name={there[0]}")
    return gather(named, OWN, "tlab.study")


def _one_of(first: str, second: str) -> str:
    """Return what to give instead of two arguments of a key: both values of one of runs, else the second one."""
    key, _, value = second.partition("=")
    if key == GROUP:
        return f"give one of them: {shell_word(f'name={value}')}"
    if key.lstrip("+").partition(".")[0] in {"hydra", *OWN}:
        return f"give one of them: {shell_word(second)}"
    return f"give {shell_word(f'{first},{value}')}"


def _text(file: Path) -> str:
    """Return the text of a study's file.

    Raises:
        UserError: It is not UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        coded = "utf-16" if file.read_bytes()[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "latin1"
        way_out = f"iconv -f {coded} -t utf-8 {_and_move(file)}"
        raise UserError(f"{file} is not in UTF-8, as YAML is; {way_out}") from error


def _and_move(file: Path) -> str:
    """Return the end of a command of bash that reads a file and puts what it prints in its place."""
    old, new = shell_word(str(file)), shell_word(f"{file}.new")
    return f"{old} > {new} && mv {new} {old}"
