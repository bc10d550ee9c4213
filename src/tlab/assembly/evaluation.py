"""What a run measures when its training is over: a soup of its weights, its fold, its test split, `data.tests`."""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from tlab.assembly.fold_predictions import write_predictions
from tlab.assembly.uncertainty import add_uncertainty
from tlab.core.processes import from_first_process
from tlab.core.text import counted

log = logging.getLogger(__name__)

if TYPE_CHECKING:  # torch is imported when a run begins, not for --help
    import lightning.pytorch as L

    from tlab.data.datamodule import ImageDataModule
    from tlab.models.module import ImageClassifier
    from tlab.runs.directory import RunDirectory


def make_soup(
    cfg: DictConfig, run: "RunDirectory", trainer: "L.Trainer", module: "ImageClassifier", data: "ImageDataModule"
) -> dict[str, float]:
    """Write `soup.ckpt` where `finetune.soup` asks for it, and return its `val/*`; empty where it does not.

    It lies between the end of the head phase and the best epoch; if that is one of the head phase, between the best
    epoch and the last. So it never validates worse than the best epoch.
    """
    if cfg.finetune.soup is None:
        return {}
    if not run.head.exists():  # a callback has ended training before
        log.warning("no soup, since training was ended in the phase of the head alone")
        return {}
    return from_first_process(_soup, run, trainer, module, data)


def _soup(
    run: "RunDirectory", trainer: "L.Trainer", module: "ImageClassifier", data: "ImageDataModule"
) -> dict[str, float]:
    import torch

    from tlab.finetuning.soup import wise_soup
    from tlab.models.calibration.temperature import fit_temperature
    from tlab.runs.checkpoints import write_soup
    from tlab.runs.confusion import write_counts

    record = run.record.get("soup")
    if record and run.soup.exists():
        return record["metrics"]
    head, best, last = (
        torch.load(file, map_location="cpu", weights_only=True)["state_dict"]
        for file in (run.head, run.best, run.last)
    )
    stages = [name for name in head if name.startswith("net.backbone.")]
    of_head = all(torch.equal(head[name], best[name]) for name in stages)  # the best epoch is one of the head phase
    head, end = (best, last) if of_head else (head, best)
    module.to(trainer.strategy.root_device)
    weights, chosen, record = wise_soup(module, data, head, end, trainer.precision)
    write_soup(run, weights, fit_temperature(*chosen.logits.arrays()))
    write_counts(run, "val", chosen.confusion, module.classes)
    run.update(soup=record)
    return record["metrics"]


def record_temperature(run: "RunDirectory", trainer: "L.Trainer", about: Mapping[str, Any]) -> dict[str, float]:
    """Write the temperature of the selected checkpoint into `run.json`, and draw what it changes.

    Args:
        run: The run's directory.
        trainer: Its trainer.
        about: What the checkpoint says of itself.

    Returns:
        `val/nll` and `val/ece` of the probabilities that it gives; empty where it has no temperature, since it was
        trained with an earlier version.
    """
    from tlab.dashboards.reliability import draw_reliability
    from tlab.models.calibration.temperature import temperature_of

    if "temperature" not in about:
        return {}
    draw_reliability(trainer, about)
    told = {key: value for key, value in about["calibration"].items() if not key.startswith("reliability")}
    run.update(temperature=about["temperature"], calibration=told)
    scaled = "_scaled" if temperature_of(about).lowers_nll else ""
    images = counted(told["images"], "validation image")
    if about["temperature"] == 1:
        log.info("calibration: %s give no temperature (NLL %.4g, ECE %.3f)", images, told["nll"], told["ece"])
        return {"val/nll": told["nll"], "val/ece": told["ece"]}
    becomes, applied = ("becomes", "is applied") if scaled else ("would become", "is not applied")
    log.info(
        "calibration: on held-out halves of %s NLL %.3f %s %.3f, ECE %.3f %s %.3f, so temperature %.3g %s",
        *(images, told["nll"], becomes, told["nll_scaled"], told["ece"], becomes, told["ece_scaled"]),
        *(about["temperature"], applied),
    )
    return {"val/nll": told[f"nll{scaled}"], "val/ece": told[f"ece{scaled}"]}


def evaluate_best(
    cfg: DictConfig, run: "RunDirectory", trainer: "L.Trainer", module: "ImageClassifier", data: "ImageDataModule"
) -> dict[str, float]:
    """Return `test/*` of the selected checkpoint, on the test split and `data.tests`; `val/nll`, `val/ece`.

    Of a soup also its other `val/*`.

    Where `data.folds` is used, what that checkpoint predicts for the fold is written too.
    What a run that was finished before has measured is not measured again.
    """
    import torch

    from tlab.data.sources.evaluation_sources import fingerprints
    from tlab.runs.checkpoints import write_checkpoint
    from tlab.runs.data_check import unmeasured

    metrics = make_soup(cfg, run, trainer, module, data)
    # loaded here, because Lightning's `ckpt_path` would also put the callbacks back to the best epoch
    selected = torch.load(run.selected, map_location="cpu", weights_only=True)
    metrics |= record_temperature(run, trainer, selected["tlab"])
    if from_first_process(add_uncertainty, cfg, selected, run.selected.name, trainer, module, data):
        from_first_process(write_checkpoint, selected, run.selected)
    metrics |= {name: value for name, value in run.metrics().items() if name.startswith("test/")}
    for test in run.record.get("tests", {}).values():
        metrics |= test["metrics"]
    left = unmeasured(run, fingerprints(data.test_sources, run.record["class_names"]))
    own = ["test"] if "test" in data.index.splits and "test/acc" not in metrics else []
    folds = cfg.data.get("folds") is not None
    if not own and not left and not folds:
        return metrics
    module.load_state_dict(selected["state_dict"])
    if folds:
        write_predictions(run, trainer, module, data)
    for name in [*own, *left]:
        data.test_split = "test" if name in own else f"test/{name}"
        found = dict(trainer.test(module, datamodule=data, verbose=False)[0])
        metrics |= found
        if name in left:
            test = {"root": str(data.tests[name].root), "images": data.readable(data.test_split)}
            test |= {"fingerprint": left[name], "metrics": found}
            run.update(tests={**run.record.get("tests", {}), name: test})
    return metrics
