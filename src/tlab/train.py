"""One run, assembled in the order in which data flows: `python -m tlab.train data.root=DIR ...`."""

import logging
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from tlab.assembly.build import (
    adapt_batchnorm,
    build_backbone,
    build_data,
    build_loggers,
    build_module,
    build_net,
    build_trainer,
    choose_solver,
    communication,
    make_plan,
)
from tlab.assembly.describe import describe, record_decisions
from tlab.assembly.evaluation import evaluate_best
from tlab.assembly.precision_and_compile import choose_arithmetic
from tlab.assembly.refit import Refit
from tlab.command import quiet, run_command
from tlab.config.digest import this_config_digest
from tlab.config.head_solver import AUTO, as_overrides_ask, as_values_ask, by_steps, solver
from tlab.config.provenance import (
    as_decided,
    origin,
    plain,
    resolved,
    without_origin,
)
from tlab.config.targets import with_present_targets
from tlab.config.validation import check
from tlab.core.errors import UserError

log = logging.getLogger(__name__)

if TYPE_CHECKING:  # torch is imported when a run begins, not for --help
    import lightning.pytorch as L

    from tlab.data.datamodule import ImageDataModule
    from tlab.finetuning import RunState
    from tlab.models.module import ImageClassifier
    from tlab.runs.pruning import Pruning
    from tlab.sweeps.head_groups import HeadGroup


def train(
    cfg: DictConfig,
    given: list[str] | None = None,
    pruning: "Pruning | None" = None,
    group: "HeadGroup | None" = None,
) -> dict[str, float]:
    """Train and test one run: configuration -> data -> model -> callbacks -> fit -> test -> metrics.

    Args:
        cfg: Configuration composed from conf/train.yaml.
        given: Overrides that `cfg` was composed from; None: those that `origin` finds.
        pruning: Ends the run early where its pruner says so: status `pruned`, without `metrics.json`.
        group: Runs of a sweep whose heads may train in one pass with this one's.

    Returns:
        Contents of `metrics.json`: `val/*` and `test/*` of the best checkpoint, `epochs`, `fit_seconds`.

    Raises:
        UserError: A mistake in the configuration or the data.
    """
    composed_from = origin(cfg)
    cfg = with_present_targets(without_origin(cfg))
    check(cfg)
    from tlab.assembly.earlier_run import earlier_result, what_is_not_kept
    from tlab.core.machine_failures import explaining_memory
    from tlab.core.processes import join_nodes, run_in_processes
    from tlab.data.sources.scan import check_apart
    from tlab.runs.advice import advice_of
    from tlab.runs.continuation import memory_ran_out
    from tlab.runs.directory import RunDirectory
    from tlab.runs.environment import command

    run = RunDirectory(Path(cfg.run_dir))
    check_apart(run.path, OmegaConf.select(cfg, "data.root"), "hydra.run.dir")
    given = composed_from.overrides if given is None else given
    devices, nodes = cfg.trainer.devices, cfg.trainer.num_nodes
    node = join_nodes(nodes)
    advice = advice_of(cfg, run)
    result, changed = earlier_result(run, cfg, given, node)
    if result is not None:
        return result
    cfg = as_decided(cfg, run.record) if run.has_begun else cfg
    cfg = as_values_ask(as_overrides_ask(cfg, given))
    config = plain(cfg)
    known = {"composition": this_config_digest(cfg), "choices": composed_from.choices, **what_is_not_kept(run)}
    known |= {"command": command() if composed_from.command is None else composed_from.command}
    known |= {"advice": advice} if advice else {}
    record = run.recording(config, **known, data_changes=[*run.record.get("data_changes", ()), *changed])
    with record if node == 0 else nullcontext(), explaining_memory(partial(memory_ran_out, run, cfg, given)):
        run.write_config(OmegaConf.to_yaml(cfg), given)
        if devices * nodes == 1:
            return fit(cfg, config, given, pruning, group)
        arguments = (resolved(cfg), config, given, pruning)
        return run_in_processes(fit, arguments, devices, communication(cfg.trainer), nodes)


def fit(
    cfg: DictConfig,
    config: dict[str, Any],
    overrides: list[str],
    pruning: "Pruning | None" = None,
    group: "HeadGroup | None" = None,
) -> dict[str, float]:
    """Train and test; called in each of the run's processes.

    A head that `head.solver=auto` would solve is trained by steps where its features turn out not to be stored.

    Args:
        cfg: Configuration as in `train`, in other processes than the command's with Hydra's values resolved.
        config: The configuration as the run's record and its checkpoints keep it.
        overrides: Overrides that `cfg` was composed from.
        pruning: As in `train`.
        group: As in `train`.

    Returns:
        Contents of `metrics.json`; without `test/*` for a pruned run.
    """
    from tlab.finetuning.solved_head import NoStoredFeatures

    try:
        return fit_as_chosen(cfg, config, overrides, pruning, group)
    except NoStoredFeatures:
        if solver(cfg) != AUTO:
            raise
    return fit_as_chosen(by_steps(cfg, "its features are not stored"), config, overrides, pruning, group)


