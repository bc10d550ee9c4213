"""What configurations of earlier versions name is found where it lies now."""

import json
from importlib import import_module

import pytest
from omegaconf import OmegaConf

from tlab.config.diff import differences
from tlab.config.hydra import compose
from tlab.config.targets import MOVED, renewed, with_present_targets

OLD, NEW = "tlab.data.warp.RandomHorizontalFlip", "tlab.data.augment.geometry.RandomHorizontalFlip"


def test_targets_are_renamed_wherever_they_stand_and_nothing_else_is():
    config = {
        "a": {"_target_": OLD, "p": 0.5},
        "list": [{"_target_": OLD}, OLD],
        "other": {"_target_": "torch.save"},
    }
    assert renewed(config) == {
        "a": {"_target_": NEW, "p": 0.5},
        "list": [{"_target_": NEW}, OLD],
        "other": {"_target_": "torch.save"},
    }
    assert json.loads(json.dumps(config))["a"]["_target_"] == OLD  # the original stays


def test_a_configuration_keeps_its_interpolations_and_is_copied_only_where_it_must_be():
    old = OmegaConf.create({"p": 1, "aug": [{"choice": {"_target_": OLD, "p": "${p}"}}]})
    new = with_present_targets(old)
    assert OmegaConf.to_container(new, resolve=False) == {
        "p": 1,
        "aug": [{"choice": {"_target_": NEW, "p": "${p}"}}],
    }
    assert old.aug[0].choice._target_ == OLD
    assert with_present_targets(new) is new


def test_a_run_from_before_there_was_a_choice_of_losses_had_cross_entropy(tmp_path):
    new = OmegaConf.to_container(compose([f"run_dir={tmp_path}", "loss.label_smoothing=0.1"]).loss)
    assert renewed({"loss": {"label_smoothing": 0.1}}) == {"loss": new}
    assert differences({"loss": {"label_smoothing": 0.1}}, {"loss": new, "callbacks": {}}) == set()
    assert renewed({"loss": {"_target_": "mine.Loss"}}) == {"loss": {"_target_": "mine.Loss"}}


@pytest.mark.parametrize("target", MOVED.values())
def test_what_has_moved_is_there(target):
    module, _, name = target.rpartition(".")
    try:
        import_module(target)
    except ModuleNotFoundError:
        assert hasattr(import_module(module), name)
