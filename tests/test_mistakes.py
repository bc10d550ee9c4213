"""Mistakes and their way out: each ends in one sentence, and what that offers works when it is pasted into bash."""

import re
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

from tlab import compare, evaluate, predict
from tlab.assembly.build import make_plan
from tlab.config.hydra import compose
from tlab.config.validation import check
from tlab.core.errors import UserError
from tlab.search.command_line import gather
from tlab.train import run, train

ARGUMENT = re.compile(r"""'[\w.]+=[^']*'(?:"'"'[^']*')*|(?<![\w.])[\w./]+=(?:[^\s,;'"]|"[^"]*")+""")
CLASSES = ("cat", "Pepper,_bell", "Corn_(maize)___rust")
ROOT = "data.root=my [photos]"
RUN = "outputs/multirun/a=1 (b)/x/seed=0"
QUICK = (
    *("data.image_size=32", "data.batch_size=6", "data.num_workers=0", "trainer.precision=32-true", "logger=none"),
    *("backbone.upto=layer1", "backbone.weights=null", "finetune=head", "trainer=cpu"),
)
MEASURED = (f"run={RUN}", "num_workers=0", "accelerator=cpu")


def look(cfg: DictConfig) -> None:
    """Do what tlab.train does before it needs the network; print the remarks about the data."""
    check(cfg)
    make_plan(cfg, SimpleNamespace(stage_names=("stem", "layer1")))
    index = instantiate(cfg.data.source, _convert_="all")()
    print(*index.issues, f"{sum(map(len, index.splits.values()))} images", sep="\n", file=sys.stderr)


def search(cfg: DictConfig) -> None:
    """Take what tlab.tune does, once it knows what to search."""


FUNCTIONS = {
    "look": (look, "train"),
    "train": (run, "train"),
    "evaluate": (evaluate.run, "evaluate"),
    "predict": (predict.run, "predict"),
    "compare": (compare.run, "compare"),
    "tune": (search, "tune"),
}


def draw(root: Path, *classes: str) -> None:
    for name in classes:
        (root / name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (8, 8)).save(root / name / f"{i}[1].png")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return a folder of images and of a run, over in a second, that have odd names."""
    place = tmp_path_factory.mktemp("place")
    draw(place / "my [photos]", *CLASSES)
    draw(place / "others", *CLASSES, "dog [new]")
    train(compose([*QUICK, f"data.root={place}/my [photos]", f"run_dir={place}/{RUN}", "trainer.max_epochs=1"]))
    return place


@pytest.fixture
def give(folder, run_entry_point, capsys, monkeypatch) -> Callable[..., tuple[int, str]]:
    """Return a function that gives a command in this process, and returns its exit code and standard error."""
    monkeypatch.chdir(folder)

    def command(name: str, *arguments: str) -> tuple[int, str]:
        GlobalHydra.instance().clear()
        code: Any = 0
        capsys.readouterr()
        function, config_name = FUNCTIONS[name]
        try:
            run_entry_point(function, config_name, *(gather(arguments) if name == "tune" else arguments))
        except UserError as error:  # of `gather`, which each command that has one calls by itself
            return 2, f"tlab: {error}\n"
        except SystemExit as end:
            code = end.code
        return code, capsys.readouterr().err

    return command


@pytest.mark.parametrize(
    ("command", "kept", "wrong"),
    [
        ("look", [ROOT], "data=foldr"),
        ("look", [ROOT], "optimizer=sdg"),
        ("look", [ROOT], "data.bach_size=3"),
        ("look", [ROOT], "lr=0.1"),
        ("look", [ROOT], "epochs=4"),
        ("look", [ROOT], "arch=vgg16"),
        ("look", [ROOT], "gpu=0"),
        ("look", [ROOT], "backbone=VGG16"),
        ("look", [ROOT], "backbone=efficientnet-lite0"),
        ("look", [ROOT], "finetune=LP-FT"),
        ("look", [ROOT], "trainer.max_epoch=9"),
        ("look", [ROOT], "trainer.max_epochs=1"),
        ("look", [ROOT], 'data.exlude=["Corn_(maize)___rust/0*"]'),
        ("look", [ROOT], "data.exclude=[cat/0*,'it s'"),
        ("look", [ROOT], "checkpoint.monitor=a,b"),
        ("look", [ROOT], "optimizer.lr=0,001"),
        ("look", [ROOT], "--optimizer.lr=0.1"),
        ("look", [], "data=folder"),
        ("look", [ROOT], "data.batch_size=0"),
        ("look", [ROOT], "data.val_fraction=1.5"),
        ("look", [ROOT], "data.val_fraction=0"),
        ("look", [ROOT], "seed=99999999999"),
        ("look", [ROOT], "backbone.kwargs=3"),
        ("look", [ROOT, "backbone.weights=null"], "finetune.l2_sp=0.1"),
        ("look", [ROOT, "trainer.sync_batchnorm=true"], "trainer=cpu"),
        ("look", [ROOT], "finetune.phases.all.until=3"),
        ("look", [ROOT], "finetune.phases.all.scheduler=0.2"),
        ("look", [ROOT], "finetune.stage_lr_scales=[1]"),
        ("train", [ROOT, *QUICK, f"hydra.run.dir={RUN}"], "trainer.max_epochs=2"),
        ("evaluate", MEASURED, "split=test"),
        ("evaluate", MEASURED[1:], "run=outputs/multirun/a=1 (b)/x/seed=10"),
        ("evaluate", MEASURED[1:], "run=outputs/runs/NAME"),
        ("evaluate", MEASURED[1:], f"model={RUN}"),
        ("evaluate", MEASURED, "data.root=others"),
        ("evaluate", MEASURED, "batch_sise=3"),
        ("predict", [*MEASURED, "input=my [photos]"], "output=my [photos]"),
        ("compare", [], "sweep=no such"),
        ("tune", ["study=a", "aug=none,light", ROOT], "budget.trails=3"),
        ("tune", ["study=a", "aug=none,light", ROOT], "n_trials=3"),
        ("tune", ["study=a", "aug=none,light", ROOT], "epochs=3"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_way_out_of_a_mistake_works_when_pasted(command, kept, wrong, give, pasted):
    code, said = give(command, wrong, *kept)
    assert code == 2
    assert said.startswith("tlab: ")
    assert said.count("\n") == 1
    if "python -m tlab" in said:
        again = pasted(said[said.index("python -m tlab") :])[3:]
    else:
        offered = ARGUMENT.search(re.split(r"did you mean|[;:] ", said.removeprefix("tlab: "), maxsplit=1)[1])
        assert offered is not None, said
        of_evaluate = (
            "leave it out with " if wrong == "data.root=others" else None
        )  # a folder, and what to leave out
        shown = said.rpartition(of_evaluate)[2] if of_evaluate else offered[0]
        again = [*kept, *pasted(shown.replace("data.root=DIR", f"'{ROOT}'"))]
    code, said = give(command, *again)
    assert code == 0, said


@pytest.mark.parametrize(("pattern", "left"), [("cat/0[1].png", 11), ("Pepper,_bell", 8)])
def test_a_pattern_that_was_meant_as_a_name_is_shown_as_it_works(pattern, left, give, pasted):
    """Brackets make a glob, and a comma makes two patterns."""
    _, said = give("look", ROOT, f"data.exclude=[{pattern}]")
    assert "matched no file" in said
    assert "12 images" in said
    written = ARGUMENT.search(said.partition("write ")[2])
    assert written is not None
    assert give("look", ROOT, *pasted(written[0])) == (0, f"{left} images\n")
