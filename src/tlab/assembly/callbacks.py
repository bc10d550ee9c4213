"""The callbacks of a run, in the one order in which they may stand."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from tlab.config.validation import best_is, check_monitors
from tlab.core.errors import UserError

if TYPE_CHECKING:  # torch is imported when a run begins, not for --help
    import lightning.pytorch as L

    from tlab.finetuning import RunState
    from tlab.runs.directory import RunDirectory
    from tlab.runs.graceful_stop import StopSignals
    from tlab.runs.pruning import Pruning


def build_callbacks(
    cfg: DictConfig,
    run: "RunDirectory",
    state: "RunState",
    metrics: Sequence[str],
    signals: "StopSignals",
    pruning: "Pruning | None",
) -> list["L.Callback"]:
    """Return the callbacks in the order in which Lightning calls each of their hooks.

    What writes the run's state stands before what reads it, and what ends a run before what saves it:

    1. The seed of each step, then the phases, on which everything below depends.
    2. What changes training in the current phase: decay towards the start, averages, the rate finder.
    3. The history, which writes the epoch's row and decides which epoch is the best.
    4. What is written or drawn of the epoch.
    5. What may end the run early.
    6. The user's own, which find all of the above done.
    7. The checkpoints. Lightning puts those at the end by itself; only they may save a state that is complete.
       The last of them stops the run on a signal, when all is saved.

    Args:
        cfg: The run's configuration.
        run: The run's directory.
        state: The run's state.
        metrics: Names of the metrics that the run will have.
        signals: Signals that may stop the run.
        pruning: The callback that may end a trial of a search early; None in other runs.

    Raises:
        UserError: A monitored metric does not exist, or a schedule or one of the user's callbacks cannot be built.
    """
    from lightning.pytorch.callbacks import ProgressBar

    from tlab.dashboards.confusion import ConfusionMatrix
    from tlab.dashboards.epoch_lines import progress
    from tlab.dashboards.lr_curve import draw_lr_curve
    from tlab.dashboards.pr_curves import PrecisionRecall
    from tlab.dashboards.preview import AugmentationPreview
    from tlab.dashboards.scalars import ConfigText, Scalars
    from tlab.dashboards.stage_table import StageTable
    from tlab.dashboards.top_losses import TopLosses
    from tlab.finetuning import EMA, L2SP, AddressedRandomness, BackboneFinetuning, FeatureCache, LearningRateFinder
    from tlab.finetuning.schedules import check_schedules
    from tlab.runs.checkpoints import BestCheckpoint, LastCheckpoint
    from tlab.runs.confusion import ConfusionRecorder
    from tlab.runs.graceful_stop import GracefulStop
    from tlab.runs.history import RunRecorder

    monitor = cfg.checkpoint.monitor
    check_monitors(cfg, metrics)
    schedule = instantiate(cfg.scheduler, _convert_="all")
    check_schedules(state.plan, schedule, metrics)
    features = FeatureCache(cfg.features.views, cfg.features.max_gb) if cfg.features.cache == "auto" else None
    decays = cfg.finetune.l2_sp and cfg.finetune.pretrained  # a baseline from scratch has nothing to decay towards
    last = LastCheckpoint(run, state, cfg.checkpoint.every_n_steps)
    users = build_own_callbacks(cfg.callbacks)
    before: list[L.Callback] = [
        AddressedRandomness(cfg.seed),
        BackboneFinetuning(state, schedule, features),
        *([L2SP(cfg.finetune.l2_sp)] if decays else []),
        *([EMA(cfg.finetune.ema)] if cfg.finetune.ema is not None else []),
        *([LearningRateFinder(state, draw_lr_curve)] if cfg.find_lr else []),
        RunRecorder(run, state, monitor, best_is(monitor, cfg.checkpoint.mode)),
        ConfusionRecorder(run, state),
        StageTable(cfg.data.image_size, state.plan),
        ConfigText(OmegaConf.to_yaml(cfg, resolve=True)),
        Scalars(state),
        AugmentationPreview(cfg.dashboards.preview_images),
        ConfusionMatrix(),
        TopLosses(cfg.dashboards.top_losses),
        PrecisionRecall(),
        *progress(state),
        *([pruning] if pruning is not None else []),
    ]
    after: list[L.Callback] = [BestCheckpoint(run, state), last, GracefulStop(signals, last)]
    check_states(before + after, users)
    if any(isinstance(callback, ProgressBar) for callback in users.values()):  # there can be one
        before = [callback for callback in before if not isinstance(callback, ProgressBar)]
    return [*before, *users.values(), *after]


def build_own_callbacks(nodes: DictConfig) -> dict[str, "L.Callback"]:
    """Return the callbacks of the group `callbacks` by key, without those that are null.

    Raises:
        UserError: One of them is no Lightning callback.
    """
    import lightning.pytorch as L

    built: dict[str, L.Callback] = {}
    for key, node in nodes.items():
        if node is None:
            continue
        name, callback = f"callbacks.{key!s}", instantiate(node, _convert_="all")
        if not isinstance(callback, L.Callback):
            raise UserError(
                f"{name} is no Lightning callback but {type(callback).__name__}; let its _target_ build a "
                f"lightning.pytorch.Callback, or leave it out with {name}=null"
            )
        built[name] = callback
    return built


@contextmanager
def refusals_told() -> Iterator[None]:
    """Turn Lightning's refusal of a callback inside the block into one sentence.

    Raises:
        UserError: A callback monitors what there is not, needs a logger, or is one too many.
    """
    from lightning.pytorch.utilities.exceptions import MisconfigurationException

    try:
        yield
    except (MisconfigurationException, RuntimeError) as error:
        text = " ".join(str(error).split())
        # the error of EarlyStopping has no type of its own
        if not isinstance(error, MisconfigurationException) and not text.startswith("Early stopping conditioned"):
            raise
        raise UserError(f"callbacks: {text.rstrip('.')}; correct its keys, or leave it out") from error


def check_states(tlabs: Sequence["L.Callback"], users: Mapping[str, "L.Callback"]) -> None:
    """Refuse a callback whose state would be kept under the same name in checkpoints as another's.

    Raises:
        UserError: Two callbacks have the same `state_key`, and a state.
    """
    import lightning.pytorch as L

    named = {callback.state_key: type(callback).__name__ for callback in tlabs}
    for name, callback in users.items():
        if type(callback).state_dict is L.Callback.state_dict:
            continue
        if (other := named.setdefault(callback.state_key, name)) != name:
            raise UserError(
                f"{name} and {other} would keep their states under one name, {callback.state_key}; leave one out "
                f"with {name}=null, or give their class a state_key that tells them apart"
            )
