"""What a sweep says when it is over, or stops."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from tlab.dashboards.closing_table import short_path
from tlab.overrides import key_and_value
from tlab.sweeps.jobs import Job

if TYPE_CHECKING:
    from tlab.sweeps.progress import Progress


def print_end(directory: Path, progress: "Progress") -> None:
    """Print how many runs are finished, and a line for each that has failed."""
    console = Console(highlight=False, soft_wrap=True)
    earlier = f" ({progress.before} of them before)" if progress.before else ""
    console.print(f"\n[bold]Sweep[/]  {escape(str(short_path(directory)))}")
    console.print(
        f"{progress.done} of {len(progress.jobs)} runs are finished{earlier}, {len(progress.failures)} failed"
    )
    for job, failure in progress.failures.items():
        console.print(f"  [bold]{escape(str(job))}[/]  {escape(failure.reason)}")
        if job.run.traceback_file.exists():
            console.print(f"    {escape(str(short_path(job.run.traceback_file)))}")
    if progress.failures:
        console.print(f"what failed is tried again by: {escape(same_command(directory))}")


def print_stopped(directory: Path, jobs: Sequence[Job]) -> None:
    """Say that the sweep was stopped, how far it is, and which command goes on."""
    done = sum(job.run.status == "finished" for job in jobs)
    print(
        f"tlab: the sweep is stopped, {done} of {len(jobs)} runs are finished; it goes on with\n"
        f"  {same_command(directory)}",
        file=sys.stderr,
    )


def same_command(directory: Path) -> str:
    """Return the command of this process, with the name of the sweep that it has begun."""
    program = Path(sys.argv[0])
    start = f"python -m tlab.{program.stem}" if program.suffix == ".py" else program.name
    arguments = sys.argv[1:]
    overrides = [i for i, argument in enumerate(arguments) if "=" in argument and not argument.startswith("-")]
    if not any(key_and_value(arguments[i])[0] in ("sweep", "hydra.sweep.dir") for i in overrides):
        arguments.insert(max(overrides, default=len(arguments) - 1) + 1, f"sweep={directory.name}")  # among them
    return f"{start} {shlex.join(arguments)}"
