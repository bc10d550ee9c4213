"""tlab's own presets of launchers, beside those that plugins bring under the same names."""

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins


def keep_own_presets() -> None:
    """Drop what plugins have registered under the names of tlab's presets: Hydra would merge the two."""
    Plugins.instance()  # finds the plugins, which register when they are imported
    registered = ConfigStore.instance().repo["hydra"].get("launcher", {})
    for name in ("submitit_slurm", "ray"):
        registered.pop(f"{name}.yaml", None)
