"""The command and the package versions of a run."""

import os
import platform
import re
import shlex
import sys
from collections.abc import Collection, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tlab.config.overrides import key_and_value
from tlab.core.text import shell_command

DISTRIBUTION = "tlab-transfer"  # of the package tlab
PACKAGES = (
    *(DISTRIBUTION, "torch", "torchvision", "lightning", "hydra-core"),
    *("omegaconf", "torchmetrics", "timm", "pillow"),
)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a result can depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found["tlab" if package == DISTRIBUTION else package] = version(package)
    return found


def command() -> str:
    """Return this process's arguments as they could be typed again."""
    return shell_command(sys.argv[1:])


def same_command(place: str, unless: Collection[str] = ()) -> str:
    """Return this process's command with an override that names its directory.

    Args:
        place: The override, which replaces one of the same key.
        unless: Keys that name the directory too; if one is given, it stays.
    """
    given = {each: key_and_value(each)[0] for each in sys.argv[1:] if "=" in each and not each.startswith("-")}
    arguments = sys.argv[1:]
    if not {*unless} & {*given.values()}:
        arguments = [each for each in arguments if given.get(each) != key_and_value(place)[0]]
        last = max((i for i, each in enumerate(arguments) if each in given), default=len(arguments) - 1)
        arguments.insert(last + 1, place)  # among the overrides
    return f"{_program()} {shell_command(arguments)}"


def command_with(group: str, overrides: Sequence[str]) -> str:
    """Return this process's command, as it was typed, with other overrides of a group.

    Args:
        group: Group of which no choice and no key is kept.
        overrides: Overrides that take their place.
    """
    words = shlex.split(os.environ.get("TLAB_COMMAND") or f"{_program()} {shell_command(sys.argv[1:])}")
    of_group = re.compile(rf"[+~]*{group}([.@=].*)?", re.DOTALL)
    return shell_command([*(word for word in words if not of_group.fullmatch(word)), *overrides])


def _program() -> str:
    """Return the beginning of this process's command: `python -m tlab.train`, or the name of a script."""
    program = Path(sys.argv[0])
    own = program.resolve().parent == Path(__file__).resolve().parents[1]
    start = f"python -m tlab.{program.stem}" if own else shell_command(["python", str(program)])
    return start if program.suffix == ".py" else program.name
