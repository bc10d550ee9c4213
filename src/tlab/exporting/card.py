"""The model card: what an exported model is, what is known of it, and how to run it (Mitchell et al. 2019)."""

import inspect
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tlab.core.text import as_text, counted, duration, few
from tlab.dashboards.summary_table import TITLES
from tlab.data.contents import read_entries
from tlab.exporting.figures import SplitFigures, class_accuracies, speaks_for
from tlab.exporting.graph import ABOUT
from tlab.exporting.photographs import read
from tlab.exporting.self_check import Agreement
from tlab.runs.directory import RunDirectory
from tlab.runs.environment import versions
from tlab.runs.load import Trained

AGREEMENT = "## Agreement with the checkpoint"
MOST_CLASSES = 50  # up to which each has a row
IMPORTS = {
    "onnx": ["import json", "", "import numpy as np", "import onnxruntime", "from PIL import Image, ImageOps"],
    "torch_export": ["import json", "", "import numpy as np", "import torch", "from PIL import Image, ImageOps"],
}
RUN = {
    "onnx": """\
session = onnxruntime.InferenceSession({file})
classes = json.loads(session.get_modelmeta().custom_metadata_map["class_names"])
probabilities = session.run(["probabilities"], {{"image": read("photo.jpg"{levels})}})[0][0]""",
    "torch_export": """\
about = {{"{about}": ""}}
model = torch.export.load({file}, extra_files=about).module()
classes = json.loads(about["{about}"])["class_names"]
probabilities = model(torch.from_numpy(read("photo.jpg"{levels})))[0].tolist()""",
}
SHOW = """\
for name, probability in sorted(zip(classes, probabilities), key=lambda pair: -pair[1])[:5]:
    print(f"{probability:.4f} {name}")"""


def card(
    trained: Trained,
    run: RunDirectory,
    known: Sequence[SplitFigures],
    output: Path,
    format: str,
    temperature: float,
    agreement: Agreement,
) -> str:
    """Return the model card as Markdown.

    It names no folder of this machine, and shows no image.

    Args:
        trained: The run.
        run: Its directory, which may hold nothing.
        known: What it is worth.
        output: The model's file.
        format: `onnx` or `torch_export`.
        temperature: What logits are divided by in the graph.
        agreement: How far the model agrees with the checkpoint.
    """
    sections = {
        title(output): _purpose(trained, format, temperature),
        "## How to run it": _how_to_run(trained, output.name, format),
        AGREEMENT: [f"In fp32 on the CPU: {agreement}."],
        "## Network": _network(trained, run.record),
        "## Data": _data(trained, run),
        "## Training": _training(trained, run.record),
        "## Measures": _measures(trained, known),
        "## Calibration": _calibration(trained, run, temperature),
        "## What it was not tested on": _untested(trained, run, known),
        "## Versions": [", ".join(f"{name} {number}" for name, number in versions().items())],
    }
    return "\n".join(f"{title}\n\n{chr(10).join(lines)}\n" for title, lines in sections.items())


def title(output: Path) -> str:
    """Return the first line of the card of a model's file."""
    return f"# {as_text(output.name)}"


def is_card(text: str, output: Path) -> bool:
    """Tell whether a text is a card of this model's file, of whatever run."""
    return text.startswith(f"{title(output)}\n") and f"\n{AGREEMENT}\n" in text


