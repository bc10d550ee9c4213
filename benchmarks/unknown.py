r"""Which score tells images of another kind from those of training, and how often conformal sets hold the class.

A network is trained on `--home`, and scores its test images and those of other sets. Printed per score and other
set: AUROC, and the share that is unknown at the threshold that keeps 95 % of the home's validation images. Where
pytorch-ood is installed, its scores on the same features stand below; its Mahalanobis distance is computed in
float64, since a covariance of fewer images than features has no inverse in float32. Then the coverage of the
conformal sets, mean over random halves of the home's test images: one calibrates, the other is covered.

    python benchmarks/unknown.py --home sets/pacs_photo --other sets/pacs_sketch sets/rsscn7 -- \
        backbone=efficientnet_lite0 backbone.weights=packaged finetune=head
"""

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torchmetrics.functional.classification import binary_auroc

import tlab
from tlab.data.sources.scan import images_to_predict
from tlab.models.uncertainty.conformal import adaptive_scores, prediction_sets
from tlab.models.uncertainty.out_of_distribution import FeatureDistribution, threshold
from tlab.runs.trained_model import TrainedModel

HALVES = 100  # random halves of the test images
COVERAGE = 0.9


def features_of(model: TrainedModel, folder: Path) -> tuple[Tensor, Tensor, Tensor]:
    """Return features `N D`, logits `N K` and labels `N` (-1: no class of the model) of the images in a folder."""
    files = [folder / name for name in images_to_predict(folder)]
    features = model.features(files)
    with torch.inference_mode():
        logits = model.module.net.head(features)
    names = {name: number for number, name in enumerate(model.classes)}
    return features, logits, torch.tensor([names.get(file.parent.name, -1) for file in files])


def own_scores(
    train: Tensor, labels: Tensor, num_classes: int, features: Tensor, logits: Tensor
) -> dict[str, Tensor]:
    """Return name -> score of each image, larger for known ones."""
    return {
        "energy": logits.double().logsumexp(dim=1),
        "largest probability": logits.double().softmax(dim=1).amax(dim=1),
        "mahalanobis": -FeatureDistribution.fit(train, labels, num_classes).distances(features),
    }


def oracle_scores(
    train: Tensor, labels: Tensor, num_classes: int, features: Tensor, logits: Tensor
) -> dict[str, Tensor]:
    """Return the same of pytorch-ood; empty where it is not installed."""
    try:
        from pytorch_ood.detector import EnergyBased, Mahalanobis, MaxSoftmax
    except ImportError:
        return {}
    torch.set_default_dtype(torch.float64)  # which it computes in
    directions = Mahalanobis(None).fit_features(normalize(train.double(), dim=1), labels)
    as_they_are = Mahalanobis(None).fit_features(train.double(), labels)
    torch.set_default_dtype(torch.float32)
    return {
        "energy": -EnergyBased.score(logits.double()),
        "largest probability": -MaxSoftmax.score(logits.double()),
        "mahalanobis": -directions.predict_features(normalize(features.double(), dim=1)),
        "mahalanobis of features of any length": -as_they_are.predict_features(features.double()),
    }


def by_ranks(scores: Mapping[str, Tensor], names: tuple[str, ...], validation: Mapping[str, Tensor]) -> Tensor:
    """Return the least share, over several scores, of validation images that an image reaches or exceeds."""
    ranks = [torch.searchsorted(validation[name].sort().values, scores[name], right=True) for name in names]
    return torch.stack(ranks).amin(dim=0).double()


def auroc(home: Tensor, other: Tensor) -> float:
    """Return the probability that an image of the home scores higher than another one."""
    labels = torch.cat([torch.ones(len(home)), torch.zeros(len(other))]).long()
    order = torch.cat([home, other]).double().unique(return_inverse=True)[1]  # ranks: the metric squeezes into 0..1
    return float(binary_auroc(order / len(order), labels))


def mean_coverage(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return coverage and size of the sets, means over random halves of test images."""
    draw = torch.Generator().manual_seed(0)
    covered, sizes = [], []
    for _ in range(HALVES):
        scores = adaptive_scores(logits.double().softmax(dim=1), torch.rand(len(labels), generator=draw))
        first, second = torch.randperm(len(labels), generator=draw).tensor_split(2)
        calibration = scores[first].gather(1, labels[first, None])[:, 0].sort().values
        sets = prediction_sets(scores[second], calibration, COVERAGE)
        covered.append(sets.gather(1, labels[second, None]).double().mean())
        sizes.append(sets.sum(dim=1).double().mean())
    return float(torch.stack(covered).mean()), float(torch.stack(sizes).mean())


def main() -> None:
    """Train, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True, help="folder with train/, val/ and test/")
    parser.add_argument("--other", type=Path, nargs="+", required=True, help="such folders of other images")
    parser.add_argument("--run", type=Path, help="directory of the run; by default a temporary one")
    parser.add_argument("overrides", nargs="*", help="overrides of tlab.train, after --")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        place = (f"data.root={args.home}", f"run_dir={args.run or temporary}", "logger=none")
        run = tlab.fit(tlab.compose(*place, *args.overrides))
        model = tlab.load(run)
    train, _, labels = features_of(model, args.home / "train")
    validation = features_of(model, args.home / "val")[:2]
    test, logits, test_labels = features_of(model, args.home / "test")
    others = {folder.name: features_of(model, folder / "test")[:2] for folder in args.other}
    known = (train, labels, len(model.classes))
    print(f"test accuracy {run['test/acc']:.1%}; {len(train)} training images of {train.shape[1]} features")
    print(f"{'score':50}" + "".join(f"{name:>40}" for name in ("home: unknown", *others)))
    for whose, scores_of in {"tlab": own_scores, "pytorch-ood": oracle_scores}.items():
        of_validation, of_test = scores_of(*known, *validation), scores_of(*known, test, logits)
        of_others = {name: scores_of(*known, *each) for name, each in others.items()}
        if whose == "tlab":
            for scores in (of_test, *of_others.values(), of_validation):
                scores["energy and mahalanobis"] = by_ranks(scores, ("energy", "mahalanobis"), of_validation)
        for name, home in of_test.items():
            least = threshold(of_validation[name], 0.95)
            cells = [f"{float((home < least).double().mean()):.1%}"]
            for scores in of_others.values():
                unknown = float((scores[name] < least).double().mean())
                cells.append(f"AUROC {auroc(home, scores[name]):.4f}, unknown {unknown:.1%}")
            print(f"{whose + ', ' + name:50}" + "".join(f"{cell:>40}" for cell in cells), flush=True)
    covered, size = mean_coverage(logits, test_labels)
    print(f"conformal sets at {COVERAGE:.0%}: {covered:.2%} covered, {size:.2f} classes in a set")


if __name__ == "__main__":
    main()
