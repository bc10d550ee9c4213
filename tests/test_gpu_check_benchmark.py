"""The check of a GPU runs through, also where there is none."""

import json
import sys
from pathlib import Path

import pytest
import torch

import gpu_check


def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu_check.py"])
    assert gpu_check.main() == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_what_the_time_does_not_allow_is_named(monkeypatch, tmp_path):
    given = ["--accelerator", "cpu", "--quick", "--budget", "0", "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", *given])
    assert gpu_check.main() == 1
    found = json.loads((tmp_path / "gpu_check.json").read_text())
    assert len(found["problems"]) == 6
    assert all("left out" in problem for problem in found["problems"])


@pytest.mark.slow
def test_a_quick_check_measures_and_compares(monkeypatch, tmp_path: Path):
    """On a busy machine its processes take their time."""
    given = ["--accelerator", "cpu", "--quick", "--budget", "900", "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", *given, "--precisions", "32-true"])
    assert gpu_check.main() == 0
    found = json.loads((tmp_path / "gpu_check.json").read_text())
    assert [row["run"].split()[-1] for row in found["runs"]] == ["head", "lp_ft"]
    for row in found["runs"]:
        assert row["images/s"] > 0
        assert row["alone"] > 0
    (resumed,) = found["resumed"]
    assert resumed["went_on"]
    assert (resumed["differing"], resumed["checkpoints_on_host"]) == (0, True)
    assert resumed["tensors"] > 2 * 242  # those of the network, and of the optimizer
    assert "bit by bit" in (tmp_path / "gpu_check.txt").read_text()
