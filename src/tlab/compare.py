"""Comparison of runs: `python -m tlab.compare sweep=DIR`, and at the end of every sweep."""

from pathlib import Path

from omegaconf import DictConfig

from tlab.command import run_command
from tlab.comparison.write import compare
from tlab.config.schema import CompareConfig
from tlab.config.validation import check_values


def run(cfg: DictConfig) -> None:
    """Compare what the command line names."""
    check_values(cfg, CompareConfig)
    output = Path(cfg.output) if cfg.output is not None else None
    compare(Path(cfg.sweep), cfg.monitor, target=cfg.target, interval=cfg.interval, test=cfg.test, output=output)


def main() -> None:
    """Entry point of `python -m tlab.compare`."""
    run_command(run, "compare")


if __name__ == "__main__":
    main()
