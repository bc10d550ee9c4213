"""The rule of the CS231n notes: the plan by two questions, how many images, and how similar to the pretraining."""

from dataclasses import dataclass

from tlab.advising.similarity import Similarity
from tlab.core.text import counted

# Images of a class below which data count as few (Marcelino 2018, "Transfer learning from pre-trained models")
FEW = 1_000
# (few images, similar ones) -> plan (Karpathy, "Transfer Learning", notes of the course CS231n)
PLANS = {
    (True, True): "head",
    (True, False): "cut",
    (False, True): "full",
    (False, False): "full",
}
WORDS = {
    (True, True): "few images like those of the pretraining: train the head alone",
    (
        True,
        False,
    ): "few images unlike those of the pretraining: cut the network, train a head on earlier stages",
    (False, True): "many images like those of the pretraining: fine-tune all of it",
    (False, False): "many images unlike those of the pretraining: fine-tune all of it, or train it from scratch",
}


@dataclass(frozen=True)
class Thresholds:
    """From which similarity on images count as similar.

    Attributes:
        statistics: Of BatchNorm's statistics.
        confidence: Of the source classifier's confidence, which answers where there are no statistics.
    """

    statistics: float
    confidence: float


@dataclass(frozen=True)
class RuleAnswer:
    """What the rule answers.

    Attributes:
        plan: The plan, a key of `choice.PLANS`.
        words: The rule's case, in words.
        because: The measured numbers and their thresholds, in words.
    """

    plan: str
    words: str
    because: str


def cs231n_rule(images_per_class: float, similarity: Similarity, thresholds: Thresholds) -> RuleAnswer:
    """Return the plan that the rule of the CS231n notes gives.

    Images count as similar where nothing tells, which `because` says: most weights are of photographs, and so are
    most data.
    """
    few = images_per_class < FEW
    because = f"{counted(round(images_per_class), 'image')} a class, {'fewer' if few else 'no fewer'} than {FEW:,}"
    similar = True
    for name, value, threshold in (
        ("similarity", similarity.statistics, thresholds.statistics),
        ("confidence", similarity.confidence, thresholds.confidence),
    ):
        if value is not None:
            similar = value >= threshold
            because += f"; {name} {value:.2f}, {'at least' if similar else 'below'} {threshold:.2f}"
            break
    else:
        because += "; nothing tells how similar they are, which counts as similar"
    return RuleAnswer(PLANS[few, similar], WORDS[few, similar], because)
