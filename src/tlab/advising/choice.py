"""The measured choice: the accuracy to expect of each plan, by what was learned from the runs of a grid."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from tlab.advising.rule import Thresholds

CONSTANTS = "constants.json"  # written by benchmarks/advice_grid.py, never by hand
PLANS = {  # plan -> choice of finetune; cut is a head behind an earlier stage
    **{"head": "head", "cut": "head", "last": "last", "lp_ft": "lp_ft", "full": "full"},
}
NORMAL = 1.644854  # 90 % of a normal distribution lie within plus and minus
DEFAULT = "lp_ft"  # that of tlab.train, and what Kumar et al. 2022 recommend


@dataclass(frozen=True)
class Case:
    """What the expectation follows from: accuracies of a linear probe, in 0..1.

    Attributes:
        probe: On what a head would get.
        cut_probe: On the stage that is picked as the best before the last one; None where there is none.
        cut_error: Standard error of its lead over the other, on the images at hand.
        error: Standard error of the probes.
    """

    probe: float
    cut_probe: float | None
    cut_error: float = 0.0
    error: float = 0.0

    @property
    def plans(self) -> list[str]:
        """The plans that are possible."""
        return [plan for plan in PLANS if plan != "cut" or self.cut_probe is not None]

    def base(self, plan: str) -> float:
        """Return the accuracy of the probe on which a plan builds."""
        return self.cut_probe if plan == "cut" and self.cut_probe is not None else self.probe


@dataclass(frozen=True)
class Expectation:
    """Accuracy to expect on val.

    Attributes:
        score: The prediction as it comes, by which plans are compared.
        mean: The same within 0..1.
        low: Lower end of the 90 % interval of what a run will measure.
        high: Upper end.
    """

    score: float
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Constants:
    """What each plan gains over the probe on which it builds, the mean over a grid of runs, and how sure that is.

    Attributes:
        gains: Plan -> gain in accuracy.
        doubts: Plan -> standard error, for a data set that was left out, of its lead over the default plan.
        spread: Standard deviation of the accuracy around the prediction for a data set that was left out, beyond
            those of the probe and of a sample of images.
        reach: Half of the 90 % interval, in standard deviations, that holds 90 % of the runs on data sets left out.
        quantile: Of Student's t distribution, for a lead that is known to 90 %, with one degree of freedom less
            than the grid has data sets.
        similar: From which similarity on images are like those of the pretraining.
        epochs: Length of the runs of the grid.
        image_size: Side of their images in pixels.
    """

    gains: Mapping[str, float]
    doubts: Mapping[str, float]
    spread: float
    reach: float
    quantile: float
    similar: Thresholds
    epochs: int
    image_size: int

    @classmethod
    def read(cls) -> "Constants":
        """Return the constants that come with tlab."""
        text = (resources.files("tlab") / "advising" / CONSTANTS).read_text(encoding="utf-8")
        values: dict[str, Any] = json.loads(text)
        own = {name: values[name] for name in cls.__dataclass_fields__}
        return cls(**{**own, "similar": Thresholds(**own["similar"])})

    def score(self, plan: str, case: Case) -> float:
        """Return the expected accuracy of a plan, as it comes."""
        return case.base(plan) + self.gains[plan]

    def margin(self, plan: str, case: Case) -> float:
        """Return the lead over the default plan that may be chance, in the grid or in the images at hand."""
        error = case.cut_error if plan == "cut" else 0.0
        return math.hypot(self.quantile * self.doubts[plan], NORMAL * error)

    def choose(self, case: Case) -> str:
        """Return the plan to take: the default one, unless another leads by more than its margin.

        Where nothing tells clearly, the plan that needs no luck is better than the one that has had it.
        """
        return max(case.plans, key=lambda plan: self.score(plan, case) - self.margin(plan, case))

    def expect(self, plan: str, case: Case, images: int) -> Expectation:
        """Return what to expect of a plan.

        Args:
            plan: A key of `PLANS`.
            case: What was measured.
            images: Number of validation images; 0 stands for very many.
        """
        score = self.score(plan, case)
        mean = min(max(score, 0.0), 1.0)
        half = self.reach * math.hypot(self.spread, case.error, sampling_error(mean, images))
        return Expectation(score, mean, max(mean - half, 0.0), min(mean + half, 1.0))


def sampling_error(share: float, images: int) -> float:
    """Return the standard error of a share of so many images; 0 images stand for very many.

    Two of each kind are added to them, as by Agresti & Coull 1998 ("Approximate is better than 'exact' for interval
    estimation of binomial proportions"): at 0 and 1 a sample would seem to have no error.
    """
    share = (share * images + 2) / (images + 4)
    return math.sqrt(share * (1 - share) / images) if images else 0.0
