"""Conformal sets hold the right class as often as they are asked to."""

import pytest
import torch

from tlab.models.uncertainty.conformal import adaptive_scores, prediction_sets


def drawn(number, seed, sharpness, classes=5):
    """Probabilities `N K` that are too sharp or too flat, and labels drawn from the true ones."""
    draw = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(number, classes, generator=draw)
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=draw)[:, 0]
    return (sharpness * logits).softmax(dim=1), labels, torch.rand(number, generator=draw)


def test_scores_are_the_probability_that_a_set_takes():
    probabilities = torch.tensor([[0.1, 0.6, 0.3]])
    for uniform, expected in ((0.0, [0.9, 0.0, 0.6]), (1.0, [1.0, 0.6, 0.9]), (0.5, [0.95, 0.3, 0.75])):
        scores = adaptive_scores(probabilities, torch.tensor([uniform]))
        torch.testing.assert_close(scores, torch.tensor([expected]).double())


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("coverage", [0.5, 0.9])
def test_the_right_class_is_in_the_set_as_often_as_asked(sharpness, coverage):
    covered = []
    for seed in range(40):
        probabilities, labels, uniform = drawn(600, seed, sharpness)
        scores = adaptive_scores(probabilities, uniform)
        right = scores.gather(1, labels[:, None])[:, 0]
        sets = prediction_sets(scores[300:], right[:300].sort().values, coverage)
        covered.append(sets.gather(1, labels[300:, None]).double().mean())
    assert float(torch.stack(covered).mean()) == pytest.approx(coverage, abs=0.01)


def test_a_more_probable_class_comes_first_and_too_few_images_exclude_none():
    probabilities, labels, uniform = drawn(50, 0, 1.0)
    scores = adaptive_scores(probabilities, uniform)
    right = scores.gather(1, labels[:, None])[:, 0].sort().values
    sets = prediction_sets(scores, right, 0.9)
    sizes = sets.sum(dim=1)
    ranks = probabilities.argsort(dim=1, descending=True).argsort(dim=1)
    assert torch.equal(sets, ranks < sizes[:, None])
    assert prediction_sets(scores, right, 0.99).all()
