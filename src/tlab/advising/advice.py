"""The advice: what to expect of every backbone and plan, and which to take."""

from dataclasses import asdict, dataclass
from typing import Any

from omegaconf import DictConfig

from tlab.advising.candidates import Candidate
from tlab.advising.choice import PLANS, Constants, Expectation
from tlab.advising.duration import measure_speeds, plan_seconds, reading_seconds
from tlab.advising.evidence import Evidence
from tlab.advising.rule import RuleAnswer, cs231n_rule
from tlab.assembly.precision_and_compile import choose_precision
from tlab.config.overrides import as_override
from tlab.data.datamodule import ImageDataModule


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
        size: Why the images have their size, in words.
        options: Plan -> what to expect of it.
        chosen: The one to take.
        rule: What the rule of the CS231n notes answers.
    """

    candidate: Candidate
    cfg: DictConfig
    evidence: Evidence
    size: str
    options: dict[str, Option]
    chosen: Option
    rule: RuleAnswer

    @property
    def by_rule(self) -> Option:
        """What the rule of the CS231n notes takes; the head where the network cannot be cut."""
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
            "cut": asdict(evidence.cut) if evidence.cut is not None else None,
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
    candidate: Candidate,
    cfg: DictConfig,
    data: ImageDataModule,
    evidence: Evidence,
    size: str,
    constants: Constants,
) -> Measured:
    """Return a candidate with what each plan is expected to give.

    Args:
        candidate: The candidate.
        cfg: Configuration of a run with it.
        data: The images, set up.
        evidence: What was measured.
        size: Why the images have their size, in words.
        constants: What was learned from the runs of a grid.
    """
    case, cut = evidence.case, evidence.cut
    precision = choose_precision(cfg, evidence.net, head_only=False)
    speeds, reading = measure_speeds(cfg, evidence.net, precision), reading_seconds(data)
    train, val = (len(data.index.splits.get(split, ())) for split in ("train", "val"))
    epochs, head_epochs = cfg.trainer.max_epochs, cfg.finetune.head_epochs or 0
    options = {}
    for plan in case.plans:
        upto = cut.stage if plan == "cut" and cut is not None else None
        seconds = plan_seconds(plan, speeds, reading, train, val, epochs, head_epochs)
        options[plan] = Option(plan, upto, constants.expect(plan, case, val), seconds, constants.margin(plan, case))
    rule = cs231n_rule(evidence.images_per_class, evidence.similarity, constants.similar)
    return Measured(candidate, cfg, evidence, size, options, options[constants.choose(case)], rule)
