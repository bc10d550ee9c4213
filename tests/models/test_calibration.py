"""Temperature, reliability, and measures with intervals, on made logits."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassAUROC,
    MulticlassCalibrationError,
    MulticlassCohenKappa,
    MulticlassF1Score,
)

from tlab.models.calibration import measures as of_measures
from tlab.models.calibration.collected_logits import CollectedLogits
from tlab.models.calibration.measures import calibration_measures, measures
from tlab.models.calibration.temperature import every_of, fit_temperature, temperature_of


def made(images: int, classes: int, sharpness: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose softmax would be right at temperature `sharpness`, and labels drawn from it, class by class."""
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 1.5, (images, classes))
    shares = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    labels = np.array([rng.choice(classes, p=p) for p in shares])
    order = np.argsort(labels, kind="stable")
    return (sharpness * z[order]).astype(np.float32), labels[order]


def torchmetrics_of(logits, labels, temperature):
    p, y, number = torch.tensor(logits / temperature).softmax(dim=1), torch.tensor(labels), logits.shape[1]
    own = p[torch.arange(len(y)), y]
    return {
        "accuracy": MulticlassAccuracy(number, average="micro")(p, y),
        "ece": MulticlassCalibrationError(number, n_bins=15, norm="l1")(p, y),
        "nll": -own.log().mean(),
        "brier": (p - torch.nn.functional.one_hot(y, number)).square().sum(dim=1).mean(),
        "balanced_accuracy": MulticlassAccuracy(number, average="macro")(p, y),
        "macro_f1": MulticlassF1Score(number, average="macro")(p, y),
        "auroc": MulticlassAUROC(number, average="macro", thresholds=None)(p, y),
        "kappa": MulticlassCohenKappa(number)(p, y),
    }


@pytest.mark.parametrize(("classes", "temperature"), [(2, 1.0), (5, 0.4), (5, 3.0), (5, 0.001)])
def test_measures_are_those_of_torchmetrics(classes, temperature):
    """Also where probabilities are 1 and tied, as with the least temperature."""
    logits, labels = made(400, classes)
    if temperature == 0.001:
        logits = logits.round()
    found = measures(logits, labels, temperature)
    expected = torchmetrics_of(logits.astype(np.float64), labels, temperature)
    for name, value in expected.items():
        if torch.isfinite(value):
            assert found[name].value == pytest.approx(float(value), abs=1e-5), name
        assert found[name].low <= found[name].value <= found[name].high, name
    assert calibration_measures(logits, labels, temperature) == {name: found[name] for name in ("nll", "ece")}


def test_intervals_are_percentiles_over_images_drawn_with_replacement(monkeypatch):
    monkeypatch.setattr(of_measures, "DRAWS", 60)
    logits, labels = made(90, 3)
    found, rng = measures(logits, labels, 2.0), np.random.default_rng(0)
    drawn = [torchmetrics_of(logits[i], labels[i], 2.0) for i in rng.integers(0, 90, (60, 90))]
    for name, measure in found.items():
        if name in ("accuracy", "ece"):  # see below
            continue
        low, high = np.percentile([float(each[name]) for each in drawn], (2.5, 97.5))
        assert (measure.low, measure.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4)), name


@pytest.mark.parametrize(("sharpness", "low_is_0"), [(1.0, (0.92, 1.0)), (1.5, (0.0, 0.5)), (3.0, (0.0, 0.0))])
def test_the_interval_of_ece_has_the_value_of_many_images_about_as_often_as_it_says(
    monkeypatch, sharpness, low_is_0
):
    monkeypatch.setattr(of_measures, "DRAWS", 200)
    many = torchmetrics_of(*made_at_once(400_000, sharpness, seed=99), 1.0)["ece"] if sharpness > 1 else 0.0
    found = [calibration_measures(*made_at_once(300, sharpness, seed))["ece"] for seed in range(150)]
    assert all(0 <= each.low <= each.value <= each.high <= 1 for each in found)
    assert np.mean([each.low <= many <= each.high for each in found]) >= 0.92
    assert low_is_0[0] <= np.mean([each.low == 0 for each in found]) <= low_is_0[1]


def made_at_once(images, sharpness, seed):
    """As `made`, in one draw."""
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 1.5, (images, 4))
    labels = (z + rng.gumbel(size=z.shape)).argmax(axis=1)
    return (sharpness * z).astype(np.float32), labels


