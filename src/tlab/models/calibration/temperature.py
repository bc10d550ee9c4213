"""A temperature for logits (Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2)."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from tlab.models.calibration.reliability import expected_error, reliability

LOWEST, HIGHEST = 0.05, 20.0  # a temperature at one of them is none: the images do not determine it
HALVINGS = 30  # of the range of log(1 / temperature), which is 6 wide
MOST_LOGITS = 2**22  # from which one number is fitted; more would take long


class Temperature(NamedTuple):
    """What a checkpoint says of its temperature.

    Attributes:
        value: What logits are divided by; 1 where there is none.
        lowers_nll: Whether it lowers the loss of validation images other than those that it was fitted on.
    """

    value: float = 1.0
    lowers_nll: bool = False

    def applied(self, calibrate: str | bool | None) -> float:
        """Return what logits are to be divided by.

        Args:
            calibrate: True: the temperature; false: 1; `auto`: the temperature where it lowers the loss.
        """
        wanted = calibrate if isinstance(calibrate, bool) else self.lowers_nll
        return self.value if wanted else 1.0


def is_temperature(value: Any) -> bool:
    """Tell whether a value of a file can be a temperature."""
    return type(value) in (int, float) and LOWEST <= value <= HIGHEST


def temperature_of(about: Mapping[str, Any]) -> Temperature:
    """Return the temperature of what a checkpoint says about its network; 1 for one that has none."""
    calibration = about.get("calibration")
    lowers = isinstance(calibration, dict) and calibration.get("lowers_nll") is True
    return Temperature(float(about.get("temperature") or 1.0), lowers)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Return the temperature with the least loss on validation images, and what it changes, as plain data.

    The loss is the negative log-likelihood (NLL) of softmax(logits / temperature), whatever the run trained with.
    The least one is never above that of temperature 1, so what the temperature is good for is told by images that
    it was not fitted on: each half of them (every other one) is scaled by the temperature of the other half.

    Args:
        logits: `N K`, in the order of the split.
        labels: `N`.

    Returns:
        `temperature`, and `calibration`: number of `images`; whether it `lowers_nll`; `nll` and `ece` as they are,
        `nll_scaled` and `ece_scaled` of the halves scaled by each other; and of both the `reliability`. Empty where
        the logits are not finite.
    """
    z = logits.astype(np.float64)
    if not len(z) or not np.isfinite(z).all():
        return {}
    z -= z.max(axis=1, keepdims=True)
    temperature = _best_temperature(z, labels)
    scales = np.full(len(z), temperature)
    if len(z) > 1:
        scales[0::2], scales[1::2] = (
            _best_temperature(z[1::2], labels[1::2]),
            _best_temperature(z[0::2], labels[0::2]),
        )
    correct = logits.argmax(axis=1) == labels
    found: dict[str, Any] = {"images": len(z)}
    for name, divisors in (("", np.ones(len(z))), ("_scaled", scales)):
        scaled = z / divisors[:, None]
        sums = reliability(1 / np.exp(scaled).sum(axis=1), correct)  # the largest logit is 0
        found[f"nll{name}"] = _nll(scaled, labels)
        found[f"ece{name}"] = expected_error(sums)
        found[f"reliability{name}"] = sums.tolist()
    lowers = temperature != 1 and found["nll_scaled"] < found["nll"]
    return {"temperature": temperature, "calibration": {**found, "lowers_nll": lowers}}


def every_of(images: int, classes: int) -> int:
    """Return of how many validation images one is enough to fit on, see `CollectedLogits`."""
    return max(1, math.ceil(images * classes / MOST_LOGITS))


def _best_temperature(z: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature with the least loss; 1 where that is at a bound, or no less than with 1.

    The loss is convex in 1 / temperature, so its slope has one zero, which is found by bisection.
    """
    own, bounds = z[np.arange(len(z)), labels].mean(), (-math.log(HIGHEST), -math.log(LOWEST))
    low, high = bounds  # of log(1 / temperature)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        p = np.exp(z * math.exp(middle))
        slope = ((p * z).sum(axis=1) / p.sum(axis=1)).mean() - own
        low, high = (middle, high) if slope <= 0 else (low, middle)
    found = math.exp(-low)
    return 1.0 if low == bounds[0] or high == bounds[1] or _nll(z / found, labels) >= _nll(z, labels) else found


def _nll(z: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean negative log-likelihood of logits `N K` whose largest is 0."""
    return float((np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(z)), labels]).mean())
