"""The configurations of a sweep's runs."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from tlab.sweeps.jobs import Job

PLAIN = (bool, int, float, str)  # values that replace another as a whole


@dataclass
class Composer:
    """Composes the configurations of a sweep's runs.

    Hydra takes more than a tenth of a second for one. So it composes one for each set of keys, in which the others
    of that set differ by plain values.

    Attributes:
        config: The sweep's configuration, with the node `hydra`.
        context: Hydra's context.
        composed: Configurations that are there already, each for one call.
    """

    config: DictConfig
    context: HydraContext
    composed: dict[Job, DictConfig] = field(default_factory=dict)
    _models: dict[tuple[str, ...], tuple[Sequence[Override], DictConfig]] = field(default_factory=dict)
    _groups: dict[str, bool] = field(default_factory=dict)

    def look_at(self, job: Job) -> DictConfig:
        """Return the configuration of a run that is still to come, which will need it."""
        self.composed[job] = config = self.compose(job)
        return config

    def compose(self, job: Job) -> DictConfig:
        """Return the configuration of one run, with the node `hydra`.

        Raises:
            HydraException: A mistake in an override.
        """
        config = self.composed.pop(job, None)  # a run makes it read-only, and may be tried again
        if config is not None:
            return config
        lines = [*job.overrides, *job.place]
        overrides = OverridesParser.create().parse_overrides(lines)
        keys = tuple(line.partition("=")[0] for line in lines)
        if keys in self._models:
            others, model = self._models[keys]
            changed = [(a, b) for a, b in zip(others, overrides, strict=True) if a.input_line != b.input_line]
            if not changed:
                return copy.deepcopy(model)
            if all(self._is_plain(each, overrides) for pair in changed for each in pair):
                return self._like(model, overrides, changed)
        config = self.context.config_loader.load_sweep_config(self.config, lines)
        self._models.setdefault(keys, (overrides, copy.deepcopy(config)))
        return config

    def _is_plain(self, override: Override, all_: Sequence[Override]) -> bool:
        """Tell whether an override does nothing but to set one value, which no other override sets too."""
        key = str(override.key_or_group)
        related = [other for other in all_ if f"{other.key_or_group}.".startswith(f"{key}.")]
        above = [other for other in all_ if f"{key}.".startswith(f"{other.key_or_group}.")]
        return (
            override.input_line is not None
            and override.input_line.startswith(f"{key}=")
            and isinstance(override.value(), PLAIN)
            and len(related) == len(above) == 1
            and not self._is_group(key)
        )

    def _is_group(self, key: str) -> bool:
        if key not in self._groups:
            self._groups[key] = bool(self.context.config_loader.get_group_options(key))  # copies all sources
        return self._groups[key]

    def _like(
        self, model: DictConfig, overrides: Sequence[Override], changed: Sequence[tuple[Override, Override]]
    ) -> DictConfig:
        """Return a copy of another run's configuration with other values, as Hydra would have composed it.

        Args:
            model: The other run's configuration.
            overrides: All overrides of this run.
            changed: Pairs of an override of the other run, and of this one.
        """
        config = copy.deepcopy(model)
        ConfigLoaderImpl._apply_overrides_to_config([new for _, new in changed], config)
        lines = {str(old.input_line): str(new.input_line) for old, new in changed}
        told: Any = OmegaConf.to_container(config.hydra.overrides)
        for kind, given in told.items():
            config.hydra.overrides[kind] = [lines.get(line, line) for line in given]
        form = config.hydra.job.config.override_dirname
        config.hydra.job.override_dirname = get_overrides_dirname(
            overrides=[override for override in overrides if not override.is_hydra_override()],
            kv_sep=form.kv_sep,
            item_sep=form.item_sep,
            exclude_keys=form.exclude_keys,
        )
        OmegaConf.copy_cache(from_config=self.config, to_config=config)
        return config
