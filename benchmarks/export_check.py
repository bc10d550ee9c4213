"""Whether an exported model says what its checkpoint says, from tlab's own pixels and from photographs.

Each run is exported, and the file alone answers in onnxruntime (or torch.export). Own pixels are squares that the
evaluation transform does not resize, alone and 32 at once. Of the photographs, drawn from all below a folder, every
other one is rescaled first, to sides of 20 to 3,000 pixels drawn by chance, and saved as JPEG with one of the eight
orientations. Pillow opens them for the exported model, and tlab itself for the checkpoint.

    python benchmarks/export_check.py --photographs DATA --images 400 RUN [RUN ...]
"""

import argparse
import random
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tlab.config.hydra import compose
from tlab.core.hardware import stay_within_cores
from tlab.data.sources.scan import images_to_predict
from tlab.export import export
from tlab.exporting.graph import Exported
from tlab.exporting.photographs import read
from tlab.runs.load import load_trained
from tlab.runs.trained_model import TrainedModel

SIDES = (20, 3_000)  # pixels of a rescaled photograph
ORIENTATION = 0x0112  # the EXIF tag


def photographs(root: Path, number: int, folder: Path) -> list[Path]:
    """Return photographs of all sizes, every other one drawn anew in `folder`."""
    names = sorted(images_to_predict(root))
    random.Random(0).shuffle(names)
    files = [root / name for name in names[:number]]
    draw = random.Random(1)
    for place in range(0, len(files), 2):
        size = [round(np.exp(draw.uniform(*np.log(SIDES)))) for _ in range(2)]
        exif = Image.Exif()
        exif[ORIENTATION] = 1 + place // 2 % 8
        image = Image.open(files[place]).convert("RGB").resize((size[0], size[1]), Image.Resampling.BICUBIC)
        files[place] = folder / f"{place}.jpg"
        image.save(files[place], quality=92, exif=exif)
    return files


def run_file(file: Path) -> Exported:
    """Return the function that a file alone is."""
    content = file.read_bytes()
    if file.suffix == ".pt2":
        module = torch.export.load(str(file)).module()
        return Exported(content, lambda x: module(torch.from_numpy(x)).detach().numpy())
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return Exported(content, lambda x: session.run(None, {"image": x})[0])


def probabilities(model: TrainedModel, images: list) -> np.ndarray:
    """Return the checkpoint's probabilities `N K`."""
    return np.array([list(each.probabilities.values()) for each in model.predict(images)])


def main() -> None:
    """Check the runs, and print a row each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--photographs", type=Path, required=True)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--format", choices=("onnx", "torch_export"), default="onnx")
    arguments = parser.parse_args()
    stay_within_cores()
    columns = ["run", "MB", "own pixels, batch 1", "batch 32", "photographs", "same label", "mean", "largest"]
    columns += ["ms an image", "tlab"]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    with tempfile.TemporaryDirectory() as folder:
        files = photographs(arguments.photographs, arguments.images, Path(folder))
        for run in arguments.runs:
            output = Path(folder) / f"{run.name}.{'onnx' if arguments.format == 'onnx' else 'pt2'}"
            export(compose([f"run={run}", f"output={output}"], "export"))
            exported, model = run_file(output), TrainedModel(load_trained(run), "cpu", "32-true")
            side = round(model.trained.image_size / model.trained.crop_fraction)
            own = np.random.default_rng(0).integers(0, 256, (32, 3, side, side), dtype=np.uint8)
            reference = probabilities(model, list(torch.from_numpy(own)))
            one = max(np.abs(exported.run(own[i : i + 1]) - reference[i]).max() for i in range(8))
            many = np.abs(exported.run(own) - reference).max()
            start = time.perf_counter()
            ours = probabilities(model, files)
            middle = time.perf_counter()
            theirs = np.concatenate([exported.run(read(str(file))) for file in files])
            seconds = time.perf_counter() - middle, middle - start
            same, apart = ours.argmax(1) == theirs.argmax(1), np.abs(ours - theirs).max(1)
            times = " | ".join(f"{1_000 * each / len(files):.0f}" for each in seconds)
            print(
                f"| {run.name} | {len(exported.content) / 1e6:.1f} | {one:.1e} | {many:.1e} | {len(files)} | "
                f"{same.mean():.2%} | {apart.mean():.5f} | {apart.max():.3f} | {times} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
