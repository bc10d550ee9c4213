"""The audit of a run's images: everything that deserves a look, in one list of findings."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tlab.auditing.balance import rare_classes
from tlab.auditing.copies import Copies, clusters, find_copies, findings_of
from tlab.auditing.finding import RGB, Finding, in_order
from tlab.auditing.groups import group_leaks, image_groups
from tlab.auditing.images import AuditedImages
from tlab.auditing.label_issues import (
    CLEANLAB_MISSING,
    has_cleanlab,
    held_out_probabilities,
    label_issues,
    neighbor_shares,
)
from tlab.auditing.outliers import NEIGHBOR, outliers
from tlab.auditing.quality import quality_issues
from tlab.config.overrides import shell_argument
from tlab.core.text import as_text, counted
from tlab.data.datamodule import ImageDataModule
from tlab.finetuning.features.nearest_neighbors import nearest_neighbors

VOTERS = 15  # nearest neighbors whose labels count, beside the probe


def find_all(images: AuditedImages, group: str | None) -> tuple[tuple[Finding, ...], Copies, list[str]]:
    """Return the findings about the readable images in order, the copies, and remarks on what was not looked at.

    Args:
        images: The images.
        group: `data.group` of the run.
    """
    neighbors, cosines = None, None
    if images.features is not None and len(images.names) > 1:
        neighbors, cosines = nearest_neighbors(images.features, VOTERS)
    copies = find_copies(images, None if neighbors is None else neighbors[:, :NEIGHBOR])
    remarks = list(copies.remarks)
    labels = [images.label(row) for row in range(len(images.names))]
    told_by, groups = image_groups(images.names, labels, images.splits, group, images.columns.get(group or ""))
    findings = [*findings_of(copies, images), *_leaks(images, told_by, groups), *_rare(images)]
    if images.features is not None and neighbors is not None and cosines is not None:
        if has_cleanlab():
            suspected, told = _label_issues(images, images.features, neighbors, copies, groups)
            findings, remarks = [*findings, *suspected], [*remarks, *told]
        else:
            remarks.append(CLEANLAB_MISSING)
        findings += [
            _of_image(
                images, row, "outlier", distance, f"like no other: cosine {1 - distance:.2f} to its neighbors"
            )
            for row, distance in outliers(cosines)
        ]
    quality, told = _quality(images)
    return in_order([*findings, *quality]), copies, [*remarks, *told]


def _of_image(
    images: AuditedImages, row: int, kind: str, score: float, reason: str, suggested: str = ""
) -> Finding:
    split, label = images.splits[row], images.label(row)
    return Finding(kind, images.names[row], "", split, label, suggested, float(np.clip(score, 0, 1)), reason)


def _label_issues(
    images: AuditedImages,
    features: NDArray[np.float32],
    neighbors: NDArray[np.int64],
    copies: Copies,
    groups: Sequence[str],
) -> tuple[list[Finding], list[str]]:
    """Return the suspected labels, and a remark on images of which nothing can be said.

    Copies and the images of a group are judged by others alone, which know nothing of their own label.
    """
    same = [(rows[0], row) for rows in copies.exact for row in rows[1:]]
    first: dict[str, int] = {}
    grouped = [(first.setdefault(group, row), row) for row, group in enumerate(groups) if group]
    together = clusters([*same, *(pair[:2] for pair in copies.near), *grouped])
    group_of = {images.names[row]: images.names[min(rows)] for rows in together for row in rows}
    of_probe = held_out_probabilities(features, images.labels, len(images.classes), images.names, group_of)
    judged_apart = [group_of.get(name, name) for name in images.names]
    of_neighbors = neighbor_shares(neighbors, images.labels, len(images.classes), judged_apart)
    probabilities = (of_probe + of_neighbors) / 2  # each has mistakes of its own
    found = []
    for issue in label_issues(probabilities, images.labels):
        suggested = images.classes[issue.suggested]
        reason = (
            f"the other images say {suggested} ({issue.other:.0%}), not {images.label(issue.row)} ({issue.own:.0%})"
        )
        found.append(_of_image(images, issue.row, "label_issue", issue.wrong, reason, suggested))
    unknown = np.flatnonzero(~np.isfinite(probabilities).all(axis=1))
    remark = (
        f"Nothing can be said of the labels of {counted(unknown, 'image')}, since none of the same class is left "
        "without its copies and its group."
    )
    return found, [remark] * bool(len(unknown))


def _leaks(images: AuditedImages, told_by: str, groups: Sequence[str]) -> Iterator[Finding]:
    for leak in group_leaks(groups, images.splits):
        one, other = leak.train[0], leak.other[0]
        labels = "/".join(dict.fromkeys((images.label(one), images.label(other))))
        yield Finding(
            "group_leak",
            images.names[one],
            images.names[other],
            f"train/{leak.split}",
            labels,
            score=len(leak.other) / (len(leak.train) + len(leak.other)),
            reason=f"{leak.group}: {counted(leak.train, 'image')} in train, {len(leak.other)} in {leak.split}; "
            f"{shell_argument('data.group', told_by)} keeps such a group in one split that is drawn",
        )


def _rare(images: AuditedImages) -> Iterator[Finding]:
    for name, lacking, reason in rare_classes(images.counts().get("train", {})):
        yield Finding("imbalance", "", split="train", label=name, score=lacking, reason=reason)


def _quality(images: AuditedImages) -> tuple[list[Finding], list[str]]:
    found, remarks = quality_issues(images.measures)
    for row, damage in enumerate(images.damage):
        if damage:
            found.setdefault(row, []).append((damage, 1.0))
    findings = []
    for row, issues in found.items():
        reason, worst = "; ".join(reason for reason, _ in issues), max(severity for _, severity in issues)
        findings.append(_of_image(images, row, "quality", worst, reason))
    return findings, remarks


def unreadable_findings(data: ImageDataModule, broken: Mapping[str, str]) -> list[Finding]:
    """Return a finding for each file that cannot be read.

    Args:
        data: The data, set up.
        broken: File -> reason.
    """
    if not broken:
        return []
    named = [
        ("", data.source()),
        *((f"test/{name}", source(data.classes)) for name, source in data.test_sources.items()),
    ]
    places: dict[str, tuple[str, str]] = defaultdict(lambda: ("", ""))
    for test, index in named:
        for split, samples in index.splits.items():
            places.update(
                {s.file: (test or split, as_text(index.classes[s.label])) for s in samples if s.file in broken}
            )
    return [
        Finding("unreadable", data.index.relative(Path(file)), "", *places[file], reason=reason)
        for file, reason in broken.items()
    ]


def mean_and_std(images: AuditedImages) -> tuple[RGB, RGB]:
    """Return mean and standard deviation of red, green and blue in 0..1, over images of equal weight."""
    mean = np.mean([image.mean for image in images.measures], axis=0)
    square = np.mean([image.square for image in images.measures], axis=0)
    std = np.sqrt(np.maximum(square - mean**2, 0))
    return tuple(map(float, mean)), tuple(map(float, std))  # type: ignore[return-value]


def tally(images: AuditedImages) -> tuple[dict[tuple[int, int], int], dict[str, int], dict[str, int]]:
    """Return sizes, modes and formats of the images, each -> number, the most frequent first."""
    sizes = Counter(image.size for image in images.measures)
    modes = Counter(image.mode for image in images.measures)
    return dict(sizes.most_common()), dict(modes.most_common()), dict(Counter(images.formats).most_common())
