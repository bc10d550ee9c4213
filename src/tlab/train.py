"""One run, assembled in the order in which data flows: `python -m tlab.train data.root=DIR ...`."""

import logging
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from tlab.checks import check, check_monitors, check_shares
from tlab.command import compose, quiet, run_command
from tlab.compilation import build_training_net, choose_compiled
from tlab.description import (
    choices,
    command_overrides,
    describe,
    overrides,
    plain,
    preprocessing,
    resolved,
    settings,
    swept_keys,
)
from tlab.overrides import of_baseline, quoted
from tlab.parts import (
    best_is,
    build_backbone,
    build_dashboards,
    build_net,
    build_optimizer,
    build_options,
    build_trainer,
    choose_precision,
    communication,
    make_plan,
    phase_augmentations,
)
from tlab.sweeps.composition import own_composition
from tlab.sweeps.task import one_line
from tlab.unused_keys import Run, check_used

log = logging.getLogger(__name__)

FINAL = ("val/acc", "val/loss", "val/f1", "test/acc", "test/loss", "test/f1", "fit_seconds")  # in the HParams tab

if TYPE_CHECKING:  # torch is imported when a run begins, not for --help
    from tlab.data.datamodule import ImageDataModule
    from tlab.runs.pruning import Pruning


def train(cfg: DictConfig, given: list[str] | None = None, pruning: "Pruning | None" = None) -> dict[str, float]:
    """Carry out one run: configuration -> data -> model -> callbacks -> fit -> test -> metrics.

    Args:
        cfg: As composed from conf/train.yaml.
        given: The overrides that it was composed from; None: the command line's, if this is its run.
        pruning: May end the run early, whose status is then `pruned` and which has no `metrics.json`.

    Returns:
        What `metrics.json` holds: `val/*` and `test/*` of the best checkpoint, `epochs`, `fit_seconds`.

    Raises:
        UserError: A mistake in the configuration or the data.
    """
    check(cfg)
    from tlab.processes import join_nodes, run_in_processes
    from tlab.runs.directory import RunDirectory
    from tlab.runs.same_data import check_images

    run = RunDirectory(Path(cfg.run_dir))
    config = plain(cfg)
    given = overrides(cfg) if given is None else given
    devices, nodes = cfg.trainer.devices, cfg.trainer.num_nodes
    node = join_nodes(nodes)
    finished = run.is_finished(config, cfg.resume if node == 0 else "auto")
    changed: list[str] = []
    if finished or run.has_begun:
        changed = check_images(run, instantiate(cfg.data.module.source, _convert_="all"), cfg.resume)
    if finished:
        log.info("%s is finished: this is its result, nothing was trained", run.path)
        return run.metrics()
    known = {"composition": own_composition(cfg), "choices": choices(cfg)}
    record = run.recording(config, **known, data_changes=[*run.record.get("data_changes", ()), *changed])
    with record if node == 0 else nullcontext():
        run.write_config(OmegaConf.to_yaml(cfg), given)
        if devices * nodes == 1:
            return fit(cfg, config, given, pruning)
        arguments = (resolved(cfg), config, given, pruning)
        return run_in_processes(fit, arguments, devices, communication(cfg.trainer), nodes)


