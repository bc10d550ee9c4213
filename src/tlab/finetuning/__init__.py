"""Fine-tuning: which stages train in which phase, and at which learning rate."""

from tlab.finetuning.backbone_finetuning import BackboneFinetuning
from tlab.finetuning.ema import EMA
from tlab.finetuning.features.cache import FeatureCache
from tlab.finetuning.l2_sp import L2SP
from tlab.finetuning.lr_finder import LearningRateFinder
from tlab.finetuning.plan import Phase, Plan, Until, build_plan
from tlab.finetuning.run_state import PhaseRecord, RunState
from tlab.finetuning.step_seeding import AddressedRandomness

__all__ = [
    "EMA",
    "L2SP",
    "AddressedRandomness",
    "BackboneFinetuning",
    "FeatureCache",
    "LearningRateFinder",
    "Phase",
    "PhaseRecord",
    "Plan",
    "RunState",
    "Until",
    "build_plan",
]
