"""The callbacks of a run, in the one order in which they may stand."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from tlab.config.provenance import plain
from tlab.config.safe_loading import inert
from tlab.config.validation import best_is, check_monitors
from tlab.core.errors import UserError

log = logging.getLogger(__name__)

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

    from tlab.assembly.known_images import KnownImages
    from tlab.assembly.skipped_images import SkippedImages
    from tlab.dashboards.confusion import ConfusionMatrix
    from tlab.dashboards.epoch_lines import progress
    from tlab.dashboards.lr_curve import draw_lr_curve
    from tlab.dashboards.pr_curves import PrecisionRecall
    from tlab.dashboards.preview import AugmentationPreview
    from tlab.dashboards.scalars import ConfigText, Scalars
    from tlab.dashboards.stage_table import StageTable
    from tlab.dashboards.top_losses import TopLosses
    from tlab.finetuning import LearningRateFinder
    from tlab.finetuning.plan import HEAD
    from tlab.finetuning.schedules import check_schedules
    from tlab.finetuning.temperature import TemperatureScaling
    from tlab.runs.checkpoints import BestCheckpoint, HeadCheckpoint, LastCheckpoint
    from tlab.runs.confusion import ConfusionRecorder
    from tlab.runs.graceful_stop import GracefulStop
    from tlab.runs.history import RunRecorder

    monitor = cfg.checkpoint.monitor
    check_monitors(cfg, metrics)
    check_schedules(state.plan, instantiate(cfg.scheduler, _convert_="all"), metrics)
    last = LastCheckpoint(run, state, cfg.checkpoint.every_n_steps)
    users = build_own_callbacks(cfg.callbacks)
    # averaged weights are not those of the module at the end of an epoch
    of_head = all(phase.trained == {HEAD} for phase in state.plan.phases) and cfg.finetune.ema is None
    before: list[L.Callback] = [
        *_of_steps(cfg, state),
        *([LearningRateFinder(state, draw_lr_curve)] if cfg.find_lr else []),
        RunRecorder(run, state, monitor, best_is(monitor, cfg.checkpoint.mode)),
        SkippedImages(run),
        ConfusionRecorder(run, state),
        TemperatureScaling(state),
        *([KnownImages(cfg, state)] if of_head else []),
        StageTable(cfg.data.image_size, state.plan),
        ConfigText(OmegaConf.to_yaml(OmegaConf.create(inert(plain(cfg))), resolve=True)),
        Scalars(state),
        AugmentationPreview(cfg.dashboards.preview_images),
        ConfusionMatrix(),
        TopLosses(cfg.dashboards.top_losses),
        PrecisionRecall(),
        *progress(state),
        *([pruning] if pruning is not None else []),
    ]
    head = [HeadCheckpoint(run, state)] if cfg.finetune.soup else []
    after: list[L.Callback] = [BestCheckpoint(run, state), *head, last, GracefulStop(signals, last)]
    if any(isinstance(callback, ProgressBar) for callback in users):  # there can be one
        before = [callback for callback in before if not isinstance(callback, ProgressBar)]
    return [*before, *users, *after]


def build_refit_callbacks(
    cfg: DictConfig,
    run: "RunDirectory",
    state: "RunState",
    replayed: Sequence[Mapping[str, Any]],
    signals: "StopSignals",
) -> list["L.Callback"]:
    """Return the callbacks of a refit, which validates nothing: what trains, its history, and the last checkpoint.

    Of the user's own those are left out, with a remark, that go by a metric, write checkpoints or need a logger.

    Args:
        cfg: The run's configuration.
        run: The run's directory with the names of a refit.
        state: The refit's state.
        replayed: Metrics of each epoch for the schedule, see `BackboneFinetuning`.
        signals: Signals that may stop the run.
    """
    from lightning.pytorch.callbacks import Checkpoint, DeviceStatsMonitor, LearningRateMonitor

    from tlab.assembly.skipped_images import SkippedImages
    from tlab.dashboards.epoch_lines import progress
    from tlab.runs.checkpoints import LastCheckpoint
    from tlab.runs.graceful_stop import GracefulStop
    from tlab.runs.history import RunRecorder

    last = LastCheckpoint(run, state, cfg.checkpoint.every_n_steps)
    users = build_own_callbacks(cfg.callbacks)
    kinds = (Checkpoint, DeviceStatsMonitor, LearningRateMonitor)
    idle = [each for each in users if isinstance(each, kinds) or getattr(each, "monitor", None) is not None]
    if idle:
        log.info("refit: without %s of callbacks", ", ".join(type(each).__name__ for each in idle))
    return [
        *_of_steps(cfg, state, replayed),
        RunRecorder(run, state, "train/loss", "min"),
        SkippedImages(run),
        *progress(state),
        *(each for each in users if each not in idle),
        *(last, GracefulStop(signals, last)),
    ]


def _of_steps(
    cfg: DictConfig, state: "RunState", replayed: Sequence[Mapping[str, Any]] | None = None
) -> list["L.Callback"]:
    """Return the callbacks that say what a step trains, and how: the first ones of every list."""
    from tlab.finetuning import EMA, L2SP, AddressedRandomness, BackboneFinetuning, FeatureCache

    schedule = instantiate(cfg.scheduler, _convert_="all")
    features = FeatureCache(cfg.features.views, cfg.features.max_gb) if cfg.features.cache == "auto" else None
    decays = cfg.finetune.l2_sp and cfg.finetune.pretrained  # a baseline from scratch has nothing to decay towards
    return [
        AddressedRandomness(cfg.seed),
        BackboneFinetuning(state, schedule, features, replayed),
        *([L2SP(cfg.finetune.l2_sp)] if decays else []),
        *([EMA(cfg.finetune.ema)] if cfg.finetune.ema is not None else []),
    ]


def build_own_callbacks(nodes: DictConfig) -> list["L.Callback"]:
    """Return the callbacks of the group `callbacks`, without those that are null.

    Raises:
        UserError: One of them is no Lightning callback.
    """
    import lightning.pytorch as L

    given = {f"callbacks.{key!s}": node for key, node in nodes.items() if node is not None}
    built = {name: instantiate(node, _convert_="all") for name, node in given.items()}
    for name, callback in built.items():
        if not isinstance(callback, L.Callback):
            raise UserError(
                f"{name} is no Lightning callback but {type(callback).__name__}; let its _target_ build a "
                f"lightning.pytorch.Callback, or leave it out with {name}=null"
            )
    return [*built.values()]


@contextmanager
def refusals_told() -> Iterator[None]:
    """Turn Lightning's refusal of a callback, or of a key of the trainer, inside the block into one sentence.

    Raises:
        UserError: A callback monitors what there is not, needs a logger, or has a state that would be kept under
            the same name as another's; or a value of the trainer is not possible.
    """
    from lightning.pytorch.utilities.exceptions import MisconfigurationException

    try:
        yield
    except (MisconfigurationException, RuntimeError) as error:
        text = " ".join(str(error).split())
        # the errors of EarlyStopping, and of callbacks with one state_key, have no type of their own
        plain = text.startswith(("Early stopping conditioned", "Found more than one stateful callback"))
        if not plain and not isinstance(error, MisconfigurationException):
            raise
        raise UserError(f"{text.rstrip('.')}; correct that key of callbacks or trainer, or leave it out") from error
