"""Who trains when and at which rate."""

from tlab.finetuning.callback import BackboneFinetuning
from tlab.finetuning.ema import EMA
from tlab.finetuning.features import FrozenPrefix
from tlab.finetuning.l2_sp import L2SP
from tlab.finetuning.lr_finder_callback import LearningRateFinder
from tlab.finetuning.plan import Phase, Plan, Until, build_plan
from tlab.finetuning.randomness import AddressedRandomness
from tlab.finetuning.state import PhaseRecord, RunState

__all__ = [
    "EMA",
    "L2SP",
    "AddressedRandomness",
    "BackboneFinetuning",
    "FrozenPrefix",
    "LearningRateFinder",
    "Phase",
    "PhaseRecord",
    "Plan",
    "RunState",
    "Until",
    "build_plan",
]
