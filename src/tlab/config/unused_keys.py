"""Refuses command-line keys that have no effect in any run of the command.

Keys set by YAML files and Hydra's own are not checked. `RULES` lists the choices that leave keys without effect.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from tlab.config.overrides import given_keys
from tlab.core.errors import UserError
from tlab.core.nested import leaves

MOST = 100  # runs to compose, at 0.1 s each, in search of one that uses a key


class Reason(NamedTuple):
    """Why a key has no effect in a run."""

    setting: str  # that leaves it without effect, as typed: `finetune=full`
    why: str  # that setting does so
    instead: str  # a setting that would give it an effect; "" if there is none


class Run:
    """The configuration of one run, with the queries that the rules need.

    Args:
        cfg: The composed configuration.
        choices: Choice of each configuration group (`finetune` -> `full`); None: those in its node `hydra`.
        given: Overrides that the run was given; None: all of the command's.
        alone: Whether the run is not part of a sweep.
    """

    def __init__(
        self,
        cfg: DictConfig,
        choices: Mapping[str, Any] | None = None,
        given: Sequence[str] | None = None,
        alone: bool = False,
    ) -> None:
        self.cfg = cfg
        self.choices = cfg.hydra.runtime.choices if choices is None else choices
        self.given = None if given is None else set(given_keys(given))
        self.alone = alone
        self.phases = {name: phase for name, phase in cfg.finetune.phases.items() if phase and phase.epochs != 0}
        self._referred = _referred(cfg)

    def value(self, key: str) -> Any:
        """Return the value of a key; None if it is null or missing."""
        return OmegaConf.select(self.cfg, key)

    def typed(self, key: str) -> str:
        """Return a group with its choice, or a key with its value, as typed."""
        value = self.choices[key] if key in self.choices else self.value(key)
        return f"{key}={'null' if value is None else value}"

    def trains(self, *parts: str) -> bool:
        """Tell whether every phase trains one of these: `head`, `last` stage, `all` stages, `some` of them."""
        return {trained_part(phase.train) for phase in self.phases.values()} <= set(parts)

    def augments(self) -> bool:
        """Tell whether images are augmented in any phase that may freeze the first stages."""
        frozen = [phase for phase in self.phases.values() if trained_part(phase.train) != "all"]
        augs = [self.cfg.aug if phase.aug is None else phase.aug for phase in frozen]
        transforms = [OmegaConf.select(aug, "transforms") or {} for aug in augs if OmegaConf.is_dict(aug)]
        return any(step is not None for steps in transforms for step in steps.values())

    def own(self, key: str) -> str | None:
        """Return the first phase's key if every phase has its own value of `key`, else None."""
        every = all(OmegaConf.select(phase, key) is not None for phase in self.phases.values())
        return f"{PHASES}{next(iter(self.phases))}.{key}" if every and self.phases else None

    def left_out(self, key: str) -> str | None:
        """Return the setting that leaves out the phase to which `key` belongs; None if the phase takes place."""
        name, _, own = key.removeprefix(PHASES).partition(".")
        epochs = f"{PHASES}{name}.epochs"
        return self.typed(epochs) if own not in ("", "epochs") and self.value(epochs) == 0 else None

    def solves(self) -> bool:
        """Tell whether `head.solver` sets the head to its optimum in every phase, so that no step is taken."""
        return self.value("head.solver") == "lbfgs" and self.trains("head")

    def solved(self, key: str) -> str | None:
        """Return the setting of `head.solver` if `key` says how steps are taken in a phase whose head is solved."""
        name, _, own = key.removeprefix(PHASES).partition(".")
        alone = name in self.phases and trained_part(self.phases[name].train) == "head"
        of_steps = own.partition(".")[0] in OF_STEPS
        return self.typed("head.solver") if alone and of_steps and self.value("head.solver") == "lbfgs" else None

    def reasons(self, key: str) -> list[Reason]:
        """Return the reasons why a key has no effect in this run; empty if it is used."""
        if self.given is not None and key not in self.given:
            return [Reason("another plan", "it is left out", "")]
        if any(f"{key}.".startswith(f"{other}.") or other.startswith(f"{key}.") for other in self._referred):
            return []
        found = []
        for keys, setting, why, instead, no_wish in RULES:
            if any(key == name or (name[-1] == "." and key.startswith(name)) for name in keys):
                blamed = None if self.value(key) in no_wish else setting(self, key)
                found += [Reason(blamed, why, instead)] if blamed else []
        return found


