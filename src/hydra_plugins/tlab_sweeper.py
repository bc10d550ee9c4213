"""tlab's sweeper, here because Hydra looks for sweepers in `hydra_plugins` only; chosen by conf/train.yaml."""

from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class ResumableSweeper(BasicSweeper):
    """Hydra's own sweeper in how overrides become runs; `tlab.sweeps.sweep` runs them."""

    def __init__(self, params: Any = None) -> None:
        super().__init__(max_batch_size=None, params=params)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what `sweep` needs."""
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        self.task_function = task_function

    def sweep(self, arguments: list[str]) -> Any:
        """Run what `arguments` ask for."""
        from tlab.config.overrides import read_sweep
        from tlab.sweeps.sweep import sweep  # here, since Hydra imports this file for --help too
        from tlab.sweeps.task import Task

        assert self.hydra_context is not None
        assert self.config is not None
        assert isinstance(self.task_function, Task)
        overrides = read_sweep([*self._parse_config(), *arguments], self.hydra_context.config_loader)
        (runs,) = self.split_arguments(overrides, None)
        result = sweep(runs, self.config, self.hydra_context, self.task_function)
        self.task_function.result = result
        return result
