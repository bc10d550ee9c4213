"""What rows of the source classifier are worth as a start (`head.reuse`), against a head that starts at zero.

For each seed the validation accuracy before any training, and in the last epoch of two runs of `tlab.train` on a
frozen backbone (`finetune=head`), of 1 and of 5 epochs. Where the head starts at zero, all logits are 0 before
training, so that every image is taken for the first class.

    python benchmarks/warm_start.py --root DATA --weights resnet18.pth --classes classes.json --reuse "{bees: bee}"
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import lightning.pytorch as L
from hydra.utils import instantiate
from omegaconf import DictConfig

from tlab.assembly.build import build_backbone, build_net
from tlab.command import quiet
from tlab.config.hydra import compose
from tlab.config.overrides import as_override
from tlab.models.module import ImageClassifier
from tlab.runs.directory import RunDirectory
from tlab.train import train

Accuracies = dict[tuple[str, int], list[float]]  # (value of head.reuse, epochs) -> one per seed, in 0..1


def configuration(args: argparse.Namespace, seed: int, reuse: str, epochs: int, run_dir: Path) -> DictConfig:
    """Return the configuration of one run."""
    return compose(
        [
            as_override("data.root", str(args.root)),
            f"data.image_size={args.image_size}",
            f"backbone={args.backbone}",
            as_override("backbone.weights", str(args.weights)),
            as_override("backbone.weights_classes", str(args.classes)),
            f"head.reuse={reuse}",
            "finetune=head",
            "head.solver=sgd",
            "finetune.batchnorm=pretrained",
            f"trainer.max_epochs={max(epochs, 1)}",
            "trainer.precision=32-true",
            "logger=none",
            f"seed={seed}",
            as_override("run_dir", str(run_dir)),
            *args.overrides,
        ]
    )


def before_training(cfg: DictConfig) -> float:
    """Return the validation accuracy of the network as it is built."""
    quiet()
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    data = instantiate(cfg.data.module)
    data.setup()
    net = build_net(cfg, build_backbone(cfg), data)
    module = ImageClassifier(net, data.classes, instantiate(cfg.optimizer, _convert_="all"))
    trainer = L.Trainer(
        logger=False, enable_checkpointing=False, enable_progress_bar=False, default_root_dir=cfg.run_dir
    )
    return trainer.validate(module, data.val_dataloader(), verbose=False)[0]["val/acc"]


def after_training(cfg: DictConfig) -> float:
    """Return the validation accuracy in the last epoch of a run."""
    train(cfg)
    return float(RunDirectory(Path(cfg.run_dir)).history()[-1]["val/acc"])


def measure(args: argparse.Namespace) -> Accuracies:
    """Carry out every run."""
    accuracies: Accuracies = {}
    with tempfile.TemporaryDirectory() as folder:
        for reuse in ("null", args.reuse):
            for epochs in (0, *args.epochs):
                for seed in args.seeds:
                    place = Path(folder) / f"{len(accuracies)}" / str(seed)
                    cfg = configuration(args, seed, reuse, epochs, place)
                    accuracy = after_training(cfg) if epochs else before_training(cfg)
                    accuracies.setdefault((reuse, epochs), []).append(accuracy)
                    print(f"reuse {reuse} epochs {epochs} seed {seed} val acc {accuracy:.4f}", flush=True)
    return accuracies


def cell(values: list[float]) -> str:
    """Mean and, for two values or more, sample standard deviation, in percent."""
    deviation = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{deviation}"


def table(accuracies: Accuracies) -> str:
    """One row per head, one column per number of epochs."""
    columns = sorted({epochs for _, epochs in accuracies})
    rows = [
        "| head.reuse | " + " | ".join(f"{epochs} epochs" for epochs in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for reuse in dict.fromkeys(reuse for reuse, _ in accuracies):
        rows.append(f"| `{reuse}` | " + " | ".join(cell(accuracies[reuse, epochs]) for epochs in columns) + " |")
    return "\n".join(rows)


def main() -> None:
    """Measure, print the table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder that holds train/ and val/")
    parser.add_argument("--weights", type=Path, required=True, help="weights file with its classifier")
    parser.add_argument("--classes", type=Path, required=True, help="JSON list of its class names")
    parser.add_argument("--reuse", default="{bees: bee}", help="head.reuse, %(default)s")
    parser.add_argument("--backbone", default="resnet18", help="%(default)s")
    parser.add_argument("--image-size", type=int, default=128, help="%(default)s pixels")
    parser.add_argument("--epochs", type=int, nargs="+", default=[1, 5], help="lengths of the runs, %(default)s")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, help="JSON file for the accuracy of every seed")
    parser.add_argument("overrides", nargs="*", help="further overrides of tlab.train")
    args = parser.parse_args()
    accuracies = measure(args)
    print(table(accuracies))
    if args.out:
        record = [{"reuse": key[0], "epochs": key[1], "val/acc": values} for key, values in accuracies.items()]
        args.out.write_text(json.dumps({"settings": vars(args), "results": record}, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