def fit_as_chosen(
    cfg: DictConfig,
    config: dict[str, Any],
    overrides: list[str],
    pruning: "Pruning | None" = None,
    group: "HeadGroup | None" = None,
) -> dict[str, float]:
    """Train and test, with `head.solver=auto` decided once the images are known.

    The names: `run` is the directory, `data` the images, `net` backbone and head, `state` where the plan stands,
    `module` the network with loss and metrics, `trainer` Lightning's, with the callbacks.

    Args and returns: as in `fit`.
    """
    import lightning.pytorch as L

    from tlab.assembly.agreed_images import agreed_content
    from tlab.assembly.callbacks import build_callbacks
    from tlab.assembly.many_heads import share_training
    from tlab.assembly.run_log import log_length, log_result, log_start
    from tlab.core.hardware import prepare_training
    from tlab.core.processes import first_process_first, from_first_process
    from tlab.finetuning import RunState
    from tlab.models.autotune.precision import allow_tf32
    from tlab.runs.advice import check_advised_images, judged
    from tlab.runs.checkpoints import resumable
    from tlab.runs.data_check import membership
    from tlab.runs.directory import RunDirectory
    from tlab.runs.graceful_stop import StopSignals

    quiet()
    prepare_training()
    run = RunDirectory(Path(cfg.run_dir))
    with StopSignals() as signals:
        L.seed_everything(cfg.seed, workers=True, verbose=False)
        loggers = build_loggers(cfg)  # before the images are read, which may take long
        begun = run.record if (checkpoint := from_first_process(resumable, run)) else {}
        with first_process_first():
            data = build_data(cfg, begun)
            data.before = membership(run) if begun else data.before
            backbone = build_backbone(cfg, begun, checkpoint, overrides)
            plan = make_plan(cfg, backbone)  # a mistake in it shows before all images are looked at
            data.setup()
            net = build_net(cfg, backbone, data)
        content = agreed_content(cfg, run, data, checkpoint is not None)
        from_first_process(check_advised_images, cfg, run, content["content"])  # before anything that takes long
        cfg = from_first_process(choose_solver, cfg, data, net, plan)
        cfg = adapt_batchnorm(cfg, net, data, plan, checkpoint)
        config = record_decisions(run, cfg, config, overrides)
        state = RunState(make_plan(cfg, backbone))
        allow_tf32(cfg.trainer.precision != "32-true")  # which was asked for because it is exact
        images, done = len(data.samples("train")), len(run.history()) if begun else 0
        precision, compiled = from_first_process(choose_arithmetic, cfg, net, state.plan, images, begun, done)
        module = build_module(cfg, config, net, data, state.plan, precision, compiled)
        callbacks = build_callbacks(cfg, run, state, module.metric_names, signals, pruning)
        trainer = build_trainer(cfg, run, precision, state.plan, callbacks, loggers)
        run.update(seed=cfg.seed, **describe(data, content, net, trainer, compiled, begun))
        log_start(cfg, overrides, run, trainer, checkpoint)
        log_length(cfg, overrides, state.plan)
        if group is not None and checkpoint is None:
            share_training(group, cfg, trainer, module, data, state)
        carry_out(trainer, module, data, state, checkpoint, pruning)
        metrics, phases = state.summary(), state.phase_summaries()
        if pruning is not None and pruning.pruned:
            run.prune(phases=phases)
            return metrics
        metrics |= evaluate_best(cfg, run, trainer, module, data)
        log_result(cfg, overrides, run, trainer, metrics)
        if cfg.refit:
            run.end_training(metrics, phases=phases, **judged(run.record, metrics))
            module.cpu()  # to make room
            chosen = Refit(cfg, config, overrides, begun, state, precision, compiled)
            chosen.train(run, data, signals)
        run.finish(metrics, phases=phases, **judged(run.record, metrics))
    return metrics


def carry_out(
    trainer: "L.Trainer",
    module: "ImageClassifier",
    data: "ImageDataModule",
    state: "RunState",
    checkpoint: Path | None,
    pruning: "Pruning | None",
) -> None:
    """Fit; warn of phases that did not take place because one of the user's callbacks has ended training.

    Raises:
        UserError: Lightning refuses a callback, or one has ended training before the first epoch was over.
    """
    from tlab.assembly.callbacks import refusals_told

    with refusals_told():
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    if not state.rows:
        raise UserError("callbacks: one of them ends training before the first epoch is over; leave it out")
    if not state.in_last_phase and not (pruning is not None and pruning.pruned):
        log.warning("training was ended in phase %s, so the later phases are left out", state.phase.name)


def run(cfg: DictConfig, group: "HeadGroup | None" = None) -> float:
    """Train the run and its baselines, and print their metrics; returns the monitored one.

    Args:
        cfg: The run's configuration.
        group: As in `train`.
    """
    from tlab.assembly.baselines import compose_baselines

    others = compose_baselines(cfg)  # so that a mistake shows at once, before torch is imported
    from tlab.assembly.run_log import print_summary
    from tlab.core.processes import first_process
    from tlab.runs.directory import RunDirectory

    metrics = train(cfg, group=group)
    baselines = {}
    for name, other in others.items():
        log.info("baseline %s, to compare with: %s", name, " ".join(cfg.baseline[name]))
        baselines[name] = train(other)
    if first_process():  # the first node of several says it
        print_summary(RunDirectory(Path(cfg.run_dir)), metrics, baselines)
    return metrics[cfg.checkpoint.monitor]


def main() -> None:
    """Entry point of `python -m tlab.train`."""
    run_command(run, "train")


if __name__ == "__main__":
    main()