class Rule(NamedTuple):
    """When keys have no effect, unless another key refers to them (`${finetune.head_epochs}`)."""

    keys: tuple[str, ...]  # one that ends with a dot stands for all keys below it
    setting: Callable[[Run, str], str | None]  # returns the setting of a `Reason`, or None if the key is used
    why: str
    instead: str = ""
    no_wish: tuple[Any, ...] = ()  # values that are allowed because they ask for what happens anyway


def _where(key: str, holds: Callable[[Run], bool] = lambda _: True) -> Callable[[Run, str], str | None]:
    """Return a `Rule.setting` that blames a group or a key if a condition holds; by default it always does."""
    return lambda run, _: run.typed(key) if holds(run) else None


def _is(key: str, value: Any) -> Callable[[Run, str], str | None]:
    """Return a `Rule.setting` that blames a key if it has this value."""
    return _where(key, lambda run: run.value(key) == value)


RATES = ("finetune.backbone_lr_scale", "finetune.stage_lr_decay", "finetune.stage_lr_scales")
DECAY, L2_SP = "finetune.stage_lr_decay", "finetune.l2_sp"
SPLIT = (
    *("data.val_fraction", "data.test_fraction", "data.split_seed", "data.exclude", "data.group"),
    *("data.limit", "data.folds", "data.fold"),
)
WEIGHTS = ("backbone.weights_classes", "head.reuse")
RANDOM = "backbone.random_from"
STORED = ("features.views", "features.max_gb")
DRAWN = ("dashboards.preview_images", "dashboards.top_losses")
MIXING = "tlab.data.augment.mixup.Mixing"
ALPHAS = ("aug.mix.mixup_alpha", "aug.mix.cutmix_alpha")
PHASES = "finetune.phases."
OWN = "each phase has its own"
STEPS = ("optimizer", "optimizer.", "scheduler", "scheduler.", "checkpoint.every_n_steps")
# What says how steps are taken, with defaults: keys of a phase, and of the trainer
OF_STEPS = {"scheduler": None, "weight_decay": None, "lr_scale": 1.0}
OF_TRAINER = {"trainer.gradient_clip_val": None, "trainer.accumulate_grad_batches": 1}
OPTIMUM = "it takes no steps"


RULES = (
    Rule(
        ("finetune.head_epochs", "backbone.unfrozen_lr_scale"),
        _where("finetune"),
        "none of its phases refers to it",
        "finetune=lp_ft",
    ),
    Rule(("finetune.last_stages",), _where("finetune"), "none of its phases refers to it", "finetune=last"),
    Rule(SPLIT, _where("data"), "its images and splits are fixed", "data=folder"),
    Rule(("backbone.input_size",), _where("data.image_size"), "which says the size"),
    Rule(
        (*RATES, L2_SP),
        _where("finetune", lambda run: run.trains("head")),
        "the head alone trains",
        "finetune=lp_ft",
    ),
    Rule(
        (DECAY,),
        _where("finetune", lambda run: run.trains("head", "last") and not run.trains("head")),
        "the last stage alone trains",
        "finetune=lp_ft",
    ),
    Rule(
        (DECAY,),
        _where("finetune.stage_lr_scales", lambda run: run.value("finetune.stage_lr_scales") is not None),
        "which takes its place",
        "finetune.stage_lr_scales=null",
    ),
    Rule(
        (L2_SP, "backbone.weights", RANDOM, *WEIGHTS),
        _where("finetune", lambda run: not run.cfg.finetune.pretrained),
        "it starts from random weights",
        "finetune=full",
        no_wish=(None,),
    ),
    Rule(
        ("finetune.batchnorm",),
        _where("finetune", lambda run: not run.cfg.finetune.pretrained),
        "it starts from random weights",
        "finetune=full",
        no_wish=("pretrained",),
    ),
    Rule(
        WEIGHTS,
        _is("backbone.weights", None),
        "random weights know no classes",
        "backbone.weights=DEFAULT",
        (None,),
    ),
    Rule((RANDOM,), _is("backbone.weights", None), "every stage has some", "backbone.weights=DEFAULT", (None,)),
    Rule(
        WEIGHTS,
        _where(RANDOM, lambda run: run.value(RANDOM) is not None),
        "behind random stages no row of the weights' classifier fits",
        "backbone.random_from=null",
        (None,),
    ),
    Rule(WEIGHTS[:1], _is("head.reuse", None), "no rows are reused", "head=linear head.reuse=auto", (None,)),
    Rule(STORED, _is("features.cache", "off"), "nothing is stored", "features.cache=auto"),
    Rule(STORED, _where("finetune", lambda run: run.trains("all")), "no stage stays frozen", "finetune=lp_ft"),
    Rule(
        ("features.views",),
        lambda run, _: None if run.trains("all") or run.augments() else run.own("aug") or run.typed("aug"),
        "an image that is not augmented has one view",
        "aug=light",
    ),
    Rule(("data.crop_fraction",), _is("data.resize", "pad"), "nothing is cut off", "data.resize=crop"),
    Rule(
        ("aug.mix.p",),
        _where(ALPHAS[0], lambda run: run.value("aug.mix._target_") == MIXING and not any(map(run.value, ALPHAS))),
        f"with {ALPHAS[1]}=0 nothing is mixed",
        f"{ALPHAS[0]}=0.2",
    ),
    Rule(("aug", "aug."), lambda run, _: run.own("aug"), OWN),
    Rule(("optimizer.weight_decay",), lambda run, _: run.own("weight_decay"), OWN),
    Rule(("scheduler.",), lambda run, key: run.own(key), OWN),
    Rule((PHASES,), lambda run, key: run.left_out(key), "the phase is left out"),
    Rule(STEPS, _where("head.solver", Run.solves), OPTIMUM, "head.solver=sgd"),
    *(
        Rule((key,), _where("head.solver", Run.solves), OPTIMUM, "head.solver=sgd", no_wish=(unwished,))
        for key, unwished in {"head.dropout": 0, **OF_TRAINER}.items()
    ),
    Rule((PHASES,), lambda run, key: run.solved(key), OPTIMUM, "head.solver=sgd", no_wish=(None, 1)),
    Rule(
        ("trainer.strategy",),
        _where("trainer.devices", lambda run: run.cfg.trainer.devices * run.cfg.trainer.num_nodes == 1),
        "it is for several processes",
        "trainer=ddp",
        no_wish=("auto",),
    ),
    Rule(DRAWN, _where("logger", lambda run: not run.cfg.logger), "nothing is drawn", "logger=tensorboard", (0,)),
    Rule(("sweep",), lambda run, _: "a run alone" if run.alone else None, "it names a sweep", "-m"),
)


