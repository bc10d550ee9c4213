"""The two CSV files."""

import csv
import re
import shutil

from tlab.comparison import compare_runs
from tlab.comparison.report.report_tables import runs_table, settings_table
from tlab.comparison.tables import write_tables
from tlab.runs.directory import RunDirectory


def rows(file):
    with file.open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


def test_a_row_per_setting_and_one_per_run(make_run, sweep):
    make_run("aug=a", [0.2, 0.8], 0, ["aug=a"], test_acc=0.7)
    make_run("aug=a", [0.2, 0.9], 1, ["aug=a"], test_acc=0.8)
    make_run("aug=b", [0.2, 0.7], 0, ["aug=b"], test_acc=0.6)
    make_run("aug=b", [0.2], 1, ["aug=b"], status="failed", error="ValueError: x")
    settings, runs = write_tables(compare_runs(sweep), sweep)
    best, other = rows(settings)
    assert {key: best[key] for key in ("rank", "aug", "finished", "failed", "mean", "test_mean")} == {
        "rank": "1", "aug": "a", "finished": "2", "failed": "0", "mean": "0.85", "test_mean": "0.75",
    }  # fmt: skip
    assert (best["trained_parameters"], best["epochs_to_target"]) == ("1000", "2")
    assert (other["aug"], other["failed"], other["behind_seeds"], other["p"]) == ("b", "1", "1", "")
    by_run = {row["run"]: row for row in rows(runs)}
    assert by_run["aug=a/seed=1"]["val/acc"] == "0.9"
    assert by_run["aug=a/seed=1"]["seconds"] == "2"
    assert by_run["aug=b/seed=1"]["error"] == "ValueError: x"


def test_a_metric_of_the_test_split_that_decides_has_one_column(make_run, sweep):
    make_run("aug=a", 0.8, 0, ["aug=a"], test_acc=0.7)
    comparison = compare_runs(sweep, "test/acc")
    for table in (settings_table(comparison), runs_table(comparison, sweep)):
        heads = re.findall(r"<th[^>]*>(.*?)</th>", table)
        assert sum("test/acc" in head for head in heads) == 1
        assert len(heads) == len(re.findall("<td", table))


def test_a_run_that_failed_before_it_began_makes_no_factor_and_is_listed(make_run, sweep):
    for seed in (0, 1):
        for aug in ("a", "b"):
            make_run(f"aug={aug}", 0.5, seed, [f"aug={aug}", "optimizer.lr=0.1"], {"optimizer.lr": 0.1})
    RunDirectory(sweep / "aug=c" / "seed=1").record_failure(ValueError("no"))
    comparison = compare_runs(sweep)
    assert [(factor.name, factor.levels) for factor in comparison.factors] == [("aug", ("a", "b"))]
    settings, runs = write_tables(comparison, sweep)
    assert [row["aug"] for row in rows(settings)] == ["a", "b"]
    lost = rows(runs)[-1]
    assert {key: lost[key] for key in ("run", "aug", "seed", "status", "error")} == {
        "run": "aug=c/seed=1", "aug": "", "seed": "1", "status": "failed", "error": "ValueError: no",
    }  # fmt: skip
    assert "aug=c/seed=1: ValueError: no" in runs_table(comparison, sweep)


def test_the_table_of_settings_depends_on_neither_time_nor_place(make_run, sweep, tmp_path):
    for seed in (0, 1):
        make_run("aug=a", 0.8 + seed / 100, seed, ["aug=a"])
        make_run("aug=b", 0.7, seed, ["aug=b"])
    shutil.copytree(sweep, tmp_path / "again")
    for run in (tmp_path / "again").glob("*/*"):
        directory = RunDirectory(run)
        directory.update(started="2027-01-01T00:00:00+0000", ended=f"2027-01-01T00:00:0{run.name[-1]}+0000")
        slower = directory.metrics() | {"fit_seconds": 1000.0}
        directory._write_json(directory.metrics_file, slower)
    first, _ = write_tables(compare_runs(sweep), sweep)
    second, _ = write_tables(compare_runs(tmp_path / "again"), tmp_path / "again")
    assert first.read_bytes() == second.read_bytes()
