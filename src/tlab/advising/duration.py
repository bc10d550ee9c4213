"""How long a plan takes on this machine, by steps that are timed here."""

import time
from dataclasses import asdict, dataclass

import torch
from omegaconf import DictConfig

from tlab.core.hardware import single_threaded
from tlab.core.measurements import measurements
from tlab.data.datamodule import ImageDataModule
from tlab.data.loader import make_loader
from tlab.data.sampler import SampleKey
from tlab.finetuning.features.cache import VIEWS
from tlab.models.autotune.precision import find_accelerator, processor, timed_step, timing_copy
from tlab.models.classifier import Classifier

BATCH = 16  # images of a timed step
READ = 32  # images whose reading is timed
ROUNDS = 2
TRIED = 1_000  # images on which finetune.batchnorm=auto tries two kinds of statistics


@dataclass(frozen=True)
class Speeds:
    """Seconds that an image takes in the network.

    Attributes:
        forward: Without gradients.
        train: In a step that trains all stages.
        train_last: In a step that trains the last stage, from the output of those before it.
    """

    forward: float
    train: float
    train_last: float


def measure_speeds(cfg: DictConfig, net: Classifier, precision: str) -> Speeds:
    """Return the network's speeds, which are kept in the cache directory by all that they depend on.

    Args:
        cfg: Configuration of a run.
        net: The network; left as it is.
        precision: Precision of the arithmetic.
    """
    device, size = find_accelerator(cfg.trainer.accelerator), cfg.data.image_size
    last = net.backbone.stage_names[-1]
    channels_last = cfg.trainer.channels_last
    machine = (processor(), torch.get_num_threads(), torch.__version__, device, precision, channels_last)
    key = "|".join(map(str, (*machine, size, net.backbone.variant, cfg.backbone.name, last)))
    with measurements("speeds") as known:
        if key not in known:
            everything, part = net.group_names, (last, "head")
            times = {}
            for name, groups in {"train": everything, "train_last": part}.items():
                twin, images = timing_copy(net, groups, BATCH, size, device, channels_last)
                x, after = twin.frozen_part(images)
                times[name] = min(timed_step(twin, x, after, precision) for _ in range(1 + ROUNDS))
                if name == "train":
                    twin.eval()
                    times["forward"] = min(
                        timed_step(twin, images, "", precision, backward=False) for _ in range(ROUNDS)
                    )
            known[key] = asdict(Speeds(**{name: seconds / BATCH for name, seconds in times.items()}))
    return Speeds(**known[key])


def reading_seconds(data: ImageDataModule) -> float:
    """Return the seconds that a training image takes to be decoded, on one core."""
    images = data.images(data.samples("train"))
    step = max(1, len(images) // READ)
    keys = [SampleKey(0, number) for number in range(0, len(images), step)][:READ]
    with single_threaded():
        began = time.perf_counter()
        for _ in make_loader(images, keys, len(keys), 0):
            pass
        return (time.perf_counter() - began) / len(keys)


def plan_seconds(
    plan: str, speeds: Speeds, reading: float, images: int, measured: int, epochs: int, head_epochs: int
) -> float:
    """Return the seconds of a run.

    Args:
        plan: A key of `choice.PLANS`.
        speeds: The network's speeds.
        reading: Seconds in which an image is read.
        images: Number of training images.
        measured: Number of images that are measured after each epoch.
        epochs: Number of epochs.
        head_epochs: Those of them that lp_ft has for the head, which is solved in one.
    """
    look = speeds.forward + reading
    adapting = (images + 2 * min(images, TRIED)) * look  # finetune.batchnorm=auto
    head = (VIEWS * images + measured) * look  # features of each view, on which it is solved
    if plan in ("head", "cut"):
        return adapting + head
    if plan == "last":
        return head + epochs * (images * speeds.train_last + measured * speeds.forward)
    epoch = images * (speeds.train + reading) + measured * look
    return epochs * epoch if plan == "full" else adapting + head + (epochs - head_epochs) * epoch