def test_a_class_without_an_image_has_no_part_and_what_cannot_be_had_is_none():
    logits, labels = made(120, 4)
    labels[labels == 3] = 0
    found = measures(logits, labels)
    right = logits.argmax(axis=1) == labels
    assert found["balanced_accuracy"].value == pytest.approx(np.mean([right[labels == k].mean() for k in range(3)]))
    assert 0 < found["auroc"].value < 1
    alone = measures(logits, np.ones(120, np.int64))
    assert alone["auroc"] is None
    assert alone["accuracy"] is not None
    assert measures(logits[:1], logits[:1].argmax(axis=1))["kappa"] is None
    one = measures(np.zeros((5, 1), np.float32), np.zeros(5, np.int64))
    assert (one["accuracy"].value, one["auroc"], one["kappa"]) == (1, None, None)
    assert one["accuracy"].low == pytest.approx(0.5655, abs=1e-4)  # which a bootstrap would put at 1


def test_the_temperature_is_the_one_of_the_least_nll():
    logits, labels = made(3000, 5, sharpness=2.5)
    found = fit_temperature(logits, labels)
    assert found["temperature"] == pytest.approx(2.5, rel=0.1)
    of_scipy = minimize_scalar(lambda t: nll_of(logits, labels, t), bounds=(0.05, 20), method="bounded")
    assert found["temperature"] == pytest.approx(of_scipy.x, rel=1e-4)
    calibration = found["calibration"]
    assert calibration["nll"] == pytest.approx(nll_of(logits, labels, 1.0))
    assert of_scipy.fun <= calibration["nll_scaled"] < calibration["nll"]
    assert calibration["ece_scaled"] < calibration["ece"] / 3
    assert np.array(calibration["reliability"])[0].sum() == calibration["images"] == 3000
    about = {**found, "classes": ["a"]}
    assert temperature_of(about).applied("auto") == temperature_of(about).applied(True) == found["temperature"]
    assert temperature_of(about).applied(False) == temperature_of({}).applied(True) == 1


def nll_of(logits, labels, temperature):
    z = torch.tensor(logits, dtype=torch.float64) / temperature
    return float(torch.nn.functional.cross_entropy(z, torch.tensor(labels)))


def test_a_temperature_that_other_images_do_not_confirm_is_left_out():
    kept = {seed: fit_temperature(*made(30, 5, seed=seed)) for seed in range(20)}
    lowers = [each["calibration"]["lowers_nll"] for each in kept.values()]
    assert sum(lowers) < 10
    for each in kept.values():
        expected = each["calibration"]["nll_scaled"] < each["calibration"]["nll"] and each["temperature"] != 1
        assert each["calibration"]["lowers_nll"] == expected


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        ([[3, 0], [2, 0], [0, 1], [0, 4]], [0, 0, 1, 1]),  # all right: the colder the better
        ([[3, 0], [2, 0], [0, 1], [0, 4]], [1, 1, 0, 0]),  # all wrong
        ([[0, 0]] * 4, [0, 0, 1, 1]),
        ([[1]] * 3, [0] * 3),
        ([[5, 1]], [0]),
    ],
)
def test_images_that_do_not_determine_a_temperature_leave_it_at_1(logits, labels):
    found = fit_temperature(np.array(logits, np.float32), np.array(labels))
    assert found["temperature"] == 1
    assert not found["calibration"]["lowers_nll"]


def test_there_is_no_temperature_of_logits_that_are_not_finite():
    assert fit_temperature(np.array([[np.inf, 0]], np.float32), np.array([0])) == {}


def test_logits_are_collected_in_the_order_of_the_split_and_of_very_many_images_some():
    logits, labels = (torch.tensor(each) for each in made(50, 3))
    collected, some = CollectedLogits(), CollectedLogits(every_of(50, 2**18))
    for batch in torch.randperm(50, generator=torch.Generator().manual_seed(0)).split(7):
        for each in (collected, some):
            each.add(logits[batch], labels[batch], batch)
    assert [each.tolist() for each in collected.arrays()] == [logits.tolist(), labels.tolist()]
    assert some.every == 4
    assert [each.tolist() for each in some.arrays()] == [logits[::4].tolist(), labels[::4].tolist()]
