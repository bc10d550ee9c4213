"""Mistakes and their way out: each ends in one sentence, and what that offers works when it is pasted into bash."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import DictConfig
from PIL import Image

from tlab import compare, predict
from tlab.assembly.build import make_plan
from tlab.config.provenance import plain
from tlab.config.validation import check
from tlab.runs.directory import RunDirectory
from tlab.search.command_line import gather

ARGUMENT = re.compile(r"""'[\w.]+=[^']*'(?:"'"'[^']*')*|(?<![\w.])[\w./]+=(?:[^\s,;'"]|"[^"]*")+""")
CLASSES = ("cat", "Pepper,_bell", "Corn_(maize)___rust")


def look(cfg: DictConfig) -> None:
    """Do what tlab.train does before it needs the network; print the remarks about the data."""
    check(cfg)
    make_plan(cfg, SimpleNamespace(stage_names=("stem", "layer1")))
    RunDirectory(Path(cfg.run_dir)).is_finished(plain(cfg), cfg.resume)
    index = instantiate(cfg.data.source, _convert_="all")()
    print(*index.issues, f"{sum(map(len, index.splits.values()))} images", sep="\n", file=sys.stderr)


def search(cfg: DictConfig) -> None:
    """Take what tlab.tune does, once it knows what to search."""


FUNCTIONS = {"train": look, "predict": predict.run, "compare": compare.run, "tune": search}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current directory, with a folder of images and one of runs that have odd names."""
    for name in CLASSES:
        (tmp_path / "my [photos]" / name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (8, 8)).save(tmp_path / "my [photos]" / name / f"{i}[1].png")
    begun = tmp_path / "outputs/multirun/a=1 (b)/x/seed=0"
    begun.mkdir(parents=True)
    RunDirectory(begun).update(status="finished", config={})
    RunDirectory(begun).metrics_file.write_text('{"val/acc": 0.5}')
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def give(run_entry_point, capsys) -> Callable[..., tuple[int, str]]:
    """Return a function that gives a command in this process, and returns its exit code and standard error."""

    def command(name: str, *arguments: str) -> tuple[int, str]:
        GlobalHydra.instance().clear()
        code: Any = 0
        try:
            run_entry_point(FUNCTIONS[name], name, *(gather(arguments) if name == "tune" else arguments))
        except SystemExit as end:
            code = end.code
        return code, capsys.readouterr().err

    return command


def pasted(words: str) -> list[str]:
    """Return the arguments that bash makes of words."""
    printed = subprocess.run(["bash", "-c", f"printf '%s\\0' {words}"], capture_output=True, check=True).stdout
    return os.fsdecode(printed).split("\0")[:-1]


ROOT = "data.root=my [photos]"


@pytest.mark.parametrize(
    ("command", "kept", "wrong"),
    [
        ("train", [ROOT], "data=foldr"),
        ("train", [ROOT], "optimizer=sdg"),
        ("train", [ROOT], "data.bach_size=3"),
        ("train", [ROOT], "lr=0.1"),
        ("train", [ROOT], "trainer.max_epoch=9"),
        ("train", [ROOT], "trainer.max_epochs=2"),
        ("train", [ROOT], 'data.exlude=["Corn_(maize)___rust/0*"]'),
        ("train", [ROOT], "data.exclude=[cat/0*,'it s'"),
        ("train", [ROOT], "checkpoint.monitor=a,b"),
        ("train", [], "data=folder"),
        ("train", [ROOT], "data.batch_size=0"),
        ("train", [ROOT], "data.val_fraction=1.5"),
        ("train", [ROOT], "data.val_fraction=0"),
        ("train", [ROOT], "seed=99999999999"),
        ("train", [ROOT], "backbone.kwargs=3"),
        ("train", [ROOT, "backbone.weights=null"], "finetune.l2_sp=0.1"),
        ("train", [ROOT, "trainer.sync_batchnorm=true"], "trainer=cpu"),
        ("train", [ROOT], "finetune.phases.all.until=3"),
        ("train", [ROOT], "finetune.phases.all.scheduler=0.2"),
        ("train", [ROOT], "finetune.stage_lr_scales=[1]"),
        ("predict", ["run=x", "input=my [photos]"], "output=my [photos]"),
        ("compare", [], "sweep=no such"),
        ("tune", ["study=a", "aug=none,light", ROOT], "budget.trails=3"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_way_out_of_a_mistake_works_when_pasted(command, kept, wrong, place, give):
    code, said = give(command, wrong, *kept)
    assert code == 2
    assert said.startswith("tlab: ")
    assert said.count("\n") == 1
    offered = ARGUMENT.search(re.split(r"did you mean|[;:] ", said.removeprefix("tlab: "), maxsplit=1)[1])
    assert offered is not None, said
    again = [*kept, *pasted(offered[0].replace("data.root=DIR", f"'{ROOT}'"))]
    if wrong.startswith("trainer="):
        again = [argument for argument in again if argument != wrong]
    code, said = give(command, *again)
    expected = (2, "has no checkpoint") if command == "predict" else (0, "")
    assert (code, expected[1] in said) == (expected[0], True), said


@pytest.mark.parametrize(("pattern", "left"), [("cat/0[1].png", 11), ("Pepper,_bell", 8)])
def test_a_pattern_that_was_meant_as_a_name_is_shown_as_it_works(pattern, left, place, give):
    """Brackets make a glob, and a comma makes two patterns."""
    _, said = give("train", ROOT, f"data.exclude=[{pattern}]")
    assert "matched no file" in said
    assert "12 images" in said
    written = ARGUMENT.search(said.partition("write ")[2])
    assert written is not None
    assert give("train", ROOT, *pasted(written[0])) == (0, f"{left} images\n")
