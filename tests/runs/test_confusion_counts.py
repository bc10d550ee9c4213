"""Counts of the confusion matrix, whoever asks for them."""

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

from tlab.data.batch import Batch
from tlab.data.loader import whole_batches
from tlab.runs.confusion import ConfusionCounts


class Rows(LightningModule):
    """Takes its images for logits."""

    classes = ("a", "b")

    def validation_step(self, batch, _):
        return {"logits": batch.image}

    test_step = validation_step


@pytest.fixture
def trainer():
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
    return Trainer(accelerator="cpu", callbacks=[ConfusionCounts(), ConfusionCounts()], **quiet)


LABELS, PREDICTIONS = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([0, 1, 1, 1, 0])


def batches(labels, predictions):
    logits = torch.nn.functional.one_hot(predictions, 2).float()
    whole = [Batch(logits[i : i + 2], labels[i : i + 2], torch.arange(i, i + 2)) for i in (0, 2, 4)]
    return DataLoader(whole, batch_size=None, collate_fn=whole_batches)


def test_counts_are_those_of_the_last_validation_or_test(trainer):
    counts = trainer.callbacks[0]
    trainer.validate(Rows(), batches(LABELS, PREDICTIONS), verbose=False)
    assert counts.counts_KK.tolist() == [[1, 1], [1, 2]]
    trainer.test(Rows(), batches(LABELS, LABELS), verbose=False)
    assert counts.counts_KK.tolist() == [[2, 0], [0, 3]]


def test_several_count_once(trainer):
    trainer.validate(Rows(), batches(LABELS, PREDICTIONS), verbose=False)
    first, second = (callback for callback in trainer.callbacks if isinstance(callback, ConfusionCounts))
    assert second.counts_KK is first.counts_KK
