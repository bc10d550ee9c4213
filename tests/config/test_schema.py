"""A key is declared once: its type, what it may be, and what it means."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any

import pytest
from hydra.errors import HydraException
from omegaconf import OmegaConf

from tlab.config.hydra import compose
from tlab.config.schema import COMMANDS, keys
from tlab.config.validation import check_value
from tlab.core.error_messages import user_message
from tlab.core.errors import UserError


def without_meaning(node: dict[str, Any], declared: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in node.items():
        key = declared.get(prefix + name)
        if name.startswith("_") or (key and key.metadata["help"]):
            continue
        if not key or not isinstance(value, dict):
            yield prefix + name
        elif is_dataclass(key.type) or "_target_" not in value:
            yield from without_meaning(value, declared, f"{prefix}{name}.")


@pytest.mark.parametrize(
    ("command", "override"),
    [
        *(("train", f"data={choice}") for choice in ("folder", "csv", "torchvision", "demo")),
        ("train", "logger=none"),
        *((command, None) for command in COMMANDS),
    ],
)
def test_every_key_of_a_configuration_has_a_meaning(command, override):
    cfg = compose([override] if override else [], command)
    plain: Any = OmegaConf.to_container(cfg)
    assert len(plain) > 2
    assert list(without_meaning(plain, keys(COMMANDS[command]))) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_declared_key_has_a_meaning(command):
    declared = keys(COMMANDS[command]).items()
    single = {name: key for name, key in declared if not (is_dataclass(key.type) or key.metadata["below"])}
    assert {name for name, key in single.items() if not key.metadata["help"]} <= {"backbone._target_"}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_lists_the_keys_with_their_meanings(command):
    page = subprocess.run(
        [sys.executable, "-m", f"tlab.{command}", "--help"], capture_output=True, text=True, check=True
    ).stdout
    lines = [line.split() for line in page.splitlines()]
    shown = {words[0].partition("=")[0] for words in lines if words}
    ours = {"debug"} if command != "train" else set()
    ours |= {"overrides", "worker", "space", "pruner"} if command == "tune" else set()  # groups, and set by tlab
    ours |= {"overrides"} if command in ("advise", "audit", "study") else set()
    assert {name for name, key in keys(COMMANDS[command]).items() if key.metadata["help"]} - ours <= shown
    assert all(len(line) <= 120 for line in page.splitlines())
    if command == "train":
        assert ["trainer.precision=P", "auto", "of", "the", "arithmetic;"] in [words[:5] for words in lines]
        assert "bf16-mixed or 16-mixed" in " ".join(page.split())


@pytest.mark.parametrize(
    ("command", "override", "words"),
    [
        ("evaluate", "batch_size=many", "batch_size has the wrong type"),
        ("evaluate", "num_workers=1.5", "num_workers has the wrong type"),
        ("predict", "num_workers=two", "num_workers has the wrong type"),
        ("predict", "batches=1", "batches is not a key of the configuration, did you mean batch_size"),
        ("compare", "monitor=[a]", "monitor has the wrong type"),
        ("compare", "debug=maybe", "debug has the wrong type"),
        ("tune", "worker=first", "worker has the wrong type"),
    ],
)
def test_every_command_refuses_a_wrong_type(command, override, words):
    with pytest.raises(HydraException) as raised:
        compose([override], command)
    assert words in user_message(raised.value)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("data.batch_size", 2.5, "data.batch_size=2.5 is not a whole number"),
        ("data.crop_fraction", 0, "data.crop_fraction=0 is too small; give more than 0"),
        ("data.crop_fraction", 1.5, "data.crop_fraction=1.5 is too large; give data.crop_fraction=1 or less"),
        ("finetune.stage_lr_decay", float("nan"), "finetune.stage_lr_decay=nan is not a number"),
        (
            "optimizer.weight_decay",
            -1,
            "optimizer.weight_decay=-1 is too small; give optimizer.weight_decay=0",
        ),
        ("checkpoint.mode", "up", "checkpoint.mode=up is not one of null, min, max"),
    ],
)
def test_a_value_is_held_against_what_its_key_declares(key, value, words):
    with pytest.raises(UserError, match=words):
        check_value(key, value)
    check_value(key, None if "mode" in key else 1)
