"""What a run's digest takes in."""

import copy
from typing import Any

import pytest

from tlab.config.digest import sources_digest
from tlab.config.schema import TrainConfig, keys


@pytest.mark.parametrize(
    ("attribute", "value", "same"),
    [("metadata", {"help": "else"}, True), ("default", 3, False), ("type", str, False)],
)
def test_a_key_s_help_is_left_out(monkeypatch, attribute: str, value: Any, same: bool):
    before, declared = sources_digest([]), keys(TrainConfig)
    changed = copy.copy(declared["seed"])
    setattr(changed, attribute, value)
    monkeypatch.setattr("tlab.config.digest.keys", lambda _: {**declared, "seed": changed})
    assert (sources_digest([]) == before) == same
