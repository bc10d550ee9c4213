"""The callbacks that write a run's checkpoints, and the I/O that makes each write atomic."""

import copy
import io
import logging
import os
import re
import shutil
import time
import zipfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from tlab.core.error_messages import one_line
from tlab.core.errors import UserError
from tlab.core.files import atomic_path
from tlab.core.nested import leaves
from tlab.finetuning.plan import HEAD
from tlab.finetuning.run_state import RunState
from tlab.runs.directory import RunDirectory

log = logging.getLogger(__name__)

KEPT = ("tlab", "pytorch-lightning_version", "epoch", "global_step")  # of a checkpoint that is for use alone
EVERY_SECONDS = 10.0  # least time between two checkpoints at the ends of epochs inside a phase


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint to a temporary file and moves it into place when it is safely on the disk.

    `best.ckpt` is kept in host memory first, since in a short epoch writing it would take longer than training; it
    reaches the disk right before the next `last.ckpt`, so what that says of the best epoch is on the disk too. If
    the process is killed in between, the resumed run finds the same best epoch again; if the fit fails,
    `BestCheckpoint` has it written.

    Checkpoints name no device, and are read into host memory, from where Lightning moves them.

    Args:
        run: The run's directory.
    """

    def __init__(self, run: RunDirectory) -> None:
        super().__init__()
        self.run = run
        self.frozen: Callable[[], set[int]] = set
        self._best: dict[str, Any] | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write `checkpoint` to `path`, which holds either its old or its new content at any moment.

        Raises:
            UserError: The state of a callback could not be read again.
        """
        check_states(checkpoint.get("callbacks", {}))
        if Path(path) == self.run.best:
            frozen = self.frozen()  # does not change until the phase ends, as the rest does in the next step
            self._best = on_host(checkpoint, stays=lambda tensor: tensor.data_ptr() in frozen)
            return
        waiting = self._best
        with ThreadPoolExecutor(1) as other, atomic_path(Path(path)) as temporary:
            best = other.submit(self.write_best)
            try:
                _write(checkpoint, temporary)
            except OSError as error:
                if waiting is not None:  # which needs room at the same time
                    error.add_note(f"best.ckpt {_size(waiting) / 1e6:.1f} MB more")
                raise
            best.result()  # leaving the block moves the new one, which refers to it, into place

    def write_best(self) -> bool:
        """Write `best.ckpt` if it has not been written yet, and tell whether it has been written now."""
        if self._best is None:
            return False
        write_checkpoint(self._best, self.run.best)
        self._best = None
        return True

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Return what a checkpoint holds; no code in it is run, whatever Lightning or the environment says."""
        return super().load_checkpoint(path, map_location, weights_only=True)


def check_states(states: Mapping[str, Any]) -> None:
    """Refuse states of callbacks that a resumed run could not read: a checkpoint is plain data, and runs no code.

    Raises:
        UserError: A state holds anything but numbers, texts, lists, dicts and tensors.
    """
    with suppress(Exception):
        _write_and_read(states)  # all at once, which takes a fraction of the time
        return
    for name, state in states.items():
        try:
            _write_and_read(state)
        except Exception as error:  # pickle raises many kinds
            odd = re.search(r"GLOBAL ([\w.]+)", str(error))  # torch's text has the name in its middle
            raise UserError(
                f"callbacks: the state_dict of {name} cannot be read from a checkpoint again "
                f"({odd[1] if odd else one_line(error)}); let it return numbers, texts, lists, dicts and tensors"
            ) from error


def _write_and_read(state: Any) -> None:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    torch.load(buffer, weights_only=True)


def on_host(checkpoint: dict[str, Any], stays: Callable[[Tensor], bool]) -> dict[str, Any]:
    """Return a copy whose tensors are in host memory; those that share a storage still do.

    Args:
        checkpoint: Plain data and tensors of any device.
        stays: Function that tells whether the copy shares a tensor with the original.
    """
    copies: dict[int, Any] = {}  # as `deepcopy` keeps them: id of the original -> copy
    storages: dict[tuple[torch.device, int], torch.UntypedStorage] = {}
    for tensor in (leaf for _, leaf in leaves(checkpoint) if isinstance(leaf, Tensor)):
        copies[id(tensor)] = tensor
        if not stays(tensor):
            storage = tensor.untyped_storage()
            place = (storage.device, storage.data_ptr())
            if place not in storages:
                storages[place] = torch.UntypedStorage(storage.nbytes()).copy_(storage)
            empty = torch.empty(0, dtype=tensor.dtype)
            copies[id(tensor)] = empty.set_(
                storages[place], tensor.storage_offset(), tensor.size(), tensor.stride()
            )
    return copy.deepcopy(checkpoint, copies)


def _write(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a checkpoint that names no device; it is on the disk when this returns."""
    checkpoint = on_host(checkpoint, stays=lambda tensor: tensor.device.type == "cpu")
    file = _KeepingError(io.FileIO(path, "w"))
    try:
        with file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:
        failed = file.error or error
        failed.add_note(f"a checkpoint takes {_size(checkpoint) / 1e6:.1f} MB")
        raise failed from None


