"""What a command does not import, and that all of it is there for whoever uses it after all."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from tlab.core.lazy_imports import INHERITED

AS_A_COMMAND = "from tlab.core.lazy_imports import defer_heavy_imports\ndefer_heavy_imports()\n"
HEAVY = ("torch._dynamo", "torch._inductor", "sympy", "triton", "scipy", "optuna", "plotly", "timm")


def python(code: str, *arguments: str) -> str:
    """Run a script in an interpreter of its own and return what it printed."""
    command = [sys.executable, "-c", code, *arguments]
    environment = {name: value for name, value in os.environ.items() if name != INHERITED}
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize(
    "module", ["tlab", "tlab.train", "tlab.predict", "tlab.core.processes", "tlab.tune", "tlab.data.datamodule"]
)
def test_a_library_changes_nothing_in_the_program_that_imports_it(module: str) -> None:
    code = (
        "import logging, os, sys, warnings\n"
        "import cv2, hydra, lightning.pytorch, PIL.TiffImagePlugin, torch, torchvision, torchmetrics\n"
        "loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict] + [logging.root]\n"
        "def state():\n"
        "    heard = [(one.name, one.level, one.filters[:], one.handlers[:], one.propagate) for one in loggers]\n"
        "    return list(sys.meta_path), dict(os.environ), list(warnings.filters), heard\n"
        "before = state()\n"
        f"import {module}\n"
        "assert state() == before\n"
    )
    python(code)


def test_processes_inherit_what_a_command_does() -> None:
    beside = "import sys, tlab; sys.exit(type(sys.meta_path[0]).__module__ != 'tlab.core.lazy_imports')"
    code = f"import subprocess, sys\nassert subprocess.run([sys.executable, '-c', {beside!r}]).returncode == 0"
    python(AS_A_COMMAND + code)


def test_a_run_imports_neither_compiler_nor_figures(compose_run: Callable[..., DictConfig], tmp_path: Path) -> None:
    OmegaConf.save(compose_run("scheduler=cosine"), tmp_path / "cfg.yaml", resolve=True)
    code = (
        f"{AS_A_COMMAND}import sys\nfrom omegaconf import OmegaConf\nfrom tlab.train import train\n"
        "train(OmegaConf.load(sys.argv[1]))\n"
        f"print('HEAVY', [name for name in {(*HEAVY, 'matplotlib')} if name in sys.modules])"
    )
    assert "HEAVY []" in python(code, str(tmp_path / "cfg.yaml"))


LATER = """
import os, sys
os.environ.pop("GOMP_SPINCOUNT", None)  # of the tests
import tlab, torch, torchvision, lightning.pytorch as L
from lightning.fabric.wrappers import OptimizedModule
from torchmetrics.classification import MulticlassAccuracy

assert not [name for name in HEAVY if name in sys.modules]
assert "GOMP_SPINCOUNT" not in os.environ  # a command's business, not that of a program with tlab in it
layer = torch.nn.Linear(2, 2)
optimizer = torch.optim.SGD(layer.parameters(), lr=1.0, momentum=0.9)
layer(torch.ones(3, 2)).sum().backward()
optimizer.step()
optimizer.zero_grad()
assert layer.weight.requires_grad
assert not [name for name in HEAVY if name in sys.modules]
assert not isinstance(layer, OptimizedModule)

boxes = torch.tensor([[0.0, 0.0, 0.0, 4.0, 4.0]])
assert torchvision.ops.roi_align(torch.ones(1, 1, 8, 8), boxes, 2).tolist() == [[[[1.0, 1.0], [1.0, 1.0]]]]

metric = MulticlassAccuracy(2)
metric.update(torch.tensor([0, 1]), torch.tensor([0, 0]))
figure, axes = metric.plot()
assert type(figure).__name__ == "Figure"

compiled = torch.compile(layer, backend="eager")
assert isinstance(compiled, OptimizedModule)
before = layer.weight.detach().clone()

@torch.compile(backend="eager")
def step(x):
    compiled(x).sum().backward()
    optimizer.step()

step(torch.ones(3, 2))
optimizer.zero_grad()
assert not torch.equal(before, layer.weight)
assert torch.equal(compiled(torch.ones(1, 2)), layer(torch.ones(1, 2)))
assert torch.fx.symbolic_trace(layer)(torch.ones(1, 2)).shape == (1, 2)

@torch.compiler.disable
def shielded(x):
    assert not torch.compiler.is_compiling()
    return x + 1

assert torch.compile(lambda x: shielded(x) * 2, backend="eager")(torch.ones(1)).item() == 4
from torch._dynamo.utils import is_compile_supported
import torch._dynamo, matplotlib, triton
assert all(module.__file__ for module in (torch._dynamo, matplotlib, triton))
"""


def test_what_was_left_out_works_when_it_is_used() -> None:
    python(f"{AS_A_COMMAND}HEAVY = {HEAVY}\n{LATER}")


def test_a_library_that_wants_more_than_its_stand_in_has_is_imported_as_ever() -> None:
    """Another version of torchvision may import another name."""
    code = (
        f"{AS_A_COMMAND}import sys, tlab.core.lazy_imports\n"
        "tlab.core.lazy_imports.STAND_INS['torchvision.ops.roi_align'] = {'torch._dynamo.utils': []}\n"
        "import torchvision\n"
        "assert 'torch._dynamo' in sys.modules and torchvision.ops.roi_align"
    )
    python(code)
