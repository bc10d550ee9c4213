"""Runs that were given advice, compared: expected, measured, kept or missed."""

import csv
import io
import re

from rich.console import Console

from tlab.comparison import compare_runs
from tlab.comparison.phrases import advice_lines
from tlab.comparison.report.report_tables import runs_table, settings_table
from tlab.comparison.tables import write_tables
from tlab.comparison.terminal import print_comparison
from tlab.runs.directory import RunDirectory


def advised(path, kept, departs_in=()):
    advice = {"expected": {"val/acc": {"low": 0.7, "high": 0.85}}, "kept": kept, "departs_in": list(departs_in)}
    RunDirectory(path).update(advice=advice)


def printed(comparison):
    console = Console(file=io.StringIO(), width=200)
    print_comparison(console, comparison)
    return console.file.getvalue()


def test_a_line_and_cells_for_each_configuration(make_run, sweep):
    for seed, accuracy in enumerate((0.8, 0.6)):
        advised(make_run("lp", accuracy, seed, ["finetune=lp_ft"]), kept=accuracy == 0.8)
    advised(make_run("last", 0.5, 0, ["finetune=last"]), kept=False)
    for seed in (0, 1):
        advised(make_run("full", 0.4, seed, ["finetune=full"]), kept=None, departs_in=["finetune"])
    make_run("head", 0.3, 0, ["finetune=head"])
    comparison = compare_runs(sweep)
    lines = advice_lines(comparison)
    assert lines == [
        "advice for finetune=lp_ft: val/acc 70.0 to 85.0 % expected, 70.0 % measured: kept by 1 of 2",
        "advice for finetune=last: val/acc 70.0 to 85.0 % expected, 50.0 % measured: missed",
        "no verdict on the advice of 2 runs, which depart from it in finetune",
    ]
    assert all(line in printed(comparison) for line in lines)
    settings, runs = write_tables(comparison, sweep)
    rows = {row["finetune"]: row for row in csv.DictReader(settings.open())}
    told = ("expected_low", "expected_high", "advice_kept", "advice_missed")
    assert [[rows[plan][column] for column in told] for plan in ("lp_ft", "last", "full", "head")] == [
        ["0.7", "0.85", "1", "1"],
        ["0.7", "0.85", "0", "1"],
        ["", "", "0", "0"],
        ["", "", "0", "0"],
    ]
    kept = {(row["finetune"], row["seed"]): row["advice_kept"] for row in csv.DictReader(runs.open())}
    assert (kept["lp_ft", "0"], kept["lp_ft", "1"], kept["full", "0"], kept["head", "0"]) == ("1", "0", "", "")
    table = settings_table(comparison)
    row = next(row for row in re.findall("<tr.*?</tr>", table) if ">last</td>" in row)
    assert ">70.0 to 85.0 %</td>" in row
    assert ">missed</td>" in row
    assert len(re.findall("<th[ >]", table)) == len(re.findall("<td", row))


def test_nothing_is_said_where_no_run_was_advised(make_run, sweep):
    RunDirectory(make_run("a", 0.8, 0, ["aug=a"])).update(advice={})
    make_run("b", 0.7, 0, ["aug=b"])
    comparison = compare_runs(sweep)
    assert advice_lines(comparison) == []
    written = "".join(file.read_text() for file in write_tables(comparison, sweep))
    everything = printed(comparison) + written + settings_table(comparison) + runs_table(comparison, sweep)
    assert "advice" not in everything
    assert "expected" not in everything