def check_used(
    overrides: Sequence[str], some: Sequence[Run], others: Iterable[Run] = (), begun: Iterable[str] = ()
) -> list[str]:
    """Refuse a key that no run of a command uses.

    Args:
        overrides: The command line's overrides, with one value or several.
        some: A sample of the command's runs, in which every given value occurs.
        others: Further runs, to check for a key that has no effect in `some`.
        begun: Overrides of runs that an earlier version began; their keys are accepted, so that runs resume.

    Returns:
        A sentence for each key that has an effect in some of the runs only.

    Raises:
        UserError: No run uses a key; names the first one, the reason and the remedy.
    """
    if not some:
        return []
    found = {key: [run.reasons(key) for run in some] for key in given_keys(overrides)}
    unused = {key for key, each in found.items() if all(each)}
    if unused:
        unused -= set(given_keys(begun))
    for number, run in enumerate(others if unused else ()):
        unused = {key for key in unused if run.reasons(key)} if number < MOST else set()
        if not unused:
            break
    told = []
    for key, each in found.items():
        reasons = list(dict.fromkeys(reason for reasons in each for reason in reasons))
        settings = {r.why: " or ".join(s.setting for s in reasons if s.why == r.why) for r in reasons}
        sentence = f"{key} does nothing with {', or '.join(f'{where} ({why})' for why, where in settings.items())}"
        if key in unused:
            instead = " ".join(dict.fromkeys(reason.instead for reason in reasons if reason.instead))
            raise UserError(f"{sentence}; leave it out{instead and f', or give {instead}'}")
        if reasons:
            told.append(sentence)
    return told


def without_unused(overrides: Sequence[str], run: Run) -> list[str]:
    """Return the overrides of a run without those that have no effect in it, so that a command accepts them."""
    keys = {override: list(given_keys([override])) for override in overrides}
    return [override for override in overrides if not (keys[override] and all(map(run.reasons, keys[override])))]


def trained_part(train: Any) -> str:
    """Classify `train` of a phase by what trains besides the head: `head` (nothing), `last`, `all`, else `some`."""
    named = OmegaConf.to_container(train) if OmegaConf.is_config(train) else train
    if named in ("head", 0, [], ["head"]):
        return "head"
    return "last" if named == 1 else "all" if named == "all" else "some"


def _referred(cfg: DictConfig) -> set[str]:
    """Return the keys to which others refer, except those that `data.module` merely passes on."""
    found = set()
    for place, value in leaves(OmegaConf.to_container(cfg, resolve=False)):
        if place[0] == "hydra" or place[:2] == ("data", "module") or "${" not in str(value):
            continue
        for dots, name in re.findall(r"(\.*)([A-Za-z_][\w.]*)", value.replace("[", ".").replace("]", "")):
            found.add(".".join((*place[: len(place) - len(dots)], name)) if dots else name)
    return found
