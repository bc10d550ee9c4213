"""Probes of frozen features."""

import numpy as np
import pytest

from tlab.advising.probes import assign_folds, neighbors, probe, score_stages


def clouds(
    images: int = 60, classes: int = 3, width: int = 4, apart: float = 20.0
) -> tuple[np.ndarray, np.ndarray]:
    """Noise around a corner of its own for each class, in turn."""
    labels = np.arange(images) % classes
    noise = np.random.default_rng(0).normal(size=(images, width)).astype(np.float32)
    return noise + apart * np.eye(classes, width, dtype=np.float32)[labels], labels


def test_separable_classes_are_told_without_a_mistake_and_noise_by_chance():
    features, labels = clouds()
    noise, _ = clouds(apart=0)
    told, blind = score_stages({"told": features, "noise": noise}, labels, None, 3)
    assert (told.stage, told.features, told.accuracy, told.error, told.neighbors) == ("told", 4, 1, 0, 1)
    assert blind.accuracy < 0.6
    assert blind.neighbors < 0.6
    assert blind.error == pytest.approx(np.sqrt(blind.accuracy * (1 - blind.accuracy) / 60))
    assert told.logme > blind.logme


def test_scores_are_kept_by_the_features_themselves(monkeypatch):
    features, labels = clouds(apart=3)
    first = score_stages({"a": features}, labels, None, 3)
    monkeypatch.setattr("tlab.advising.probes.score_stage", lambda *_: pytest.fail("it was known"))
    assert score_stages({"a": features.copy()}, labels, None, 3) == first
    with pytest.raises(pytest.fail.Exception, match="it was known"):
        score_stages({"a": features + 1}, labels, None, 3)


def test_every_fold_has_every_class_and_a_group_is_in_one():
    labels = np.arange(60) % 3
    folds = assign_folds(labels, None)
    assert np.bincount(folds).tolist() == [12] * 5
    assert all(set(labels[folds == fold]) == {0, 1, 2} for fold in range(5))
    groups = [f"person {number // 6}" for number in range(60)]
    folds = assign_folds(labels, groups)
    assert all(len(set(folds[start : start + 6])) == 1 for start in range(0, 60, 6))


def test_an_image_of_its_own_group_tells_nothing():
    """Of each image there are six near copies, and labels are random: only the copies know them."""
    rng = np.random.default_rng(0)
    members = np.repeat(np.arange(20), 6)
    labels = rng.integers(0, 2, 20)[members]
    features = rng.normal(size=(20, 8))[members] + 0.01 * rng.normal(size=(120, 8))
    assert neighbors(features, labels, np.arange(120), 2) == 1
    assert neighbors(features, labels, members, 2) < 0.8
    names = [str(member) for member in members]
    leaky, error = probe(features, labels, assign_folds(labels, None), np.arange(120), 2)
    honest, error_of_groups = probe(features, labels, assign_folds(labels, names), members, 2)
    assert leaky > 0.9 > 0.8 > honest
    assert error_of_groups > error


def test_one_image_of_a_class_is_never_held_out():
    labels = np.array([0] * 10 + [1] * 10 + [2])
    folds = assign_folds(labels, None)
    assert folds[-1] == -1
    features, _ = clouds(21)
    accuracy, _ = probe(features, labels, folds, np.arange(21), 3)
    assert 0 <= accuracy <= 1
