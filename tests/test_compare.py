"""`tlab.compare` from the command line, on runs that were really trained."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from forked_command import run_forked
from tlab.train import train


def compare(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tlab.compare", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "COLUMNS": "90"},
    )


@pytest.fixture(scope="module")
def runs(photos, tmp_path_factory) -> Path:
    """Two runs outside a command, so that nothing but their configuration tells them apart."""
    from tlab.config.hydra import compose
    from tlab.config.overrides import as_override

    folder = tmp_path_factory.mktemp("runs")
    quick = (
        *(f"data.root={photos}", "data.image_size=32", "data.batch_size=12", "data.num_workers=0"),
        *("backbone.upto=layer1", "backbone.weights=null", "trainer=cpu", "trainer.precision=32-true"),
        *("trainer.max_epochs=2", "finetune.head_epochs=1", "logger=none"),
    )
    for lr in (0.01, 0.1):
        train(compose([*quick, f"optimizer.lr={lr}", as_override("run_dir", f"{folder}/lr={lr}")]))
    return folder


def test_the_command_compares_what_was_trained(runs, tmp_path):
    result = compare(f"sweep={runs}", "target=0.3", f"output={tmp_path}/out")
    assert result.returncode == 0, result.stderr
    assert "optimizer.lr=0.1" in result.stdout
    assert "with one seed" in result.stdout
    assert "Traceback" not in result.stderr
    with (tmp_path / "out/comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["optimizer.lr"] for row in rows} == {"0.01", "0.1"}
    assert all(int(row["trained_parameters"]) == int(row["parameters"]) == 157_699 for row in rows)
    report = (tmp_path / "out/report.html").read_text()
    assert '"confusion":[[' in report
    assert not (runs / "report.html").exists()


def test_a_single_run_is_compared_with_nothing(runs):
    result = compare(f"sweep={runs}/lr=0.1")
    assert result.returncode == 0, result.stderr
    assert (runs / "lr=0.1/comparison.csv").exists()
    assert "nothing can be said about its spread" in " ".join(result.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "sweep is not set"),
        (["sweep=nowhere"], "sweep=nowhere is no directory"),
        (["sweep=.", "interval=normal"], "interval=normal is not one of t, bootstrap"),
        (["sweep=.", "test=f"], "test=f is not one of t, wilcoxon"),
        (["sweep=.", "target=much"], "target=much is not a number"),
        (["sweep=."], "holds no run"),
    ],
)
def test_mistakes_end_in_one_sentence(arguments, words, tmp_path):
    result = run_forked("tlab.compare", *arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith("tlab: ")
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"], ["--shell-completion", "query=bash"]])
def test_no_torch_for_what_needs_none(arguments):
    code = (
        "import sys, runpy\n"
        "try: runpy.run_module('tlab.compare', run_name='__main__')\n"
        "finally: print([name for name in ('torch', 'scipy', 'plotly', 'rich') if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.stdout.splitlines()[-1] == "[]", result.stderr


def test_comparing_imports_no_torch(runs):
    code = (
        "import sys\nfrom pathlib import Path\nfrom tlab.compare import compare\n"
        "compare(Path(sys.argv[1]))\nprint('torch' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(runs)], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.stdout.splitlines()[-1] == "False", result.stderr
