"""The command that a sweep prints, to be given again."""

import sys
from pathlib import Path

import pytest

from tlab import train
from tlab.sweeps.progress import same_command


@pytest.mark.parametrize(
    ("typed", "printed"),
    [
        ("a.py -m aug=none,light", "-m aug=none,light sweep=NAME"),
        ("a.py -m aug=none --config-dir mine", "-m aug=none sweep=NAME --config-dir mine"),
        ("a.py -m sweep=NAME aug=none", "-m sweep=NAME aug=none"),
        ("a.py -m hydra.sweep.dir=x/NAME aug=none", "-m hydra.sweep.dir=x/NAME aug=none"),
        ("a.py -m", "-m sweep=NAME"),
    ],
)
def test_the_name_of_the_sweep_is_added_where_it_was_not_given(typed, printed, monkeypatch):
    monkeypatch.setattr(sys, "argv", typed.split(" "))
    assert same_command(Path("outputs/multirun/NAME")) == f"python a.py {printed}"


def test_a_command_of_tlab_is_called_by_its_name(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bin/tlab-train", "-m", "data.root=my photos"])
    assert same_command(Path("x")) == "tlab-train -m 'data.root=my photos' sweep=x"
    monkeypatch.setattr(sys, "argv", [train.__file__, "-m"])
    assert same_command(Path("x")) == "python -m tlab.train -m sweep=x"
