"""What every plan of conf/finetune does to real networks, epoch by epoch, against literal tables."""

from functools import partial

import lightning.pytorch as L
import pytest
import torch
from torch.utils.data import DataLoader

from tlab.assembly.build import make_plan
from tlab.config.hydra import compose
from tlab.data.batch import Batch
from tlab.finetuning import BackboneFinetuning, RunState
from tlab.models.backbones import build_backbone
from tlab.models.classifier import Classifier
from tlab.models.head import Head
from tlab.models.module import ImageClassifier
from tlab.models.stages import IMAGENET_MEAN, IMAGENET_STD

# Per epoch: trainable tensors, groups with their rate (the optimiser's is 1) | groups whose buffers changed.
# 20 convolutions and 20 BatchNorms of two tensors each make ResNet-18's 60, with the head 62.
# Its rates fall by 0.6 from stage to stage, as they do by default; those of the other networks are held alike.
RESNET18 = {
    "head": ["2: head 1.0 |", "2: head 1.0 |"],
    "lp_ft": [
        "2: head 1.0 |",
        "62: stem 0.0389, layer1 0.0648, layer2 0.108, layer3 0.18, layer4 0.3, head 0.3 | stem-layer4",
    ],
    "last": ["17: layer4 0.3, head 1.0 | layer4"] * 2,
    "gradual": [
        "2: head 1.0 |",
        "17: layer4 0.3, head 0.3 | layer4",
        "32: layer3 0.18, layer4 0.3, head 0.3 | layer3-layer4",
        "47: layer2 0.108, layer3 0.18, layer4 0.3, head 0.3 | layer2-layer4",
        "59: layer1 0.0648, layer2 0.108, layer3 0.18, layer4 0.3, head 0.3 | layer1-layer4",
        "62: stem 0.0389, layer1 0.0648, layer2 0.108, layer3 0.18, layer4 0.3, head 0.3 | stem-layer4",
    ],
    "full": ["62: stem-layer4 0.1, head 1.0 | stem-layer4"] * 2,
    "scratch": ["62: stem-layer4 1.0, head 1.0 | stem-layer4"] * 2,
}
# 13 convolutions with bias and 13 BatchNorms make 52; the two fully connected layers have no buffers.
VGG16_BN = {
    "head": ["2: head 1.0 |", "2: head 1.0 |"],
    "lp_ft": ["2: head 1.0 |", "58: block1-fc7 0.3, head 0.3 | block1-block5"],
    "last": ["4: fc7 0.3, head 1.0 |"] * 2,
    "gradual": [
        "2: head 1.0 |",
        "4: fc7 0.3, head 0.3 |",
        "6: fc6-fc7 0.3, head 0.3 |",
        "18: block5-fc7 0.3, head 0.3 | block5",
        "30: block4-fc7 0.3, head 0.3 | block4-block5",
        "42: block3-fc7 0.3, head 0.3 | block3-block5",
        "50: block2-fc7 0.3, head 0.3 | block2-block5",
        "58: block1-fc7 0.3, head 0.3 | block1-block5",
    ],
    "full": ["58: block1-fc7 0.1, head 1.0 | block1-block5"] * 2,
    "scratch": ["58: block1-fc7 1.0, head 1.0 | block1-block5"] * 2,
}
MOBILENET_V3_SMALL = {
    "head": ["2: head 1.0 |", "2: head 1.0 |"],
    "lp_ft": ["2: head 1.0 |", "142: stem-hidden 0.3, head 0.3 | stem-conv"],
    "last": ["4: hidden 0.3, head 1.0 |"] * 2,
    "gradual": [
        "2: head 1.0 |",
        "4: hidden 0.3, head 0.3 |",
        "7: conv-hidden 0.3, head 0.3 | conv",
        "46: block5-hidden 0.3, head 0.3 | block5-conv",
        "72: block4-hidden 0.3, head 0.3 | block4-conv",
        "111: block3-hidden 0.3, head 0.3 | block3-conv",
        "129: block2-hidden 0.3, head 0.3 | block2-conv",
        "139: block1-hidden 0.3, head 0.3 | block1-conv",
        "142: stem-hidden 0.3, head 0.3 | stem-conv",
    ],
    "full": ["142: stem-hidden 0.1, head 1.0 | stem-conv"] * 2,
    "scratch": ["142: stem-hidden 1.0, head 1.0 | stem-conv"] * 2,
}
# 12 blocks of 12 tensors, 2 of the last norm, and 4 in the stem: patches, class token, positions. No buffers.
VIT_B_16 = {
    "head": ["2: head 1.0 |", "2: head 1.0 |"],
    "lp_ft": ["2: head 1.0 |", "152: stem-layer11 0.3, head 0.3 |"],
    "last": ["16: layer11 0.3, head 1.0 |"] * 2,
    "gradual": [
        "2: head 1.0 |",
        "16: layer11 0.3, head 0.3 |",
        "28: layer10-layer11 0.3, head 0.3 |",
        "40: layer9-layer11 0.3, head 0.3 |",
        "52: layer8-layer11 0.3, head 0.3 |",
        "64: layer7-layer11 0.3, head 0.3 |",
        "76: layer6-layer11 0.3, head 0.3 |",
        "88: layer5-layer11 0.3, head 0.3 |",
        "100: layer4-layer11 0.3, head 0.3 |",
        "112: layer3-layer11 0.3, head 0.3 |",
        "124: layer2-layer11 0.3, head 0.3 |",
        "136: layer1-layer11 0.3, head 0.3 |",
        "148: layer0-layer11 0.3, head 0.3 |",
        "152: stem-layer11 0.3, head 0.3 |",
    ],
    "full": ["152: stem-layer11 0.1, head 1.0 |"] * 2,
    "scratch": ["152: stem-layer11 1.0, head 1.0 |"] * 2,
}
CONVNEXT_TINY = {
    "head": ["2: head 1.0 |", "2: head 1.0 |"],
    "lp_ft": ["2: head 1.0 |", "182: stem-stage4 0.3, head 0.3 |"],
    "last": ["35: stage4 0.3, head 1.0 |"] * 2,
    "gradual": [
        "2: head 1.0 |",
        "35: stage4 0.3, head 0.3 |",
        "120: stage3-stage4 0.3, head 0.3 |",
        "151: stage2-stage4 0.3, head 0.3 |",
        "178: stage1-stage4 0.3, head 0.3 |",
        "182: stem-stage4 0.3, head 0.3 |",
    ],
    "full": ["182: stem-stage4 0.1, head 1.0 |"] * 2,
    "scratch": ["182: stem-stage4 1.0, head 1.0 |"] * 2,
}
TABLES = {
    "resnet18": RESNET18,
    "vgg16_bn": VGG16_BN,
    "mobilenet_v3_small": MOBILENET_V3_SMALL,
    "vit_b_16": VIT_B_16,
    "convnext_tiny": CONVNEXT_TINY,
}
RATE = 0.01
QUICK = ("resnet18", "mobilenet_v3_small")