def _purpose(trained: Trained, format: str, temperature: float) -> list[str]:
    size = trained.image_size
    views = {
        "crop": f"the shorter side becomes {round(size / trained.crop_fraction)} pixels, and of that the central "
        f"{size} x {size} count",
        "pad": f"the longer side becomes {size} pixels, and margins make it {size} x {size}",
    }
    kind = "An ONNX model" if format == "onnx" else "A program of torch.export"
    deep = trained.decode_options.levels.integers
    lines = [
        f"{kind} that tells {counted(trained.classes, 'class', 'classes')} of images apart: "
        f"{few(trained.classes, 20)}. One file holds all: resizing, normalization, network and temperature.",
        "",
        "- input `image`: uint8, N x 3 x H x W, RGB, upright, any size",
        "- output `probabilities`: float32, N x K, in the order of `class_names` (in the file, as JSON)",
        f"- what the network sees: {views[trained.resize]}",
        f"- temperature: {temperature:.4g}"
        + ("" if temperature != 1 else " (probabilities are the network's own)"),
    ]
    if deep is not None:
        lines.append(
            f"- the training images had more than 8 bits: scale {deep[0]:g} to 0, and {deep[1]:g} to 255, as "
            "`read` below does with gray images; of color ones Pillow keeps only the upper 8 of 16 bits"
        )
    return lines


def _how_to_run(trained: Trained, name: str, format: str) -> list[str]:
    packages = "onnxruntime" if format == "onnx" else "torch"
    levels = "".join(f", {level:g}" for level in trained.decode_options.levels.integers or ())
    code = RUN[format].format(file=json.dumps(name, ensure_ascii=False), about=ABOUT, levels=levels)
    body = [*IMPORTS[format], "", "", *inspect.getsource(read).splitlines(), "", "", code, SHOW]
    return [f"In its folder, after `pip install {packages} numpy pillow`:", "", "```python", *body, "```"]


def _network(trained: Trained, record: dict[str, Any]) -> list[str]:
    backbone, head = trained.config.backbone, trained.config.head  # which may be of the user's own classes
    name, library = backbone.get("name") or backbone["_target_"], backbone.get("library") or "own"
    stages = trained.module.net.backbone.stage_names
    cut = f", cut behind {backbone.upto}" if backbone.get("upto") else ""
    parameters = sum(each.numel() for each in trained.module.net.parameters())
    mean, std = (
        each.flatten().tolist() for each in (trained.module.net.normalize.mean, trained.module.net.normalize.std)
    )
    return [
        f"- backbone: {name} ({library}){cut}; stages {', '.join(stages)}",
        f"- weights before training: {record.get('weights', 'not known')}; a license of theirs is one of this file",
        f"- head: pooling {head.get('pooling', 'avg')}, hidden layers {[*head.get('hidden', [])] or 'none'}",
        f"- {counted(parameters, 'parameter')}, of checkpoint {trained.checkpoint.name}",
        f"- normalization: mean {_numbers(mean)}, standard deviation {_numbers(std)}",
    ]


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _data(trained: Trained, run: RunDirectory) -> list[str]:
    about = run.record.get("data") or {}
    if not about or not run.data_file.exists():
        return ["Not known: the checkpoint was exported without its run directory."]
    counts = Counter((entry.split, entry.label) for entry in read_entries(run.data_file))
    splits = list(about["images"])
    totals = ", ".join(f"{split} {number:,}" for split, number in about["images"].items())
    told = [
        f"- images: {totals}; {about.get('unreadable', 0)} unreadable were left out",
        f"- from folder {Path(about['root']).name}",
        f"- fingerprint of names, classes and content: {about.get('content', 'not known')}",
        "",
    ]
    if len(trained.classes) > MOST_CLASSES:
        each = sorted(counts["train", name] for name in map(as_text, trained.classes))
        return [
            *told,
            f"Training images of a class: {each[0]:,} to {each[-1]:,}, median {each[len(each) // 2]:,}.",
        ]
    rows = [[name, *(f"{counts[split, name]:,}" for split in splits)] for name in map(as_text, trained.classes)]
    columns = ["class", *splits]
    if right := dict(class_accuracies(run, trained.checkpoint, "test")):
        columns.append(f"right in test ({run.selected.name})")
        rows = [[*row, f"{right[row[0]]:.1%}" if row[0] in right else "–"] for row in rows]
    return [*told, *_table(columns, rows)]


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *cells)]


