"""One tiny image folder and one tiny backbone, drawn once, for all tests."""

import copy
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import DictConfig
from PIL import Image

from tlab.core.hardware import limit_spinning

limit_spinning()  # several workers test at once; here, since the tests import torch
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # the hundreds of processes that tests start compile tlab once
sys.dont_write_bytecode = False


@pytest.fixture(scope="session", autouse=True)
def _private_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the user's cache and downloaded weights out of the tests, and leave the cores to the other workers."""
    import torch

    torch.set_num_threads(1)
    before = {name: os.environ.get(name) for name in ("TLAB_CACHE", "TORCH_HOME", "OMP_NUM_THREADS")}
    os.environ["OMP_NUM_THREADS"] = "1"  # the tests' own processes
    os.environ["TLAB_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["TORCH_HOME"] = str(tmp_path_factory.mktemp("torch_home"))
    yield
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """root/{train,val,test}/{blue,green,red}: 12, 6 and 6 noisy images of one colour per class, 40 x 36 px."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for split, count in {"train": 12, "val": 6, "test": 6}.items():
        for channel, name in enumerate(("red", "green", "blue")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 120, (36, 40, 3))
                pixels[..., channel] += 100
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i:02}.png")
    return root


@pytest.fixture(scope="session")
def compose_quick(photos: Path) -> Callable[..., DictConfig]:
    """Compose a run on `photos` that is soon over: the first stages of a random ResNet-18, 32 px, fp32, no events.

    A test that chooses anything of the backbone gets all of its stages. The head is trained by steps, since most
    tests are about these; `head.solver=auto` is the user's default.
    """
    from tlab.config.hydra import compose

    @cache
    def composed(*overrides: str) -> DictConfig:
        quick = (
            f"data.root={photos}",
            "data.image_size=32",
            "data.batch_size=12",
            "data.num_workers=0",
            "backbone.weights=null",
            "trainer=cpu",
            "trainer.precision=32-true",
            "trainer.max_epochs=2",
            "finetune.head_epochs=1",
            "head.solver=sgd",
            "logger=none",
            "run_dir=run",
        )
        cut = () if any(override.startswith("backbone") for override in overrides) else ("backbone.upto=layer1",)
        return compose([*quick, *cut, *overrides])

    def compose_(*overrides: str, run_dir: Path) -> DictConfig:
        cfg = copy.deepcopy(composed(*overrides))
        cfg.run_dir = str(run_dir)
        return cfg

    return compose_


@pytest.fixture
def compose_run(compose_quick: Callable[..., DictConfig], tmp_path: Path) -> Callable[..., DictConfig]:
    """Compose a quick run, by default in the test's own directory."""
    return partial(compose_quick, run_dir=tmp_path / "run")


@pytest.fixture(scope="session")
def pasted() -> Callable[[str], list[str]]:
    """Return a function of what tlab prints for the shell, which returns the words that bash makes of it."""

    def words(text: str) -> list[str]:
        printed = subprocess.run(["bash", "-c", f"printf '%s\\0' {text}"], capture_output=True, check=True).stdout
        return os.fsdecode(printed).split("\0")[:-1]

    return words


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, started once for a file of tests. Without it they skip, and with CI=true they fail."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        chromium = None
    else:
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("no Chromium, or no playwright, here")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def run_entry_point(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Run a command in this process: a function of a configuration, as its entry point hands it to Hydra."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

    from tlab.command import run_command

    def run(function: Callable[[DictConfig], Any], config_name: str, *arguments: str) -> None:
        quiet = ("hydra/job_logging=none", "hydra/hydra_logging=none")
        monkeypatch.setattr(sys, "argv", ["tlab", *arguments, *quiet])
        run_command(function, config_name)

    yield run
    GlobalHydra.instance().clear()
    HydraConfig.instance().cfg = None
