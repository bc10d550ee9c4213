"""All images of a run's data, and what its backbone makes of them as it comes: for the commands before training."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from tlab.assembly.build import build_backbone, build_data, build_net

if TYPE_CHECKING:  # torch is imported when the work begins, not for --help
    import numpy as np
    from numpy.typing import NDArray

    from tlab.data.datamodule import ImageDataModule
    from tlab.data.sources.samples import Sample
    from tlab.models.classifier import Classifier


@dataclass(frozen=True)
class FrozenFeatures:
    """Features of all N readable images.

    Attributes:
        net: Backbone, and a head that has learned nothing.
        samples: Split and file of each image; splits in the order of the data module, further tests last.
        stages: Stage -> its output averaged over positions, `pool` -> what a head would get: N D, float32. NaN for
            an image that turned out to be unreadable.
        logits: Logits of the classifier that the weights were trained with: N K, float32; None where there is none.
        precision: Precision of the arithmetic.
        computed: Number of images that were computed now; the others' features were stored earlier.
        seconds: Duration of that.
    """

    net: "Classifier"
    samples: "list[tuple[str, Sample]]"
    stages: "dict[str, NDArray[np.float32]]"
    logits: "NDArray[np.float32] | None"
    precision: str
    computed: int
    seconds: float

    @property
    def splits(self) -> "NDArray[np.str_]":
        """The split of each image: N."""
        import numpy as np

        return np.array([split for split, _ in self.samples])

    @property
    def labels(self) -> "NDArray[np.int64]":
        """The label of each image: N."""
        import numpy as np

        return np.array([sample.label for _, sample in self.samples], dtype=np.int64)


def open_images(cfg: DictConfig, to_train: bool = True) -> "ImageDataModule":
    """Return the data of a run's configuration, indexed, checked and split.

    Args:
        cfg: Configuration of a run.
        to_train: See `ImageDataModule`.

    Raises:
        UserError: The data cannot be used.
    """
    data = build_data(cfg)
    data.to_train = to_train
    data.setup()
    return data


def frozen_features(cfg: DictConfig, data: "ImageDataModule") -> FrozenFeatures:
    """Return the features that the backbone of a run's configuration has of all images, as evaluation sees them.

    They take one pass, which is kept in the cache directory (`features.cache`): called again, it takes a fraction
    of a second. Random weights are those of a run with this seed.

    Args:
        cfg: Configuration of a run.
        data: Its data, set up.

    Raises:
        UserError: The backbone or its weights cannot be had.
    """
    import lightning.pytorch as L
    import torch

    from tlab.assembly.precision_and_compile import choose_precision
    from tlab.finetuning.features.stage_features import stage_features
    from tlab.models.autotune.precision import find_accelerator
    from tlab.models.classifier import POOL

    L.seed_everything(cfg.seed, workers=True, verbose=False)
    backbone = build_backbone(cfg)
    net = build_net(cfg, backbone, data)
    precision = choose_precision(cfg, net, head_only=True)
    net = net.to(torch.device(find_accelerator(cfg.trainer.accelerator))).to(memory_format=torch.channels_last)
    splits = [*data.index.splits, *data.further_tests]
    samples = [(split, sample) for split in splits for sample in data.samples(split)]
    max_gb = cfg.features.max_gb if cfg.features.cache == "auto" else 0.0
    found = stage_features(net, data, [sample for _, sample in samples], precision, max_gb)
    source, logits = backbone.pretraining, None
    if source.classifier_fits and (source.pooling or "avg") == net.head.pooling and not source.head_layers:
        weight, bias = source.classifier_weight, source.classifier_bias
        if weight is not None and bias is not None and weight.shape[1] == net.head.pooled_features:
            logits = found.stages[POOL] @ weight.numpy().T + bias.numpy()
    return FrozenFeatures(net, samples, found.stages, logits, precision, found.computed, found.seconds)
