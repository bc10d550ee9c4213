"""What the waiting process reads from the directories of runs that others carry out."""

import pytest

from tlab.launchers.remote_jobs import lost
from tlab.runs.manifest import SweepManifest
from tlab.sweeps.jobs import Job, make_jobs
from tlab.sweeps.monitor import Monitor
from tlab.sweeps.progress import Progress
from tlab.sweeps.result import Failure


@pytest.fixture
def jobs(tmp_path) -> list[Job]:
    return make_jobs([["aug=none", f"seed={seed}"] for seed in (0, 1)], "0", tmp_path, SweepManifest())


class Gone:
    """A run whose process ended without a word."""

    overrides: list[str] = []  # noqa: RUF012

    def __init__(self, job: Job) -> None:
        self.run = job.run

    def directory(self):
        return self.run


def test_a_run_that_was_lost_is_seen_as_failed(jobs):
    progress = Progress(jobs, jobs)
    monitor = Monitor(jobs, progress)
    lost(Gone(jobs[0]), "memory ran out")  # type: ignore[arg-type]
    assert monitor.refresh() == 0
    assert progress.failures == {jobs[0]: Failure("memory ran out")}
    assert jobs[0].run.traceback_file.exists()


@pytest.mark.parametrize("status", ["failed", "finished", "running"])
def test_a_record_without_times_tells_nothing(jobs, status):
    jobs[0].run.update(status=status, error=None, started=None)
    progress = Progress(jobs, jobs)
    monitor = Monitor(jobs, progress)
    assert monitor.refresh() == 0
    assert not monitor.is_over(jobs[0])


def test_a_reason_is_printed_as_it_is(jobs, capsys):
    Monitor(jobs, Progress(jobs, jobs)).record(jobs[0], Failure("no key [a] in [/b]"))
    assert "no key [a] in [/b]" in capsys.readouterr().out
