"""Who trains when and at which rate."""

from tlab.finetuning.callback import BackboneFinetuning
from tlab.finetuning.plan import Phase, Plan, build_plan

__all__ = ["BackboneFinetuning", "Phase", "Plan", "build_plan"]
