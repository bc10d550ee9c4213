import io
import math

import lightning.pytorch as L
import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.plugins.pr_curve import metadata as pr_metadata
from tensorboard.util import tensor_util

from tlab.dashboards.confusion import ConfusionMatrix
from tlab.dashboards.pr_curves import PrecisionRecall, average_precision, bin_counts
from tlab.dashboards.preview import AugmentationPreview, label_caption
from tlab.dashboards.scalars import ConfigText, Scalars
from tlab.dashboards.stage_table import StageTable
from tlab.dashboards.top_losses import TopLosses
from tlab.data.augment.geometry import RandomHorizontalFlip
from tlab.data.augment.mixup import Mixing

CLASSES = ("blue", "green", "red")


def size_of(image):
    return Image.open(io.BytesIO(image.encoded_image_string)).size


def everything(state):
    return [
        Scalars(state),
        AugmentationPreview(4), ConfusionMatrix(), TopLosses(4), PrecisionRecall(),
        ConfigText("seed: 0"), StageTable(16, state.plan),
    ]  # fmt: skip


def test_scalars_are_those_of_the_steps(fit, events, state):
    class Speeds(L.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            state.rows.append({"images_per_second": 100.0 * (trainer.current_epoch + 1)})

    fit(Speeds(), Scalars(state))
    board = events()
    read = {tag: [(e.step, e.value) for e in board.Scalars(tag)] for tag in board.Tags()["scalars"]}
    steps = [0, 2, 3, 4]  # every second one, and the first of each epoch
    rate = pytest.approx(0.1)
    assert read["lr/head"] == [(step, rate) for step in steps]
    assert read["lr/stem"] == [(0, 0.0), (2, 0.0), (3, rate), (4, rate)]
    assert [step for step, _ in read["train/grad_norm"]] == steps
    assert read["train/phase"] == [(0, 0.0), (3, 1.0)]
    assert read["speed/train_images_per_second"] == [(3, 100.0), (6, 200.0)]


def test_gradient_norm_is_that_of_the_trainable_parameters(fit, events, module, state):
    norms = []

    def keep(*_):
        grads = [p.grad for p in module.net.parameters() if p.requires_grad]
        norms.append(math.sqrt(sum(float(g.double().square().sum()) for g in grads)))

    module.on_before_optimizer_step = keep
    fit(Scalars(state), log_every_n_steps=1)
    assert [e.value for e in events().Scalars("train/grad_norm")] == pytest.approx(norms, rel=1e-5)
    assert len(norms) == 6


def test_without_tensorboard_nothing_is_written_and_everything_runs(fit, tmp_path, state, capsys):
    fit(*everything(state), logger=False)
    assert not list(tmp_path.rglob("events.out*"))
    assert "trains in phase" in capsys.readouterr().out  # the console table does not need TensorBoard


def test_off_the_first_process_nothing_is_drawn(fit, tmp_path, state, monkeypatch, capsys):
    monkeypatch.setattr("lightning.pytorch.Trainer.is_global_zero", False)
    fit(*everything(state), logger=True)
    events = [file for file in tmp_path.rglob("events.out*") if b"preview" in file.read_bytes()]
    assert not events
    assert "trains in phase" not in capsys.readouterr().out


def test_dashboards_change_nothing_in_training(fit, module, state, data):
    start = {name: value.clone() for name, value in module.state_dict().items()}
    mixed = data(mix=Mixing(mixup_alpha=0.4))

    def trained(*callbacks):
        module.load_state_dict(start)
        torch.manual_seed(5)
        fit(*callbacks, datamodule=mixed)
        return torch.rand(3), {name: value.clone() for name, value in module.net.state_dict().items()}

    (after, plain), (after_drawing, drawn) = trained(), trained(*everything(state))
    assert torch.equal(after, after_drawing)
    assert all(torch.equal(plain[name], drawn[name]) for name in plain)


@pytest.mark.parametrize("mix", [None, Mixing(mixup_alpha=0.4)])
def test_preview_draws_the_batch_and_the_views(fit, events, data, mix):
    fit(AugmentationPreview(images=9, views=3), datamodule=data(mix=mix, augment={"flip": RandomHorizontalFlip()}))
    board = events()
    (batch,), (views,) = board.Images("preview/batch"), board.Images("preview/views")
    assert size_of(batch)[0] > 8 * 150  # eight tiles of 150 px in a row
    width, height = size_of(views)
    assert 4 * 150 < width < 5 * 170
    assert 3 * 150 < height < 4 * 180  # a quarter of nine images, rounded up


def test_preview_shows_an_image_that_nothing_augments_once(fit, events, data):
    fit(AugmentationPreview(images=9, views=3), datamodule=data())
    (views,) = events().Images("preview/views")
    height = size_of(views)[1]
    assert 3 * 150 < height < 4 * 180
    assert size_of(views)[0] == 400  # one tile and room for the title


def test_preview_of_no_images_is_none(fit, events):
    fit(AugmentationPreview(images=0))
    assert not events().Tags()["images"]


def test_labels_of_mixed_images_say_the_shares():
    assert label_caption(torch.tensor(2), CLASSES) == "red"
    assert label_caption(torch.tensor([0.0, 1.0, 0.0]), CLASSES) == "green"
    assert label_caption(torch.tensor([0.3, 0.0, 0.7]), CLASSES) == "0.70 red\n+ 0.30 blue"


def test_confusion_counts_the_last_epoch(fit, events, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "tlab.dashboards.confusion.confusion_figure", lambda counts, classes, title: seen.append((counts, title))
    )
    monkeypatch.setattr("tlab.dashboards.confusion.add_drawing", lambda *_: None)
    trainer = fit(ConfusionMatrix())
    (counts, title) = seen[0]
    assert len(seen) == 1  # two quick epochs, drawn once
    assert title == "Validation, epoch 2"
    assert counts.sum(dim=1).tolist() == [6, 6, 6]  # the sanity check's batch is not in it
    assert counts.trace() / 18 == pytest.approx(float(trainer.callback_metrics["val/acc"]))
    trainer.test(trainer.lightning_module, datamodule=trainer.datamodule, verbose=False)
    assert seen[1][1] == "Test"
    assert seen[1][0].trace() / 18 == pytest.approx(float(trainer.callback_metrics["test/acc"]))


def test_confusion_is_drawn_each_epoch_when_there_is_time(fit, events, monkeypatch):
    monkeypatch.setattr("tlab.dashboards.confusion.EVERY_SECONDS", 0)
    trainer = fit(ConfusionMatrix())
    trainer.validate(trainer.lightning_module, datamodule=trainer.datamodule, verbose=False)
    assert [image.step for image in events().Images("val/confusion")] == [3, 6, 6]


def test_top_losses_are_the_highest_of_the_split(fit, events, module, data, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "tlab.dashboards.top_losses.tile_figure", lambda images, captions, *_, **__: seen.append((images, captions))
    )
    monkeypatch.setattr("tlab.dashboards.top_losses.add_photos", lambda *_: None)
    datamodule = data()
    fit(TopLosses(5), datamodule=datamodule)
    (images, captions) = seen[0]
    module.eval()
    batches = list(datamodule.loader("val"))
    image = torch.cat([batch.image for batch in batches])
    label = torch.cat([batch.label for batch in batches])
    with torch.no_grad():
        logits = module(image)
    losses, order = torch.nn.functional.cross_entropy(logits, label, reduction="none").topk(5)
    assert [caption.splitlines()[-1] for caption in captions] == [f"loss {loss:.2f}" for loss in losses.tolist()]
    worst, k = int(order[0]), int(label[order[0]])
    file = datamodule.index.splits["val"][worst].path.name
    true, said, name, _ = captions[0].splitlines()
    assert true == f"true {CLASSES[k]} {float(logits[worst].softmax(0)[k]):.1%}"
    assert said.split()[1] == CLASSES[int(logits[worst].argmax())]
    assert name == file
    assert torch.equal(images[0], image[worst])


def test_top_losses_draws_one_image(fit, events):
    fit(TopLosses(3))
    assert len(events().Images("val/top_losses")) == 1


def test_precision_and_recall_of_each_class(fit, events):
    fit(PrecisionRecall())
    board = events()
    tags = board.Tags()["tensors"]
    assert {f"pr/{name}" for name in CLASSES} <= set(tags)
    assert board.SummaryMetadata("pr/red").plugin_data.plugin_name == pr_metadata.PLUGIN_NAME
    (event,) = board.Tensors("pr/red")
    tp, fp, tn, fn, _, recall = tensor_util.make_ndarray(event.tensor_proto)
    assert (tp[0], fp[0]) == (6, 12)  # threshold 0 takes all: 6 red and 12 others
    assert np.all(tp + fn == 6)
    assert np.all(fp + tn == 12)
    assert recall[0] == 1


def test_bins_hold_each_image_once_per_class():
    probabilities = torch.tensor([[1.0, 0.0], [0.25, 0.75]])
    counts = bin_counts(probabilities, torch.tensor([0, 0]))
    assert counts.sum(dim=2).tolist() == [[0, 2], [2, 0]]  # others, own; per class
    assert counts[1, 0].nonzero().flatten().tolist() == [31, 126]
    assert counts[0, 1].nonzero().flatten().tolist() == [0, 94]


def test_average_precision_by_hand():
    # Ranking: right, wrong, right -> thresholds ascending: P = 2/3, 1/2, 1; R = 1, 1/2, 1/2
    precision, recall = torch.tensor([[2 / 3, 0.5, 1.0]]), torch.tensor([[1.0, 0.5, 0.5]])
    assert average_precision(precision, recall).item() == pytest.approx(0.5 * 2 / 3 + 0.5 * 1.0)


def test_configuration_is_a_block_of_yaml(fit, events):
    fit(ConfigText("seed: 0\noptimizer:\n  lr: 0.1\n"))
    (event,) = events().Tensors("config/text_summary")
    assert event.tensor_proto.string_val[0].decode() == "```yaml\nseed: 0\noptimizer:\n  lr: 0.1\n```"
