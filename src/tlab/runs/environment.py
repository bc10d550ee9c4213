"""The command and the package versions of a run."""

import platform
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

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
