"""Probes of frozen features."""

import os

import numpy as np
import pytest

from tlab.advising.probes import assign_folds, mean_and_error, neighbors, probe, score_cut, score_stages
from tlab.core.files import cache_dir
from tlab.core.locks import FileLock


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
    (told, blind), _ = score_stages({"told": features, "noise": noise}, labels, None, 3)
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
    single, whole = assign_folds(labels, None), assign_folds(labels, names)
    leaky, error = mean_and_error(probe(features, labels, single, 2), single, np.arange(120))
    honest, error_of_groups = mean_and_error(probe(features, labels, whole, 2), whole, members)
    assert leaky > 0.9 > 0.8 > honest
    assert error_of_groups > error


def test_one_image_of_a_class_is_never_held_out():
    labels = np.array([0] * 10 + [1] * 10 + [2])
    folds = assign_folds(labels, None)
    assert folds[-1] == -1
    features, _ = clouds(21)
    assert not probe(features, labels, folds, 3)[-1]


def test_the_best_of_several_stages_that_know_nothing_is_worth_nothing():
    """Each of 20 stages is right by chance; the best of them seems to lead, and picked on other images does not."""
    folds, members = np.arange(200) % 5, np.arange(200)
    stages, seeming, leads, errors = [f"stage{number}" for number in range(21)], [], [], []
    for seed in range(30):
        right = np.random.default_rng(seed).random((21, 200)) < 0.5
        cut = score_cut(stages, right, folds, members)
        seeming.append(right[:-1].mean(axis=1).max() - right[-1].mean())
        assert cut.accuracy - right[-1].mean() == pytest.approx(cut.lead)
        assert right[stages.index(cut.stage)].mean() == right[:-1].mean(axis=1).max()
        leads.append(cut.lead)
        errors.append(cut.error)
    assert np.mean(seeming) > 0.05
    assert abs(np.mean(leads)) < 0.02
    assert np.std(leads) == pytest.approx(np.mean(errors), rel=0.5)


def test_a_stage_that_knows_more_keeps_its_lead_and_one_alone_cannot_be_cut():
    folds, members = np.arange(100) % 5, np.arange(100)
    weak, strong, whole = np.arange(100) % 2 == 0, np.arange(100) % 10 > 0, np.arange(100) % 4 > 0
    cut = score_cut(["a", "b", "c"], np.array([weak, strong, whole]), folds, members)
    assert (cut.stage, cut.accuracy, cut.lead) == ("b", pytest.approx(0.9), pytest.approx(0.15))
    alike = score_cut(["a", "b", "c"], np.array([strong, strong, strong]), folds, members)
    assert (alike.stage, alike.lead, alike.error) == ("b", 0, 0)  # of equals the deepest
    assert score_cut(["c"], np.array([whole]), folds, members) is None
    assert score_cut(["a", "c"], np.array([weak, whole]), np.full(100, -1), members) is None


def test_nobody_waits_while_a_stage_is_probed(monkeypatch):
    """Another process gets the lock of what is kept in the meantime."""
    waits = []

    def slow(*_: object) -> dict[str, object]:
        file = cache_dir() / ".probes.json.lock"
        if (child := os.fork()) == 0:
            os._exit(0 if FileLock(file).acquire(wait=False) else 1)
        waits.append(os.waitpid(child, 0)[1])
        return {"features": 4, "accuracy": 1.0, "error": 0.0, "neighbors": 1.0, "logme": 0.0, "right": "ff"}

    monkeypatch.setattr("tlab.advising.probes.score_stage", slow)
    features, labels = clouds(8, 2, apart=1.5)
    score_stages({"a": features, "b": features}, labels, None, 2)
    assert waits == [0]  # b was known by then
