"""Digests that tell, without the 0.1 s of composing it, whether a run's configuration is unchanged."""

import hashlib
from collections.abc import Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from tlab.config.diff import without_effect
from tlab.config.overrides import key_and_value
from tlab.config.schema import TrainConfig, keys


def sources_digest(sources: Any) -> str | None:
    """Return the digest of the YAML files, and of each key's type and default; None if a source is not a folder.

    Args:
        sources: The entries of `hydra.runtime.config_sources`: `path`, `schema` and `provider` of each.
    """
    digest = hashlib.sha256()
    for key, each in keys(TrainConfig).items():
        default = each.default if each.default_factory is MISSING else each.default_factory()
        digest.update(f"{key}\0{each.type}\0{default!r}\0".encode())
    for source in sources:
        if source["provider"] in ("hydra", "schema"):  # Hydra's own, or registered by name
            continue
        if source["schema"] != "file":
            return None
        folder = Path(source["path"])
        for file in sorted(folder.rglob("*.yaml")):
            name = file.relative_to(folder).as_posix()
            if not name.startswith("hydra/"):
                digest.update(f"{name}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def config_digest(overrides: Sequence[str], sources: str | None) -> str | None:
    """Return the digest of everything a run's configuration depends on; None if `sources` is None.

    Args:
        overrides: The run's overrides; those that cannot change a result are left out.
        sources: Result of `sources_digest`.
    """
    if sources is None:
        return None
    telling = sorted(override for override in overrides if not without_effect(key_and_value(override)[0]))
    return hashlib.sha256("\0".join([sources, *telling]).encode("utf-8", "surrogateescape")).hexdigest()


def is_commands_own(cfg: DictConfig) -> bool:
    """Tell whether this is the command's own run: not a baseline, nor a run outside a command."""
    return HydraConfig.initialized() and HydraConfig.get().runtime.output_dir == cfg.run_dir


def this_config_digest(cfg: DictConfig) -> str | None:
    """Return the digest of this command's own run; None for any other."""
    if not is_commands_own(cfg):
        return None
    hydra = HydraConfig.get()
    return config_digest(hydra.overrides.task, sources_digest(hydra.runtime.config_sources))
