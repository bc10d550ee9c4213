"""The logits of a split outside a fit, where Lightning's validation loop is not to be had."""

from collections.abc import Iterator

import torch
from torch import Tensor

from tlab.data.batch import Batch
from tlab.data.datamodule import ImageDataModule
from tlab.data.loader import make_loader
from tlab.data.sampler import SequentialSampler
from tlab.models.autotune.precision import autocast
from tlab.models.module import ImageClassifier


def split_logits(
    module: ImageClassifier, data: ImageDataModule, split: str, precision: str
) -> Iterator[tuple[Batch, Tensor]]:
    """Yield each batch of a split in order, as evaluation sees it, with its logits `B K` (float32).

    Args:
        module: The module, on the device that computes; it is put into evaluation mode.
        data: The data.
        split: Name of the split.
        precision: Precision of the arithmetic.
    """
    module.eval()
    samples = data.samples(split)
    for batch in make_loader(
        data.images(samples), SequentialSampler(len(samples)), data.batch_size, data.num_workers
    ):
        with torch.inference_mode(), autocast(module.device, precision):
            logits = module.net(module.to_memory_format(batch.image.to(module.device))).float()
        yield batch, logits
