"""The advice: what to expect of every backbone and plan, and which to take."""

import warnings
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from omegaconf import DictConfig
from PIL import Image

from tlab.advising.candidates import Candidate
from tlab.advising.choice import PLANS, Case, Constants, Expectation
from tlab.advising.duration import measure_speeds, plan_seconds, reading_seconds
from tlab.advising.evidence import Evidence
from tlab.advising.rule import RuleAnswer, course_rule
from tlab.assembly.precision_and_compile import choose_precision
from tlab.config.overrides import as_override
from tlab.data.datamodule import ImageDataModule

SIZED = 200  # images whose own size is looked at
STEP, SMALLEST = 32, 64  # pixels: sizes are multiples of the one, and not below the other


@dataclass(frozen=True)
class Option:
    """One plan of one backbone.

    Attributes:
        plan: A key of `choice.PLANS`.
        upto: Stage at which the network is cut; None: it is not.
        expected: Expected accuracy on val.
        seconds: Duration of the run on this machine.
        margin: Lead over the default plan that may be chance.
    """

    plan: str
    upto: str | None
    expected: Expectation
    seconds: float
    margin: float


@dataclass(frozen=True)
class Measured:
    """A candidate, its configuration, and what was found.

    Attributes:
        candidate: The candidate.
        cfg: Configuration of a run with it.
        evidence: What was measured.
        options: Plan -> what to expect of it.
        chosen: The one to take.
        rule: What the course's rule answers.
    """

    candidate: Candidate
    cfg: DictConfig
    evidence: Evidence
    options: dict[str, Option]
    chosen: Option
    rule: RuleAnswer

    @property
    def by_rule(self) -> Option:
        """What the course's rule takes; the head where the network cannot be cut."""
        return self.options.get(self.rule.plan, self.options["head"])

    def plain(self) -> dict[str, Any]:
        """Return what was found as plain data."""
        evidence = self.evidence
        return {
            "backbone": self.candidate.backbone,
            "weights": evidence.weights,
            "image_size": self.cfg.data.image_size,
            "images": evidence.images,
            "classes": evidence.classes,
            "stages": [asdict(stage) for stage in evidence.stages],
            "similarity": asdict(evidence.similarity),
            "plans": [
                {"plan": each.plan, "upto": each.upto, "expected": asdict(each.expected), "seconds": each.seconds}
                for each in self.options.values()
            ],
            "rule": asdict(self.rule),
        }

    @property
    def settings(self) -> list[str]:
        """The overrides that the advice adds."""
        cut = [] if self.chosen.upto is None else [as_override("backbone.upto", self.chosen.upto)]
        return [
            f"data.image_size={self.cfg.data.image_size}",
            f"finetune={PLANS[self.chosen.plan]}",
            *cut,
            f"trainer.max_epochs={self.cfg.trainer.max_epochs}",
        ]


def measured(
    candidate: Candidate, cfg: DictConfig, data: ImageDataModule, evidence: Evidence, constants: Constants
) -> Measured:
    """Return a candidate with what each plan is expected to give.

    Args:
        candidate: The candidate.
        cfg: Configuration of a run with it.
        data: The images, set up.
        evidence: What was measured.
        constants: What was learned from the runs of a grid.
    """
    cut = evidence.best_cut
    case = Case(evidence.last.accuracy, cut.accuracy if cut is not None else None)
    precision = choose_precision(cfg, evidence.net, head_only=False)
    speeds, reading = measure_speeds(cfg, evidence.net, precision), reading_seconds(data)
    train, val = (len(data.index.splits.get(split, ())) for split in ("train", "val"))
    epochs, head_epochs = cfg.trainer.max_epochs, cfg.finetune.head_epochs or 0
    options = {}
    for plan in case.plans:
        upto = cut.stage if plan == "cut" and cut is not None else None
        seconds = plan_seconds(plan, speeds, reading, train, val, epochs, head_epochs)
        options[plan] = Option(plan, upto, constants.expect(plan, case, val), seconds, constants.margin(plan))
    rule = course_rule(evidence.images_per_class, evidence.similarity, constants.similar)
    return Measured(candidate, cfg, evidence, options, options[constants.choose(case)], rule)


def choose_image_size(data: ImageDataModule, made_for: int) -> int:
    """Return the size at which images are seen: as the weights saw them, or smaller where the images are smaller.

    It is the median of the shorter sides of some images, rounded up to a multiple of `STEP`.

    Args:
        data: The images, set up.
        made_for: Side of the images that the backbone was made for, in pixels.
    """
    samples = data.samples("train")
    step = max(1, len(samples) // SIZED)
    sides = []
    for number in range(0, len(samples), step):
        with suppress(Exception), warnings.catch_warnings():  # whatever a damaged file makes of the reader
            warnings.simplefilter("ignore")
            with Image.open(samples[number].file) as image:
                sides.append(min(image.size))
    if not sides:
        return made_for
    fitting = -(-int(np.median(sides)) // STEP) * STEP
    return min(made_for, max(SMALLEST, fitting))
