"""What an audit finds in the data: one finding a file or pair of files, and a summary of all images."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tlab.core.files import write_csv

KINDS = (
    "unreadable",
    "exact_duplicate",
    "near_duplicate",
    "label_issue",
    "group_leak",
    "outlier",
    "quality",
    "imbalance",
)
COLUMNS = ("kind", "path", "other", "split", "class", "suggested", "score", "reason")

RGB = tuple[float, float, float]


@dataclass(frozen=True)
class Finding:
    """One file, or pair of files, that deserves a look.

    Attributes:
        kind: One of `KINDS`.
        path: The file, with forward slashes and relative to the root of the data; absolute for a file elsewhere; ""
            where the finding is about a class.
        other: Of a pair, the other file, likewise.
        split: Split of `path`; of a pair in two splits both, `train/test`.
        label: Name of the class of `path`; of a pair with two labels both, `ants/bees`.
        suggested: Name of the class that it looks like, where the label may be wrong.
        score: How much it deserves the look, between 0 and 1; comparable within a kind.
        reason: Why, in words.
    """

    kind: str
    path: str
    other: str = ""
    split: str = ""
    label: str = ""
    suggested: str = ""
    score: float = 1.0
    reason: str = ""


@dataclass(frozen=True)
class Audit:
    """All findings, and what the data are.

    Attributes:
        root: Absolute path of the data.
        findings: The findings, by kind in the order of `KINDS`, then the highest score first.
        counts: Split -> class -> number of readable images; every split has all classes.
        sizes: (Width, height) in pixels -> number of images.
        modes: What Pillow calls the color mode (`RGB`, `L`) -> number of images.
        formats: Format by content (`JPEG`) -> number of images.
        mean: Mean of the pixels of red, green and blue, in 0..1.
        std: Their standard deviation.
        backbone: Network and weights that the features are of, in words.
        seconds: What the audit took.
        command: The command that made it, as typed.
        remarks: Sentences about what the audit did not use or could not do.
    """

    root: Path
    findings: tuple[Finding, ...]
    counts: Mapping[str, Mapping[str, int]]
    sizes: Mapping[tuple[int, int], int]
    modes: Mapping[str, int]
    formats: Mapping[str, int]
    mean: RGB
    std: RGB
    backbone: str
    seconds: float
    command: str
    remarks: tuple[str, ...] = ()

    def numbers(self) -> dict[str, int]:
        """Return the number of findings of every kind, in the order of `KINDS`."""
        count = Counter(finding.kind for finding in self.findings)
        return {kind: count[kind] for kind in KINDS}


def in_order(findings: list[Finding]) -> tuple[Finding, ...]:
    """Return findings by kind, then the highest score first, then by path."""
    return tuple(sorted(findings, key=lambda each: (KINDS.index(each.kind), -each.score, each.path, each.other)))


def write_findings(file: Path, findings: tuple[Finding, ...]) -> None:
    """Write `findings.csv`, atomically, a row each."""
    cells = ("kind", "path", "other", "split", "label", "suggested")
    write_csv(
        file,
        COLUMNS,
        (
            dict(zip(COLUMNS, (getattr(each, name) for name in cells), strict=False))
            | {"score": f"{each.score:.4f}", "reason": each.reason}
            for each in findings
        ),
    )
