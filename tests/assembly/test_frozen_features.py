"""What the commands before training see of the images: features of all stages, from one pass that is kept."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tlab.assembly.frozen_features import frozen_features, open_images
from tlab.data.sampler import SampleKey
from tlab.models.classifier import POOL

SMALL = (
    "backbone=mobilenet_v3_small",
    "backbone.weights=bundled",
    "backbone.upto=null",
)


@pytest.fixture(scope="module")
def composed(compose_quick):
    return compose_quick(*SMALL, run_dir="run")


@pytest.fixture(scope="module")
def opened(composed):
    return open_images(composed)


@pytest.fixture(scope="module")
def found(composed, opened):
    return frozen_features(composed, opened)


def test_every_stage_is_what_the_network_makes_of_the_image(composed, opened, found):
    net, data = found.net, opened
    assert list(found.stages) == [*net.backbone.stage_names, POOL]
    assert [*dict.fromkeys(found.splits)] == [*data.index.splits]
    assert len(found.samples) == sum(map(len, data.index.splits.values())) == len(found.labels)
    number = len(found.samples) - 1  # the last of the last split
    _, sample = found.samples[number]
    x = net.normalize(data.images([sample]).pixels([SampleKey(0, 0)]))
    with torch.inference_mode():
        for stage in net.backbone.stage_names:
            x = net.backbone.forward_stages(x, stage, stage)
            averaged = x.mean((2, 3)) if x.ndim == 4 else x
            assert np.allclose(found.stages[stage][number], averaged[0].numpy(), atol=1e-5)
        assert np.allclose(found.stages[POOL][number], net.head.pool(x)[0].numpy(), atol=1e-5)


def test_they_are_computed_once(composed, opened, found, tmp_path, monkeypatch):
    monkeypatch.setenv("TLAB_CACHE", str(tmp_path))
    first, again = frozen_features(composed, opened), frozen_features(composed, opened)
    assert [first.computed, again.computed] == [len(found.samples), 0]
    for stage in found.stages:
        assert np.array_equal(first.stages[stage], found.stages[stage])
        assert np.array_equal(again.stages[stage], found.stages[stage])


def test_they_are_kept_where_they_may_be(compose_quick, opened, tmp_path, monkeypatch):
    """Random weights are those of the seed, so that they are found again."""
    monkeypatch.setenv("TLAB_CACHE", str(tmp_path))
    tiny = ("backbone.upto=layer1", "backbone.weights=null", "seed=7")
    first = frozen_features(compose_quick(*tiny, "features.cache=off", run_dir="run"), opened)
    second = frozen_features(compose_quick(*tiny, "features.max_gb=1e-6", run_dir="run"), opened)
    third = frozen_features(compose_quick(*tiny, run_dir="run"), opened)
    fourth = frozen_features(compose_quick(*tiny, run_dir="run"), opened)
    assert [each.computed for each in (first, second, third, fourth)] == [len(opened_samples(opened))] * 3 + [0]
    assert np.array_equal(first.stages[POOL], fourth.stages[POOL])


def opened_samples(data):
    return [sample for split in data.index.splits for sample in data.samples(split)]


def test_an_image_that_cannot_be_read_is_noted_each_time(compose_quick, photos, tmp_path):
    """Also where its features, which are none, are stored."""
    root = shutil.copytree(photos, tmp_path / "photos")
    cfg = compose_quick(*SMALL, "backbone.upto=block1", f"data.root={root}", run_dir="run")
    data = open_images(cfg)
    broken = data.samples("train")[3].file
    size, times = Path(broken).stat().st_size, Path(broken).stat()
    Path(broken).write_bytes(b"\xff\xd8\xff" + bytes(size - 3))
    os.utime(broken, ns=(times.st_atime_ns, times.st_mtime_ns))
    for computed in (len(opened_samples(data)), 0):
        data.skipped.clear()
        found = frozen_features(cfg, data)
        assert found.computed == computed
        assert [*data.skipped] == [broken]
        gone = np.isnan(found.stages[POOL]).any(1)
        assert [sample.file for (_, sample), is_gone in zip(found.samples, gone, strict=True) if is_gone] == [
            broken
        ]


def test_another_backbone_has_its_own(compose_quick, opened, found, tmp_path, monkeypatch):
    monkeypatch.setenv("TLAB_CACHE", str(tmp_path))
    cut = frozen_features(compose_quick(*SMALL[:2], "backbone.upto=block4", run_dir="run"), opened)
    assert cut.computed == len(found.samples)
    assert list(cut.stages)[-2:] == ["block4", POOL]
    assert np.allclose(cut.stages["block4"], found.stages["block4"], atol=1e-5)
    assert cut.logits is None


def test_the_source_classifier_answers(found):
    source = found.net.backbone.pretraining
    expected = found.stages[POOL] @ source.classifier_weight.numpy().T + source.classifier_bias.numpy()
    assert found.logits is not None
    assert np.allclose(found.logits, expected)
