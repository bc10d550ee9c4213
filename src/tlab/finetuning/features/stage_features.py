"""What every stage of a network makes of some images, pooled, from one pass: for whoever looks before training."""

import hashlib
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tlab.core.eviction import evict
from tlab.data import progress_bar
from tlab.data.datamodule import ImageDataModule
from tlab.data.sampler import OrderedKeys
from tlab.data.sources.samples import Sample
from tlab.finetuning.features.cache import GB, file_of, image_chunks, note_skipped, recipe_of, stored_rows
from tlab.finetuning.features.image_view import ImageView
from tlab.finetuning.features.inference import run_prefix
from tlab.finetuning.features.rows import has_features, without_features
from tlab.models.classifier import POOL, Classifier
from tlab.models.stages import digest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageFeatures:
    """Features of N images.

    Attributes:
        stages: Stage -> its output averaged over positions, and `POOL` -> what the head classifies: N D, float32.
            Rows of images that cannot be read are NaN.
        computed: Number of images that were computed now; the others' rows were stored earlier.
        seconds: Duration of that.
    """

    stages: dict[str, NDArray[np.float32]]
    computed: int
    seconds: float


def stage_features(
    net: Classifier, data: ImageDataModule, samples: Sequence[Sample], precision: str, max_gb: float
) -> StageFeatures:
    """Return the features of images as evaluation sees them, in one pass that is kept in the cache directory.

    Args:
        net: The network, which is not changed.
        data: Data module of the images, set up.
        samples: The images, whose rows come in this order; those that cannot be read are noted in `data.skipped`.
        precision: Precision of the arithmetic: `32-true`, `bf16-mixed` or `16-mixed`.
        max_gb: Maximum size of the cache of features in 10^9 bytes; larger ones are not kept.

    Raises:
        UserError: An image cannot be read, and `data.unreadable=error`.
    """
    net.eval()
    shapes = net.backbone.stage_shapes(data.image_size)
    widths = {stage: shape[channel_axis(shape)] for stage, shape in shapes.items()}
    widths |= {list(shapes)[-1]: net.backbone.feature_dim, POOL: net.head.pooled_features}
    began = time.perf_counter()
    rows, computed = _rows(net, data, samples, precision, max_gb, sum(widths.values()))
    ends = np.cumsum([*widths.values()])
    parts = dict(zip(widths, np.split(rows, ends[:-1], axis=1), strict=True))
    return StageFeatures(parts, computed, time.perf_counter() - began)


def _rows(
    net: Classifier,
    data: ImageDataModule,
    samples: Sequence[Sample],
    precision: str,
    max_gb: float,
    width: int,
) -> tuple[NDArray[np.float32], int]:
    """Return the rows of all stages side by side, stored where that is possible, and how many are new."""
    device, computed = next(net.parameters()).device.type, 0
    view = ImageView.of_samples(data, samples)  # None: a transform cannot be pickled, nothing tells its rows
    images = data.images(samples) if view is None else view.images
    keys = OrderedKeys(range(len(images)), epoch=0)

    def compute(first: int) -> Iterator[NDArray[np.float32]]:
        nonlocal computed
        chunks = image_chunks(images, keys[first:], device, data.num_workers)
        outputs = run_prefix(_AllStages(net), chunks, POOL, "", precision, torch.channels_last)  # type: ignore[arg-type]
        for y in progress_bar.shown(outputs, "Features of all stages", len(keys) - first, size=len):
            computed += len(y)
            missing = np.array(images.are_skipped(keys[first : first + len(y)]))
            first += len(y)
            yield without_features(y.cpu().numpy(), missing)

    order = np.arange(len(samples)) if view is None else view.rows(samples)
    size = 4 * width * len(keys)
    if view is None or size > max_gb * GB:
        return np.concatenate([*compute(0)])[order], computed
    path = _file(net, view, precision)
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            evict(path.parent, int(max_gb * GB) - size)
        rows = stored_rows(path, len(keys), compute)[order]
    except OSError as error:
        log.warning("features cannot be kept in %s (%s); TLAB_CACHE names another folder", path.parent, error)
        return np.concatenate([*compute(0)])[order], computed
    note_skipped(samples, has_features(rows), data, path)
    return rows, computed


def _file(net: Classifier, view: ImageView, precision: str) -> Path:
    """Return the file of the rows, by all that they depend on."""
    stages = net.backbone.stages
    own = {
        "all stages": [[name, digest(stages[name]), str(stages[name])] for name in net.backbone.stage_names],
        "pooling": [net.head.pooling, net.head.prefix_tokens],
        "code of all stages": hashlib.sha256(Path(__file__).read_bytes()).hexdigest(),
    }
    return file_of({**recipe_of(net, precision, channels_last=True), **view.recipe, **own})


class _AllStages(nn.Module):
    """Stands for a network whose `prefix` returns the pooled output of all stages, side by side: `B D`, float32."""

    def __init__(self, net: Classifier) -> None:
        super().__init__()
        self.net = net

    def prefix(self, x: Tensor, upto: str, after: str) -> Tensor:
        """Return the features of images `B C H W`; the other arguments are always the same."""
        backbone, pooled = self.net.backbone, list[Tensor]()
        x = self.net.normalize(x)
        for stage in backbone.stage_names:
            x = backbone.forward_stages(x, stage, stage)
            axis = 1 + channel_axis(tuple(x.shape[1:]))
            pooled.append(x.float().mean([each for each in range(1, x.ndim) if each != axis]) if x.ndim > 2 else x)
        pooled.append(self.net.head.pool(x))
        return torch.cat([each.float() for each in pooled], dim=1)


def channel_axis(shape: tuple[int, ...]) -> int:
    """Return the axis of channels of a stage's output, without the batch axis.

    Tokens are `N C`. Images are square, so of three axes the two equal ones are the positions; `C H W` in doubt.
    """
    if len(shape) == 3:
        return 2 if shape[0] == shape[1] != shape[2] else 0
    return len(shape) - 1
