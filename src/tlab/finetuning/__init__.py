"""Who trains when and at which rate."""

from tlab.finetuning.callback import BackboneFinetuning
from tlab.finetuning.lr_finder_callback import LearningRateFinder
from tlab.finetuning.plan import Phase, Plan, Until, build_plan
from tlab.finetuning.randomness import AddressedRandomness

__all__ = [
    "AddressedRandomness",
    "BackboneFinetuning",
    "LearningRateFinder",
    "Phase",
    "Plan",
    "Until",
    "build_plan",
]