def fit(
    cfg: DictConfig, config: dict[str, Any], overrides: list[str], pruning: "Pruning | None" = None
) -> dict[str, float]:
    """Train and test; called in each of the run's processes.

    Args:
        cfg: As in `train`; in other processes than the command's it has no interpolations of Hydra any more.
        config: The configuration as the run's record and its checkpoints keep it.
        overrides: Those that it was composed from.
        pruning: As in `train`.

    Returns:
        What `metrics.json` holds; of a pruned run, without `test/*`.
    """
    import lightning.pytorch as L
    import torch

    from tlab.allocator import keep_freed_memory
    from tlab.dashboards.hparams import log_hparams
    from tlab.finetuning import AddressedRandomness, BackboneFinetuning, FrozenPrefix
    from tlab.finetuning.distributed import verify_same_images
    from tlab.models.module import ImageClassifier
    from tlab.models.precision import allow_tf32
    from tlab.processes import first_process_first, from_first_process
    from tlab.runs.checkpoints import LastCheckpoint, resumable
    from tlab.runs.confusion import ConfusionRecorder
    from tlab.runs.directory import RunDirectory
    from tlab.runs.loggers import log_final, log_settings, short_name
    from tlab.runs.recorder import RunRecorder
    from tlab.runs.stopping import GracefulStop

    quiet()
    keep_freed_memory()
    run = RunDirectory(Path(cfg.run_dir))
    last = LastCheckpoint(run, cfg.checkpoint.every_n_steps, lambda: finetuning.phase_is_over)
    with GracefulStop(last) as stop:
        L.seed_everything(cfg.seed, workers=True, verbose=False)
        checkpoint = from_first_process(lambda: resumable(run))
        begun = run.record if checkpoint is not None else {}
        with first_process_first():
            data: ImageDataModule = instantiate(cfg.data.module, phases=phase_augmentations(cfg))
            backbone = build_backbone(cfg, begun)
            plan = make_plan(cfg, backbone)  # a mistake in it shows before all images are looked at
            data.setup()
            net = build_net(cfg, backbone, data)
        verify_same_images(data.index)
        contents = data.contents()
        images = contents.numbers()
        check_shares(images, cfg.trainer.devices, cfg.trainer.num_nodes)
        run.write_unreadable([{"path": str(file.path), "reason": file.reason} for file in data.unreadable])
        allow_tf32(cfg.trainer.precision != "32-true")  # which was asked for because it is exact
        precision = from_first_process(lambda: choose_precision(cfg, net, plan, begun))
        done = len(run.history()) if begun else 0
        compile_ = (cfg, net, plan, precision, images["train"], begun, done)
        compiled = from_first_process(lambda: choose_compiled(*compile_))
        module = ImageClassifier(
            net,
            data.classes,
            optimizer=build_optimizer(cfg, precision),
            label_smoothing=cfg.loss.label_smoothing,
            class_weights=data.class_weights() if cfg.data.class_weights else None,
            channels_last=cfg.trainer.channels_last,
            about={"config": config, **preprocessing(cfg, net, precision)},
            training_net=build_training_net(cfg, net, plan, images["train"], compiled),
        )
        check_monitors(cfg, module.metric_names)
        features = FrozenPrefix(cfg.features.views, cfg.features.max_gb) if cfg.features.cache == "auto" else None
        finetuning = BackboneFinetuning(plan, instantiate(cfg.scheduler, _convert_="all"), features)
        finetuning.check_schedules(module.metric_names)
        aim = (cfg.checkpoint.monitor, best_is(cfg))
        recorder = RunRecorder(run, lambda: finetuning.phase.name, finetuning.rates, *aim)
        callbacks = [AddressedRandomness(cfg.seed), finetuning, *build_options(cfg, finetuning), recorder]
        callbacks.append(ConfusionRecorder(run, lambda: recorder.best_epoch))
        callbacks += [*build_dashboards(cfg, plan, recorder), *([pruning] if pruning else []), last, stop]
        trainer = build_trainer(cfg, run, precision, finetuning, recorder, callbacks)
        run.write_data(contents)
        run.update(seed=cfg.seed, **describe(data, contents, net, trainer, compiled))
        shown = settings(cfg, overrides, run.record.get("choices", {}))
        if checkpoint is not None:
            log.info("going on from %s", checkpoint)
        else:
            log_settings(trainer.loggers, shown)
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        metrics = recorder.summary()
        phases = [vars(record) | recorder.speed(record.name) for record in finetuning.records]
        if pruning is not None and pruning.pruned:
            run.prune(phases=phases)
            return metrics
        if "test" in data.index.splits:
            # loaded here, because Lightning's `ckpt_path` would also put the callbacks back to the best epoch
            best = torch.load(run.best, map_location="cpu", weights_only=True)
            module.load_state_dict(best["state_dict"])
            metrics |= trainer.test(module, datamodule=data, verbose=False)[0]
        final = {name: metrics[name] for name in FINAL if name in metrics}
        swept = swept_keys(run.path, overrides)
        try:
            log_hparams(trainer.loggers, shown, final, swept=swept, run=short_name(run.path))
            log_final(trainer.loggers, final, trainer.global_step)
        except Exception as error:  # a server may be away by now; the run is as good without it
            log.warning("a logger has not taken the final metrics (%s); metrics.json has them", one_line(error))
        run.finish(metrics, phases=phases)
    return metrics


def compose_baselines(cfg: DictConfig) -> dict[str, DictConfig]:
    """Return the configurations of the runs to compare with.

    Raises:
        UserError: A mistake in one of them, or the command line gives a key that no run of it uses.
    """
    from tlab.runs.directory import RunDirectory

    check(cfg)
    given = {name: of_baseline(command_overrides(), changes) for name, changes in cfg.baseline.items()}
    others = {}
    for name, own in given.items():
        others[name] = compose([*own, quoted("run_dir", f"{cfg.run_dir}/baselines/{name}")])
        check(others[name])
    hydra = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN:  # a sweep has looked at all of its runs
        this = Run(cfg, hydra.runtime.choices, alone=True)
        baselines = (Run(other, {}, given[name]) for name, other in others.items())
        begun = RunDirectory(Path(cfg.run_dir)).overrides()
        for remark in check_used(hydra.overrides.task, [this], baselines, begun):
            log.info(remark)
    return others


def run(cfg: DictConfig) -> float:
    """Train, then the baselines to compare with, and say what came out; returns the monitored metric."""
    from rich.console import Console

    from tlab.dashboards.closing_table import print_closing_table
    from tlab.processes import first_process
    from tlab.runs.directory import RunDirectory

    others = compose_baselines(cfg)  # so that a mistake shows at once
    metrics = train(cfg)
    baselines = {}
    for name, other in others.items():
        log.info("baseline %s: %s", name, " ".join(cfg.baseline[name]))
        baselines[name] = train(other)
    if not first_process():  # the first node of several says it
        return metrics[cfg.checkpoint.monitor]
    directory = RunDirectory(Path(cfg.run_dir))
    print_closing_table(
        Console(),
        metrics,
        directory.record["phases"],
        {"run": directory.path, "best checkpoint": directory.best, "history": directory.history_file},
        {"this run": metrics, **baselines} if baselines else None,
    )
    return metrics[cfg.checkpoint.monitor]


def main() -> None:
    """Entry point of `python -m tlab.train`."""
    run_command(run, "train")


if __name__ == "__main__":
    main()
