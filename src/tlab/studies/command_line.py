"""The command line of tlab.study: the study's name, its own keys, and overrides of its runs."""

import difflib
import re
from collections.abc import Sequence

from tlab.config.hydra import choice_names, conf_dir, user_conf_dirs
from tlab.config.overrides import key_and_value, shell_argument
from tlab.config.run_overrides import asks, gather
from tlab.config.schema import StudyConfig
from tlab.core.errors import UserError
from tlab.core.text import shell_command, shell_word

GROUP = "studies"  # of conf/; `study` is a key of tlab.tune, which a group of this name would take away
PACKAGE = re.compile(r"^#\s*@package\s+_global_", re.MULTILINE)  # so that Hydra puts a file's keys at the top


def gathered(arguments: Sequence[str]) -> list[str]:
    """Return the arguments, after `tidy`, as Hydra takes them: `name=NAME` is the choice of a group.

    Raises:
        UserError: The name is missing or unknown, its file sets no key of a study, a key is given twice, or
            see `gather`.
    """
    named = [
        f"{GROUP}={each.partition('=')[2]}" if key_and_value(each)[0] == "name" else each for each in arguments
    ]
    given: dict[str, str] = {}
    for key, value in map(key_and_value, named):
        if key in given and not key.startswith("-"):
            both = f"{key}={given[key]},{value}" if key != GROUP else f"name={value}"
            raise UserError(f"{'name' if key == GROUP else key} is given twice; give {shell_word(both)}")
        given[key] = value
    places = [conf_dir(), *user_conf_dirs(named)]
    there = choice_names(places, GROUP)
    if GROUP in given and given[GROUP] not in there:
        close = difflib.get_close_matches(given[GROUP], there, n=1, cutoff=0.4) or there[:1]
        raise UserError(
            f"{shell_argument('name', given[GROUP])} is no study, there are {', '.join(there)}; give "
            f"name={close[0]}, or --config-dir DIR with a file DIR/{GROUP}/NAME.yaml"
        )
    for file in [place / GROUP / f"{given.get(GROUP)}.yaml" for place in places]:
        if file.exists() and not PACKAGE.search(file.read_text(encoding="utf-8")):
            way_out = shell_command(["sed", "-i", "1i # @package _global_", str(file)])
            raise UserError(f"{file} lacks the line '# @package _global_', so it sets no key of a study; {way_out}")
    if GROUP not in given and not asks(named):
        raise UserError(f"name is not set; there are {', '.join(there)}: give name={there[0]}")
    return gather(named, {GROUP, *StudyConfig.__dataclass_fields__}, "tlab.study")
