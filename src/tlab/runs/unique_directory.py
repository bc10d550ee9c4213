"""Reserve a directory for this process alone: two commands that start in the same second get two."""

import copy
import itertools
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from tlab.core.error_messages import exit_with_error
from tlab.core.errors import UserError
from tlab.core.files import check_writable


def reserve_directory(wanted: Path) -> Path:
    """Make a new directory and return it: `wanted`, or the first of `wanted-2`, `wanted-3`, ... that is not there.

    Making a directory fails where another process has made it, so no two processes are given the same one.
    """
    wanted.parent.mkdir(parents=True, exist_ok=True)
    path = wanted
    while True:
        with suppress(FileExistsError):
            path.mkdir()
            return path
        path = free_directory(wanted)


def free_directory(path: Path) -> Path:
    """Return the first of `path-2`, `path-3`, ... that does not exist."""
    others = (path.with_name(f"{path.name}-{number}") for number in itertools.count(2))
    return next(other for other in others if not other.exists() and not other.is_symlink())


def is_named_by_time(config: DictConfig, key: str) -> bool:
    """Tell whether a path in Hydra's configuration comes from the clock, to the second.

    Args:
        config: Configuration with the node `hydra`.
        key: Key of the path, `hydra.run.dir` or `hydra.sweep.dir`.
    """
    plain: Any = OmegaConf.to_container(config, resolve=False)
    _, node, name = key.split(".")
    path = re.sub(r"\$\{(\w+)\}", lambda other: str(plain.get(other[1])), str(plain["hydra"][node][name]))
    return "${now:" in path and "%S" in path


class ClaimRunDirectory(Callback):
    """Hydra's callback that makes the directory of a run, one of its own if it is named by the time.

    Where it cannot be written the command ends: Hydra would show an exception of a callback as a warning.

    Args:
        key: Key that names another place.
    """

    def __init__(self, key: str = "hydra.run.dir") -> None:
        self.key = key

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Make the directory before Hydra does."""
        hydra = HydraConfig.instance()
        before = hydra.cfg
        hydra.set_config(copy.deepcopy(config))  # Hydra does it after this, but the path may use its choices
        try:
            wanted = Path(config.hydra.run.dir)
        finally:
            hydra.cfg = before
        try:
            if is_named_by_time(config, "hydra.run.dir"):
                check_writable(wanted.parent, f"give {self.key}=DIR")
                config.hydra.run.dir = str(reserve_directory(wanted))
            else:
                check_writable(wanted, f"give another {self.key}=DIR")
        except UserError as error:
            exit_with_error(str(error))
