"""Similarity to the pretraining."""

import numpy as np
import pytest
import torch

from tlab.advising.similarity import batchnorm_similarity, mean_confidence, statistics_similarity
from tlab.assembly.build import build_backbone, build_data, build_net
from tlab.finetuning.batchnorm import batchnorm_layers, training_statistics


def statistics(mean: float, variance: float) -> dict[str, torch.Tensor]:
    return {"bn.running_mean": torch.full((3,), mean), "bn.running_var": torch.full((3,), variance)}


def test_it_is_one_for_the_same_statistics_and_falls_with_distance():
    here = statistics(0.0, 1.0)
    values = [
        statistics_similarity(here, other) for other in (here, *map(statistics, (1.0, 3.0, 50.0), (1.0,) * 3))
    ]
    assert values[0] == pytest.approx(1, abs=1e-6)
    assert values == sorted(values, reverse=True)
    assert values[-1] == pytest.approx(0, abs=1e-6)
    # Hellinger's distance of N(0, 1) and N(0, 4): sqrt(1 - sqrt(2 * 1 * 2 / 5))
    assert statistics_similarity(here, statistics(0.0, 4.0)) == pytest.approx(1 - (1 - 0.8**0.5) ** 0.5)


def test_a_dead_channel_does_not_outweigh_the_others():
    dead = statistics(0.0, 1.0)
    dead["bn.running_var"][0] = 0
    assert statistics_similarity(statistics(0.0, 1.0), dead) == pytest.approx(2 / 3, abs=1e-2)


def test_weights_made_for_the_images_are_more_similar(compose_run):
    cfg = compose_run()
    data = build_data(cfg)
    data.setup()
    net = build_net(cfg, build_backbone(cfg), data)
    cpu = torch.device("cpu")
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    of_others = batchnorm_similarity(net, data, cpu)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    own = training_statistics(net, data, [*batchnorm_layers(net.backbone)])
    net.load_state_dict({**net.state_dict(), **own})
    assert batchnorm_similarity(net, data, cpu) > 0.99 > of_others > 0


def test_confidence_is_the_mean_largest_probability():
    logits = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]]))
    assert mean_confidence(logits) == pytest.approx(0.75)
    assert mean_confidence(None) is None
