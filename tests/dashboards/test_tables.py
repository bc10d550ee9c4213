import io
from pathlib import Path

import pytest
from rich.console import Console

from tlab.core.text import duration
from tlab.dashboards.stage_table import StageTable, print_stage_table, stage_rows
from tlab.dashboards.summary_table import print_summary_table

METRICS = {
    "train/loss": 0.25, "train/acc": 0.91, "val/loss": 0.5, "val/acc": 0.8, "val/f1": 0.79, "test/loss": 0.6,
    "test/acc": 0.7812, "test/f1": 0.77, "val/acc_class/red": 1.0, "epochs": 15, "fit_seconds": 70.0,
}  # fmt: skip
PHASES = [
    {"name": "head", "start": 0, "epochs": 5, "seconds": 8.4, "images_per_second": 1234.5, "trained": ["head"]},
    {"name": "all", "start": 5, "epochs": 10, "seconds": 61.2, "images_per_second": 210.0,
     "trained": ["stem", "layer1", "layer2", "layer3", "layer4", "head"]},
]  # fmt: skip


def printed(print_, *args, width=80) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_(console, *args)
    return console.file.getvalue()


def test_stage_rows_tell_shape_size_and_phases(net, plan):
    net.set_trainable({"head"})
    net.train()
    rows = stage_rows(net, 16, plan)
    assert [(r.name, r.output_shape, r.parameters, r.trainable_now, r.phases) for r in rows] == [
        ("stem", (4, 8, 8), 4 * 27 + 4 + 8, False, ("all",)),
        ("body", (6, 4, 4), 6 * 36 + 6, False, ("all",)),
        ("head", (3,), 21, True, ("head", "all")),
    ]
    assert net.training
    assert not net.backbone.stages["stem"].training  # still frozen


def test_stage_table_sums_up(net, plan):
    net.set_trainable({"head"})
    lines = printed(print_stage_table, stage_rows(net, 16, plan)).splitlines()
    assert any("stem" in line and "4 × 8 × 8" in line and "120" in line and "frozen" in line for line in lines)
    total = next(line for line in lines if "total" in line)
    assert total.split() == ["total", "363", "21"]


def test_stage_table_is_printed_and_logged(fit, events, plan, capsys):
    fit(StageTable(16, plan))
    assert capsys.readouterr().out.count("trains in phase") == 1
    (event,) = events().Tensors("stages/text_summary")
    text = event.tensor_proto.string_val[0].decode()
    assert "| stem | 4 × 8 × 8 | 120 | frozen | all |" in text


def test_closing_table_at_80_columns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outside = Path(
        "/somewhere/far/away/with_a_directory_name_that_is_long/2026-11-21_04-25-00_resnet18_lp_ft/best.ckpt"
    )
    paths = {"run": tmp_path / "outputs" / "run", "best checkpoint": outside}
    comparison = {"this run": METRICS, "from scratch": {"val/acc": 0.5, "test/acc": 0.45}}
    images = {"train": 1000, "val": 200, "test": 64}
    text = printed(print_summary_table, METRICS, PHASES, paths, comparison, None, images)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "split images loss acc 95 % interval f1" in lines
    assert "train 1,000 0.250 91.0% – –" in lines
    assert "test 64 0.600 78.1% 66.6 to 86.5 % 77.0%" in lines  # Wilson's of 50 of 64
    assert "head 1–5 8.4 s 1,234 head" in lines
    assert "total 1 min 10 s" in lines
    assert "from scratch 50.0% – 45.0% –" in lines
    assert f"best checkpoint {outside}" in lines  # one line, though it is longer than 80 characters
    assert "run outputs/run" in lines
    assert max(len(line) for line in text.splitlines() if str(outside) not in line) <= 80


def test_closing_table_of_a_run_without_test_phases_or_comparison():
    text = printed(print_summary_table, {"val/acc": 0.5}, [], {})
    assert "test" not in text
    assert "50.0%" in text
    assert "Comparison" not in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (59.97, "1 min 00 s"), (125, "2 min 05 s"), (3599.8, "1 h 00 min"), (7380, "2 h 03 min")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text