class Table(L.Callback):
    """Notes a line per epoch; what has a rate must have moved, and nothing else."""

    def __init__(self, net):
        self.net = net
        self.lines = []

    def on_train_epoch_start(self, trainer, pl_module):
        self.before = {name: value.clone() for name, value in self.net.state_dict().items()}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.rates = next(c for c in trainer.callbacks if isinstance(c, BackboneFinetuning)).state.rates

    def on_train_epoch_end(self, trainer, pl_module):
        parameters = dict(self.net.named_parameters())
        tensors = sum(parameter.requires_grad for parameter in parameters.values())
        now = self.net.state_dict()
        changed = {name for name in now if not torch.equal(now[name], self.before[name])}
        moved = {self.group(name) for name in changed if name in parameters}
        buffers = {self.group(name) for name in changed if name not in parameters}
        rates = {name: round(rate / RATE, 4) for name, rate in self.rates.items() if rate > 0}
        assert moved == rates.keys()
        self.lines.append(f"{tensors}: {self.runs(rates)} | {self.runs(dict.fromkeys(buffers, ''))}".rstrip())

    def runs(self, values):
        """Write neighbours of equal value as one: `stem-layer4 0.3, head 1.0`."""
        runs = []
        for name in self.net.group_names:
            if name not in values:
                runs.append(None)
            elif runs and runs[-1] and runs[-1][2] == values[name] and name != "head":
                runs[-1][1] = name
            else:
                runs.append([name, name, values[name]])
        return ", ".join(
            f"{first}{'' if first == last else '-' + last} {value}".strip()
            for first, last, value in filter(None, runs)
        )

    @staticmethod
    def group(key):
        return key.split(".")[2] if key.startswith("backbone.stages.") else key.split(".")[0]


@pytest.mark.parametrize("plan", list(RESNET18))
@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in TABLES]
)
def test_a_plan_is_carried_out(tmp_path, name, plan):
    expected = TABLES[name][plan]
    overrides = ["finetune.head_epochs=1"] if plan in ("lp_ft", "gradual") else []
    overrides += ["finetune.stage_lr_decay=1.0"] if name != "resnet18" else []
    choices = [f"backbone={name}", f"finetune={plan}", f"trainer.max_epochs={len(expected)}", *overrides]
    cfg = compose(["data.root=.", f"run_dir={tmp_path}", "head.solver=sgd", *choices])
    torch.manual_seed(0)
    backbone = build_backbone(name, weights=None, image_size=64, stages=cfg.backbone.stages)
    net = Classifier(backbone, Head(backbone.feature_dim, 3), IMAGENET_MEAN, IMAGENET_STD)
    torch.nn.init.normal_(net.head.linear.weight, std=0.1)  # so that all stages have a gradient in the first step
    for key, parameter in net.named_parameters():
        if key.endswith("layer_scale"):  # starts at 1e-6, where a step is lost to rounding
            torch.nn.init.ones_(parameter)
    plan_of_run = make_plan(cfg, backbone)
    image = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    batches = [Batch(image, torch.arange(4) % 3, torch.arange(4))]
    table = Table(net)
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=plan_of_run.epochs,
        callbacks=[BackboneFinetuning(RunState(plan_of_run)), table],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    module = ImageClassifier(net, ("a", "b", "c"), partial(torch.optim.SGD, lr=RATE))
    trainer.fit(module, DataLoader(batches, batch_size=None))
    assert table.lines == expected
