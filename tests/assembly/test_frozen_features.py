"""What the commands before training see of the images: features of all stages, from one pass that is kept."""

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


def test_they_are_computed_once(composed, opened, found):
    assert found.computed == len(found.samples)
    again = frozen_features(composed, opened)
    assert again.computed == 0
    assert all(np.array_equal(again.stages[stage], found.stages[stage]) for stage in found.stages)


def test_another_backbone_has_its_own(compose_quick, opened, found):
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