class _KeepingError(io.BufferedWriter):
    """A file that keeps the system's error: torch raises one of its own, which does not tell why."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write `data`."""
        try:
            return super().write(data)
        except OSError as error:
            self.error = error
            raise


def _size(checkpoint: dict[str, Any]) -> int:
    """Return the bytes of the tensors in a checkpoint; those that share a storage count once."""
    tensors = (leaf for _, leaf in leaves(checkpoint) if isinstance(leaf, Tensor))
    return sum({(storage := x.untyped_storage()).data_ptr(): storage.nbytes() for x in tensors}.values())


class LastCheckpoint(Checkpoint):
    """Writes `last.ckpt`, and keeps the one before as `previous.ckpt`.

    At the end of an epoch it does so if the last one is older than 10 seconds, if a phase or the fit ends, and
    always if there are checkpoints inside epochs too: short epochs would take longer to write than to train again.

    Args:
        run: The run's directory.
        state: The run's state, which tells whether a phase ends with an epoch.
        every_n_steps: Optimizer steps between two checkpoints inside an epoch; None: only at its end.
    """

    def __init__(self, run: RunDirectory, state: RunState, every_n_steps: int | None = None) -> None:
        self.run = run
        self.state = state
        self.every_n_steps = every_n_steps
        self._saved_at = time.monotonic()
        self._saved_epoch = -1

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Tell the checkpoint I/O what is frozen."""
        if isinstance(writer := trainer.strategy.checkpoint_io, AtomicCheckpointIO):
            writer.frozen = lambda: {p.data_ptr() for p in pl_module.parameters() if not p.requires_grad}

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if it is due; after the last batch the end of the epoch does."""
        if self.every_n_steps is None or not between_steps(trainer, batch_idx):
            return
        if trainer.global_step % self.every_n_steps == 0:
            self.save(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save if it is due; Lightning has validated by now."""
        ends = trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs or self.state.phase_is_over
        due = ends or self.every_n_steps is not None or time.monotonic() - self._saved_at >= EVERY_SECONDS
        if trainer.strategy.broadcast(due):  # the clocks of several processes differ
            self.save_epoch(trainer)

    def save_epoch(self, trainer: L.Trainer) -> None:
        """Write `last.ckpt` at the end of an epoch, unless it has been written."""
        if self._saved_epoch != trainer.current_epoch:
            self.save(trainer)
            self._saved_epoch = trainer.current_epoch

    def save(self, trainer: L.Trainer) -> None:
        """Write `last.ckpt`, and keep the one it replaces as `previous.ckpt`."""
        if trainer.is_global_zero and self.run.last.exists():
            _copy(self.run.last, self.run.previous)  # so that neither is ever missing
        trainer.save_checkpoint(self.run.last)
        self._saved_at = time.monotonic()


def _copy(source: Path, target: Path) -> None:
    """Let a checkpoint, which is never changed but replaced, be there under another name too."""
    with atomic_path(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:  # a file system without links
            shutil.copyfile(source, temporary)


def between_steps(trainer: L.Trainer, batch_idx: int) -> bool:
    """Tell whether this batch ended an optimizer step inside an epoch; no gradients are pending then."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0 and not trainer.is_last_batch


class BestCheckpoint(Checkpoint):
    """Saves `best.ckpt` at the end of each best epoch (`AtomicCheckpointIO` writes it).

    Args:
        run: The run's directory.
        state: The run's state, with the best epoch so far.
    """

    def __init__(self, run: RunDirectory, state: RunState) -> None:
        self.run = run
        self.state = state

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save if this epoch is the best so far; all processes answer alike."""
        if trainer.strategy.reduce_boolean_decision(self.state.best_epoch == trainer.current_epoch):
            trainer.save_checkpoint(self.run.best)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Have the best epoch written that still waits, from which the run goes on then: `last.ckpt` is older."""
        writer = trainer.strategy.checkpoint_io
        with suppress(OSError, RuntimeError):  # a full disk may be the very reason
            if isinstance(writer, AtomicCheckpointIO) and writer.write_best():
                _copy(self.run.best, self.run.last)


class HeadCheckpoint(Checkpoint):
    """Saves `head.ckpt` at the end of the phases of the head alone with which a run begins, before `last.ckpt`.

    Args:
        run: The run's directory.
        state: The run's state.
    """

    def __init__(self, run: RunDirectory, state: RunState) -> None:
        self.run = run
        self.state = state

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save if the phase ends, and another one follows."""
        so_far = self.state.plan.phases[: len(self.state.records)]
        ends = self.state.phase_is_over and not self.state.in_last_phase
        if ends and all(phase.trained == {HEAD} for phase in so_far):
            trainer.save_checkpoint(self.run.head)


def write_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a checkpoint that is complete, in place of the one that may be there."""
    with atomic_path(path) as temporary:
        _write(checkpoint, temporary)


def write_soup(run: RunDirectory, weights: dict[str, Tensor], temperature: Mapping[str, Any]) -> None:
    """Write `soup.ckpt`: what the best checkpoint says of its network, with other weights and their temperature."""
    best = torch.load(run.best, map_location="cpu", weights_only=True)
    about = {name: value for name, value in best["tlab"].items() if name not in ("temperature", "calibration")}
    best["tlab"] = {**about, **temperature}
    write_checkpoint({name: best[name] for name in KEPT if name in best} | {"state_dict": weights}, run.soup)


def refit_checkpoint(run: RunDirectory, images: int, chosen_by: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the content of `refit.ckpt`, and what the checkpoint says of itself that validation has chosen.

    The content says what it comes from (`refit`: `epochs`, `steps`, `images` and `chosen_by`). It has the weights
    with which the refit ended, averaged ones where there are some, and says of its network what the other one says:
    classes, preprocessing, and all that was found on validation images, of which none are left; but not what the
    features of other weights look like.

    Args:
        run: The run's directory.
        images: Number of images that the refit has trained on.
        chosen_by: Metric that has chosen the number of its epochs.
    """
    ended = torch.load(run.refitting.last, map_location="cpu", weights_only=True)
    validated = torch.load(run.selected, map_location="cpu", weights_only=True)["tlab"]
    steps = ended["global_step"]
    record = {"epochs": ended["epoch"] + 1, "steps": steps, "images": images, "chosen_by": chosen_by}
    told = {name: value for name, value in validated.items() if name != "uncertainty"}
    told |= {"class_counts": ended["tlab"]["class_counts"], "refit": record}
    kept = {name: ended[name] for name in (*KEPT, "state_dict")}
    return kept | {"tlab": told}, validated


def resumable(run: RunDirectory) -> Path | None:
    """Return the newest intact checkpoint to resume from; None without one.

    A damaged one is removed, and the one before takes its place.
    """
    for path in (run.last, run.previous):
        if path.exists() and not _is_whole(path):
            log.warning("%s is damaged; resuming from the checkpoint before it, or from the start", path)
            path.unlink()
    if run.previous.exists() and not run.last.exists():
        run.previous.replace(run.last)
    return run.last if run.last.exists() else None


def _is_whole(path: Path) -> bool:
    """Tell whether every part of a torch file matches its checksum."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, OSError):
        return False
