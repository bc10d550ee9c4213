"""Which runs a study needs: each setting of all runs, for each line, at each place along the figure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from tlab.comparison.phrases import is_share
from tlab.config.hydra import compose, prepare_hydra
from tlab.config.overrides import as_override, key_and_value, read_sweep
from tlab.config.validation import best_is
from tlab.core.errors import UserError

LIMIT = "data.limit"  # its values stand at the number of training images
STAGES = "stages"  # x of a study whose places are the cuts behind the backbone's stages
CUT = ("stage", "next", "after")  # placeholders of a cut


@dataclass(frozen=True)
class StudyRun:
    """One run of a study.

    Attributes:
        line: Name of its line: that of the curve, and the values that the command line sweeps besides.
        x: Its place along the figure, as text; None: it is the same at all places.
        overrides: Its overrides, in which `{NAME}` stands for the directory of another run.
        origins: Those other runs by name, which come first.
    """

    line: str
    x: str | None
    overrides: tuple[str, ...]
    origins: Mapping[str, "StudyRun"] = field(default_factory=dict, hash=False)


def study_runs(cfg: DictConfig) -> list[StudyRun]:
    """Return the runs of a study.

    Args:
        cfg: Configuration of tlab.study.

    Raises:
        UserError: The study does not fit together, or a key has no effect in it.
    """
    prepare_hydra(cfg.overrides)  # for a backbone that is named there alone
    loader = GlobalHydra.instance().config_loader()
    _check(cfg)
    swept = read_sweep(_replaced(cfg.settings, cfg.overrides), loader)
    (settings,) = BasicSweeper.split_arguments(swept, None)
    several = [key for each in swept if each.is_sweep_override() and (key := str(each.key_or_group)) != "seed"]
    runs: dict[StudyRun, None] = {}
    cuts: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for own in settings:
        values = dict(map(key_and_value, own))
        if cfg.x == STAGES:
            network = tuple(override for override in own if key_and_value(override)[0] != "seed")
            if network not in cuts:
                cuts[network] = _cuts(own)
            places = cuts[network]
        elif cfg.x in values:
            places = [{"x": values[cfg.x]}]
        else:
            raise UserError(f"x={cfg.x} has no values; give {cfg.x}=A,B,C")
        of_set = ", ".join(f"{key}={values[key]}" for key in several if key != cfg.x)
        for place in places:
            for name in cfg.curves:
                runs[_run(cfg, name, own, place, of_set)] = None
    return list(runs)


def _check(cfg: DictConfig) -> None:
    """Refuse a study that does not fit together, and a key of the command line that has no effect in it.

    Raises:
        UserError: Names the key.
    """
    if cfg.fit and cfg.x != LIMIT:
        raise UserError(f"fit={cfg.fit} is over training images, x={LIMIT}; give fit=null")
    if cfg.fit and cfg.y and best_is(cfg.y) == "max" and not is_share(cfg.y):
        raise UserError(f"fit={cfg.fit} is of errors and shares, which y={cfg.y} is not; give fit=null")
    if not cfg.curves:
        raise UserError(f"{cfg.name} has no lines; give its file some: 'curves: {{mine: [finetune=head]}}'")
    own = [dict(map(key_and_value, overrides)) for overrides in cfg.curves.values()]
    placed = {f"{{{name}}}" for name in CUT} if cfg.x == STAGES else set[str]()
    for key, _ in map(key_and_value, cfg.overrides):
        if all(key in values for values in own) or any(values.get(key) in placed for values in own):
            raise UserError(f"{key} is what name={cfg.name} varies itself; leave it out")


def _replaced(overrides: Sequence[str], others: Sequence[str]) -> list[str]:
    """Return the overrides without those whose keys others have, and the others behind them."""
    keys = {key for key, _ in map(key_and_value, others)}
    return [*(each for each in overrides if key_and_value(each)[0] not in keys), *others]


def _cuts(overrides: Sequence[str]) -> list[dict[str, str]]:
    """Return what the placeholders of each cut stand for, from the first stage's end to the last one's."""
    from tlab.runs.load import instantiate_backbone

    run = compose([*overrides, as_override("run_dir", "none")])
    names = instantiate_backbone(run, None, run.data.image_size).stage_names
    following = [*names[1:], "null"]
    return [
        {"x": name, "stage": name, "next": behind, "after": str(len(names) - number)}
        for number, (name, behind) in enumerate(zip(names, following, strict=True), start=1)
    ]


def _run(
    cfg: DictConfig,
    curve: str,
    settings: Sequence[str],
    place: Mapping[str, str],
    of_set: str,
    above: Sequence[str] = (),
) -> StudyRun:
    """Return the run of a line at a place.

    Args:
        cfg: Configuration of tlab.study.
        curve: Name of the line.
        settings: Overrides of all lines, with one value each.
        place: What the placeholders stand for, and `x`.
        of_set: What distinguishes the settings from others of the command.
        above: Names of the lines whose runs start from this one.
    """
    if curve in above:
        raise UserError(
            f"curves.{curve} starts from a run that starts from it; leave out {{{curve}}} in curves.{above[-1]}"
        )
    used: set[str] = set()

    def value(match: re.Match[str]) -> str:
        used.add(match[1])
        return place.get(match[1], match[0])

    names = "|".join(map(re.escape, [*(name for name in CUT if name in place), *cfg.curves]))
    own = [re.sub(rf"\{{({names})\}}", value, override) for override in cfg.curves[curve]]
    origins = {
        name: _run(cfg, name, settings, place, of_set, (*above, curve)) for name in cfg.curves if name in used
    }
    moves = cfg.x != STAGES or not used.isdisjoint(CUT) or any(origin.x is not None for origin in origins.values())
    line = of_set if of_set and len(cfg.curves) == 1 else f"{curve}, {of_set}" if of_set else curve
    return StudyRun(line, place["x"] if moves else None, tuple(_replaced(settings, own)), origins)
