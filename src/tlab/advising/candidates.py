"""The backbones that a command line names, as overrides of runs, and the command that carries out the advice."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from tlab.config.overrides import as_override, key_and_value, values
from tlab.core.errors import UserError
from tlab.core.text import counted, shell_command

CHOSEN = ("finetune", "backbone.upto", "head.pooling", "advice")  # what advice is about
SET = ("backbone", "backbone.weights", "data.image_size", "trainer.max_epochs")  # what the command says last


@dataclass(frozen=True)
class Candidate:
    """A backbone to be measured.

    Attributes:
        backbone: Its choice of the group.
        weights: Its `backbone.weights`; None for random ones.
        others: The overrides of the command line that are not of backbone and weights.
    """

    backbone: str
    weights: Any
    others: tuple[str, ...]

    @property
    def overrides(self) -> list[str]:
        """Overrides of a run with this backbone."""
        own = [f"backbone={self.backbone}", as_override("backbone.weights", self.weights)]
        return [*self.others, *own]

    def command(self, config_dirs: Sequence[str], settings: Sequence[str]) -> str:
        """Return the command that trains this backbone, as bash takes it.

        Args:
            config_dirs: Arguments that name more folders of YAML files.
            settings: Overrides that the advice adds.
        """
        kept = [override for override in self.others if key_and_value(override)[0] not in SET]
        own = [override for override in self.overrides if override not in self.others]
        return shell_command(["python", "-m", "tlab.train", *config_dirs, *kept, *own, *settings])


def read_candidates(overrides: Sequence[str]) -> list[Candidate]:
    """Return the candidates that the overrides of a command line name.

    Without `backbone` they are those whose weights are at hand: EfficientNet-Lite0 where its package is there, and
    the bundled MobileNetV3. `backbone.weights` is that of all, or a list in the order of the backbones; without it
    they are those at hand, else `DEFAULT`, as for tlab.train.

    Raises:
        UserError: Another key has several values, one is set that the advice is about, or the numbers differ.
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    named: dict[str, list[Any]] = {}
    others = []
    for one, text in zip(parsed, overrides, strict=True):
        key = one.key_or_group
        if key in ("backbone", "backbone.weights") and not one.is_delete():
            named[key] = values(one)
            continue
        if any(key == each or key.startswith(f"{each}.") for each in CHOSEN):
            raise UserError(f"{text}: tlab.advise chooses {key} itself; leave it out")
        if one.is_sweep_override():
            raise UserError(f"{text}: tlab.advise takes several values of backbone alone; give one value of {key}")
        others.append(text)
    from tlab.models.packaged_weights import weights_at_hand  # imports torch

    at_hand = weights_at_hand()
    backbones = [str(name) for name in named.get("backbone", at_hand)]
    weights = named.get("backbone.weights", [at_hand.get(name, "DEFAULT") for name in backbones])
    if len(weights) == 1:
        weights = weights * len(backbones)
    if len(weights) != len(backbones):
        raise UserError(
            f"backbone.weights has {len(weights)} values for {counted(backbones, 'backbone')}; give one for all, "
            "or one for each, in their order"
        )
    return [Candidate(*each, tuple(others)) for each in zip(backbones, weights, strict=True)]
