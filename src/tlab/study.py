"""Studies: `python -m tlab.study name=data_size data.root=DIR`."""

import os
import sys

from omegaconf import DictConfig

from tlab.command import run_command
from tlab.config.schema import StudyConfig
from tlab.config.validation import check_values
from tlab.core.errors import FAILED
from tlab.core.text import shell_command
from tlab.studies.command_line import gathered


def run(cfg: DictConfig) -> None:
    """Carry out the runs of the study that are not finished, and draw it."""
    check_values(cfg, StudyConfig)
    from tlab.studies.carry_out import carry_out
    from tlab.studies.draw import draw
    from tlab.studies.study_runs import study_runs
    from tlab.sweeps.task import Task
    from tlab.train import run as train_run

    results = carry_out(study_runs(cfg), cfg, Task(train_run, debug=cfg.debug))
    if not draw(cfg, results):
        sys.exit(FAILED)


def main() -> None:
    """Entry point of `python -m tlab.study`."""
    os.environ.setdefault("TLAB_COMMAND", f"python -m tlab.study {shell_command(sys.argv[1:])}")  # as it was typed
    run_command(run, "study", gathered)


if __name__ == "__main__":
    main()
