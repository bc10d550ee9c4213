"""`predictions_val.csv`: what a run on one fold says of its validation images, which the other runs train on."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tlab.core.files import write_csv
from tlab.core.processes import from_first_process

if TYPE_CHECKING:  # torch is imported when a run begins, not for --help
    import lightning.pytorch as L

    from tlab.data.datamodule import ImageDataModule
    from tlab.models.module import ImageClassifier
    from tlab.runs.directory import RunDirectory


def write_predictions(
    run: "RunDirectory", trainer: "L.Trainer", module: "ImageClassifier", data: "ImageDataModule"
) -> None:
    """Write a row for each validation image: `path`, `label`, `prediction`, `probability`, `p(<class>)` ...

    The probabilities are those before any temperature, which was fitted on these images.

    Args:
        run: The run's directory.
        trainer: Its trainer, which says the device and the precision.
        module: Its module, with the weights of the selected checkpoint.
        data: Its data.
    """
    from_first_process(_write, run, trainer, module, data)


def _write(run: "RunDirectory", trainer: "L.Trainer", module: "ImageClassifier", data: "ImageDataModule") -> None:
    columns = ["path", "label", "prediction", "probability", *(f"p({name})" for name in module.classes)]
    write_csv(run.val_predictions_file, columns, _rows(trainer, module, data))


def _rows(trainer: "L.Trainer", module: "ImageClassifier", data: "ImageDataModule") -> Iterator[dict[str, str]]:
    from tlab.finetuning.split_logits import split_logits

    samples = data.samples("val")
    module.to(trainer.strategy.root_device)
    for batch, logits in split_logits(module, data, "val", str(trainer.precision)):
        for index, shares in zip(batch.index.tolist(), logits.softmax(dim=1).tolist(), strict=True):
            best = max(range(len(shares)), key=shares.__getitem__)
            yield {
                "path": data.index.relative(samples[index].path),
                "label": module.classes[samples[index].label],
                "prediction": module.classes[best],
                "probability": f"{shares[best]:.6g}",
                **{f"p({name})": f"{share:.6g}" for name, share in zip(module.classes, shares, strict=True)},
            }
