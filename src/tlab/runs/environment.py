"""The command and the package versions of a run."""

import platform
import sys
from collections.abc import Collection
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
    program = Path(sys.argv[0])
    own = program.resolve().parent == Path(__file__).resolve().parents[1]
    start = f"python -m tlab.{program.stem}" if own else shell_command(["python", str(program)])
    start = start if program.suffix == ".py" else program.name
    given = {each: key_and_value(each)[0] for each in sys.argv[1:] if "=" in each and not each.startswith("-")}
    arguments = sys.argv[1:]
    if not {*unless} & {*given.values()}:
        arguments = [each for each in arguments if given.get(each) != key_and_value(place)[0]]
        last = max((i for i, each in enumerate(arguments) if each in given), default=len(arguments) - 1)
        arguments.insert(last + 1, place)  # among the overrides
    return f"{start} {shell_command(arguments)}"
