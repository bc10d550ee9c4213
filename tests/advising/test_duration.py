"""Measured speeds are kept by all that they depend on."""

from types import SimpleNamespace

import torch

import tlab
from tlab.advising import duration


class Twin(torch.nn.Module):
    """A network of which nothing is frozen."""

    def frozen_part(self, images):
        return images, ""


def test_each_memory_layout_has_speeds_of_its_own(photos, tmp_path, monkeypatch):
    def copy(_net, _groups, batch, size, _device, channels_last):
        layout = torch.channels_last if channels_last else torch.contiguous_format
        return Twin(), torch.zeros(batch, 3, size, size).contiguous(memory_format=layout)

    def seconds(_twin, x, *_, **__):
        return 1.0 if x.is_contiguous(memory_format=torch.channels_last) else 2.0

    monkeypatch.setenv("TLAB_CACHE", str(tmp_path))
    monkeypatch.setattr(duration, "timing_copy", copy)
    monkeypatch.setattr(duration, "timed_step", seconds)
    backbone = SimpleNamespace(stage_names=("stem", "layer1"), variant="")
    net = SimpleNamespace(backbone=backbone, group_names=("stem", "layer1", "head"))
    given = (f"data.root={photos}", "data.image_size=8", "trainer=cpu")
    one, other = (
        duration.measure_speeds(tlab.compose(*given, f"trainer.channels_last={layout}"), net, "32-true")
        for layout in ("true", "false")
    )
    assert 2 * one.train == other.train
    assert 2 * one.forward == other.forward
