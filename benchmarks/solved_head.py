"""The solved head against one that 20 epochs of steps train: seconds, and accuracy beside scikit-learn's.

Whole commands in fresh processes, in turns, without augmentation: `cold` begins with an empty cache of features, so
the backbone runs too; `warm` finds them there. `fit` is the run's own time of training and validation. Besides, the
test accuracy of scikit-learn's `LogisticRegressionCV` (five folds, the strengths of tlab's own choice) on the same
standardized features: `pip install scikit-learn`.

    python benchmarks/solved_head.py --root SETS/pacs_photo --weights packaged --backbone efficientnet_lite0
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import torch
from sklearn.linear_model import LogisticRegressionCV
from sklearn.preprocessing import StandardScaler

from heads import seconds
from logistic_regression import features
from tlab.assembly.build import build_data
from tlab.config.hydra import compose
from tlab.config.overrides import as_override
from tlab.models.logistic_regression import STRENGTHS
from tlab.runs.directory import RunDirectory
from tlab.runs.load import load_trained

HEADS = {"solved": ["head.solver=lbfgs"], "20 epochs": ["head.solver=sgd", "trainer.max_epochs=20"]}


def cross_validated(run: Path, overrides: list[str]) -> tuple[float, float]:
    """Return the C that scikit-learn chooses on the features of a run's training images, and its test accuracy."""
    net = load_trained(run).module.net.eval()
    data = build_data(compose([*overrides, f"run_dir={run}"]))
    data.setup()
    train, test = (
        features(data, split, torch.nn.Sequential(net.normalize, net.backbone)) for split in ("train", "test")
    )
    scaled = StandardScaler().fit(train.x)
    model = LogisticRegressionCV(Cs=[1 / strength for strength in STRENGTHS], cv=5, max_iter=5000)
    model.fit(scaled.transform(train.x), train.y)
    return float(model.C_[0]), model.score(scaled.transform(test.x), test.y)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder that holds train/, val/ and test/")
    parser.add_argument("--backbone", default="resnet18", help="%(default)s")
    parser.add_argument("--weights", required=True, help="backbone.weights: a file, or a name")
    parser.add_argument("--image-size", type=int, default=96, help="%(default)s pixels")
    parser.add_argument("--rounds", type=int, default=3, help="%(default)s")
    args = parser.parse_args()
    common = [
        *(as_override("data.root", args.root), f"data.image_size={args.image_size}", "trainer=cpu", "aug=none"),
        *("finetune=head", f"backbone={args.backbone}", as_override("backbone.weights", args.weights)),
        *("trainer.precision=32-true", "data.num_workers=0"),
    ]
    found: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(args.rounds):
            for name, own in HEADS.items():
                cache = Path(folder) / f"cache of {name} {number}"
                for state in ("cold", "warm"):
                    run = Path(folder) / f"{name} {number} {state}"
                    where = as_override("hydra.run.dir", run)
                    wall, processor = seconds([sys.executable, "-m", "tlab.train", *common, *own, where], cache)
                    metrics = RunDirectory(run).metrics()
                    found.setdefault((state, name), []).append((wall, processor, metrics["fit_seconds"]))
                    print(
                        f"{state}, {name}: {wall:.1f} s, {processor:.1f} s of processors, fit "
                        f"{metrics['fit_seconds']:.2f} s, test {metrics['test/acc']:.4f}",
                        flush=True,
                    )
        print("| median of seconds | command | its processor time | fit |", "|---|---|---|---|", sep="\n")
        for (state, name), rows in found.items():
            cells = [statistics.median(column) for column in zip(*rows, strict=True)]
            print(f"| {state}, {name} | {' | '.join(f'{cell:.2f}' for cell in cells)} |")
        c, accuracy = cross_validated(Path(folder) / "solved 0 warm", common)
        print(f"scikit-learn chooses C={c:.3g} by cross-validation: test {accuracy:.4f}")


if __name__ == "__main__":
    main()
