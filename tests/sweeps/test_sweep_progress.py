"""What a sweep says of how far it is."""

import pytest

from tlab.runs.directory import RunDirectory
from tlab.runs.manifest import SweepManifest
from tlab.sweeps.jobs import Job, make_jobs
from tlab.sweeps.progress import Progress
from tlab.sweeps.result import Failure


@pytest.fixture
def jobs(tmp_path) -> list[Job]:
    grid = [[f"backbone={name}", f"seed={seed}"] for name in ("big", "small") for seed in (0, 1, 2)]
    return make_jobs(grid, "0", tmp_path, SweepManifest())


def finish(job: Job, seconds: int) -> None:
    run = RunDirectory(job.run.path)
    run.finish({"val/acc": 0.5, "fit_seconds": 1.0})
    minutes, rest = divmod(seconds, 60)
    run.update(started="2026-01-01T12:00:00+0000", ended=f"2026-01-01T12:{minutes:02}:{rest:02}+0000")


def test_the_time_left_is_that_of_runs_that_differ_in_the_seed_only(jobs):
    finish(jobs[0], 100)
    progress = Progress(jobs, jobs[1:])
    assert (progress.done, len(progress.to_go)) == (1, 5)
    assert progress.seconds_left() == 5 * 100  # nothing is known of the small ones
    finish(jobs[3], 10)
    progress.record(jobs[3], None)
    assert progress.seconds_left() == 2 * 100 + 2 * 10
    progress.at_once = 2
    assert progress.seconds_left() == 110
    progress.record(jobs[1], Failure("no"))
    assert progress.line(1) == "2 of 6 done, 1 running, 1 failed, about 1 min 00 s left"


def test_nothing_is_said_of_the_time_before_a_run_has_finished(jobs):
    assert Progress(jobs, jobs).line(0) == "0 of 6 done, 0 running, 0 failed"