def _training(trained: Trained, record: dict[str, Any]) -> list[str]:
    if not record:
        return ["Not known: the checkpoint was exported without its run directory."]
    rows = [
        [
            phase["name"],
            few(phase["trained"], 8),
            str(phase["epochs"]),
            "-" if phase.get("seconds") is None else duration(phase["seconds"]),
        ]
        for phase in record.get("phases", [])
    ]
    choices = record.get("choices") or {}
    lines = [
        *_table(["phase", "trained", "epochs", "time"], rows),
        "",
        f"- plan {choices.get('finetune', 'not known')}, augmentation {choices.get('aug', 'not known')}, "
        f"optimizer {choices.get('optimizer', 'not known')}, seed {record.get('seed')}, "
        f"precision {trained.precision}",
    ]
    if trained.refitted:
        refit = record.get("refit") or {}
        lines.append(f"- then trained once more on {refit.get('images', 'all')} images, those of val among them")
    return lines


def _measures(trained: Trained, known: Sequence[SplitFigures]) -> list[str]:
    if not known:
        return [f"Not known: {trained.checkpoint.name} was not measured."]
    told = "Intervals: 95 %, of accuracy Wilson's, else by bootstrap over the images. "
    told += "In val a checkpoint that val has chosen looks too good."
    if trained.refitted and any(each.checkpoint != trained.checkpoint.name for each in known):
        told += f" What {trained.checkpoint.name} is worth, which has trained on val too, is not measured there."
    rows = [
        [
            each.split,
            each.checkpoint,
            f"{each.images:,}",
            TITLES.get(name, name.replace("_", " ")),
            f"{measure.value:.3f}",
            f"{measure.low:.3f} to {measure.high:.3f}",
        ]
        for each in known
        for name, measure in each.measures.items()
        if measure is not None
    ]
    return [told, "", *_table(["split", "checkpoint", "images", "measure", "value", "interval"], rows)]


def _calibration(trained: Trained, run: RunDirectory, temperature: float) -> list[str]:
    fit = run.record.get("calibration") or {}
    if "nll" not in fit or not speaks_for(run, run.selected.name, trained.checkpoint):
        return [f"Logits are divided by {temperature:.4g}; nothing else is known."]
    rows = [
        [title, f"{fit[name]:.4f}", f"{fit[f'{name}_scaled']:.4f}"]
        for name, title in (("nll", "NLL"), ("ece", "ECE"))
    ]
    applied = "applied" if temperature != 1 else "not applied, since it does not lower the loss of other images"
    images = f"{run.selected.name} on {counted(fit['images'], 'validation image')}"
    return [
        f"Temperature {trained.temperature.value:.4g}, {applied}. Of {images}, each half scaled by what the other "
        "half gives:",
        "",
        *_table(["", "without", "with temperature"], rows),
    ]


def _untested(trained: Trained, run: RunDirectory, known: Sequence[SplitFigures]) -> list[str]:
    splits = [each.split for each in known]
    lines = []
    if "test" in ((run.record.get("data") or {}).get("images") or {}) and "test" not in splits:
        lines.append("- on the test images, of which there are some")
    elif "test" not in splits:
        lines.append(
            "- on images that had no part in training: there is no test split, and val has chosen the epoch, so "
            "its figures flatter"
        )
    others = [split.removeprefix("test/") for split in splits if split.startswith("test/")]
    lines.append(
        f"- on photographs of other origin than the test images and {few(others)}"
        if others
        else "- on photographs of other origin, such as other cameras, places or times: its images are of one set"
    )
    if "test" in splits:
        tested = {row["label"] for row in run.confusion("test")}
        if missing := [name for name in map(as_text, trained.classes) if tested and name not in tested]:
            lines.append(f"- on {few(missing)}, of which test has no image")
    lines += [
        "- on images of none of its classes: it always names one of them, and has no answer `known`"
        + (", which `tlab.predict` and `tlab.serve` give with the run" if trained.uncertainty else ""),
        "- on damaged, blurred, dark or deliberately misleading images",
        "- for differences between groups of people, or any use in which errors do harm",
    ]
    if trained.resize == "crop":
        lines.append("- on objects at the border of an image, which it does not look at")
    return lines
