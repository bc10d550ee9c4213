"""Frozen means frozen, on real networks: no parameter and no buffer of the backbone changes by one bit."""

from functools import partial

import lightning.pytorch as L
import pytest
import torch
from torch.utils.data import DataLoader

from tlab.data.batch import Batch
from tlab.finetuning import BackboneFinetuning, RunState, build_plan
from tlab.models.backbones import build_backbone
from tlab.models.classifier import Classifier
from tlab.models.head import Head
from tlab.models.module import ImageClassifier
from tlab.models.stages import IMAGENET_MEAN, IMAGENET_STD


@pytest.mark.parametrize(
    ("name", "tensors", "buffers"),
    [("resnet18", 120, 60), ("vgg16_bn", 95, 39), ("mobilenet_v3_small", 242, 102)],
)
def test_no_tensor_of_a_frozen_backbone_changes(name, tensors, buffers, tmp_path):
    torch.manual_seed(0)
    # without the fully connected layers VGG has the same BatchNorms and a tenth of the weights
    upto = "block5" if name == "vgg16_bn" else None
    stages = None if upto is None else {"block1": "features.0", "block5": "features.34", "fc6": "avgpool"}
    backbone = build_backbone(name, weights=None, image_size=32, stages=stages, upto=upto)
    net = Classifier(backbone, Head(backbone.feature_dim, 3), IMAGENET_MEAN, IMAGENET_STD)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    assert len(before) == tensors - (4 if upto else 0)
    assert sum(1 for _ in backbone.buffers()) == buffers
    images = torch.randint(0, 256, (2, 8, 3, 32, 32), dtype=torch.uint8)
    batches = [Batch(x_BCHW, torch.arange(8) % 3, torch.arange(8)) for x_BCHW in images]
    loader = DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
    optimizer = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.1)
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=2,
        callbacks=[
            BackboneFinetuning(
                RunState(build_plan({"head": {"train": "head", "epochs": None}}, 2, backbone.stage_names))
            )
        ],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    head = net.head.linear.weight.clone()
    trainer.fit(ImageClassifier(net, ("a", "b", "c"), optimizer), loader, loader)
    assert not torch.equal(net.head.linear.weight, head)
    assert [key for key, value in backbone.state_dict().items() if not torch.equal(value, before[key])] == []
