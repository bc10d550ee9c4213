"""`cleaned.csv`: the images that are left when copies and unreadable files are, as a table for `data=csv`."""

from collections.abc import Collection, Mapping
from pathlib import Path

from tlab.auditing.finding import Finding
from tlab.auditing.images import SPLITS, AuditedImages
from tlab.core.files import write_csv
from tlab.core.text import counted, few

COLUMNS = ("path", "label", "split")


def write_cleaned(
    file: Path, images: AuditedImages, left_out: Collection[int], split_column: str | None = None
) -> int:
    """Write the table, with the further columns that the images have, atomically; return its number of rows.

    Args:
        file: The table.
        images: The readable images.
        left_out: Rows of those to leave out.
        split_column: The further column that the splits were read from, which is not written again.
    """
    further = {name: cells for name, cells in images.columns.items() if name not in (*COLUMNS, split_column)}
    rows = [
        dict(zip(COLUMNS, (images.names[row], images.label(row), images.splits[row]), strict=True))
        | {name: cells[row] for name, cells in further.items()}
        for row in range(len(images.names))
        if row not in left_out and images.splits[row] in SPLITS
    ]
    rows.sort(key=lambda row: (SPLITS.index(row["split"]), row["label"], row["path"]))
    write_csv(file, (*COLUMNS, *further), rows)
    return len(rows)


def classes_lost(images: AuditedImages, left_out: Collection[int]) -> list[str]:
    """Return the classes of which no image to train on is kept.

    Args:
        images: The readable images.
        left_out: Rows of those to leave out.
    """
    trained = (row for row, split in enumerate(images.splits) if split == "train" and row not in left_out)
    return sorted({*images.classes} - {*map(images.label, trained)})


def left_out_sentences(
    images: AuditedImages,
    left_out: Mapping[str, Collection[int]],
    kept: Collection[int],
    findings: Collection[Finding],
) -> list[str]:
    """Return what the table has not, and why, a sentence for each reason.

    Args:
        images: The readable images.
        left_out: Reason -> rows.
        kept: Rows of copies that are not left out.
        findings: All findings.
    """
    number = {kind: sum(each.kind == kind for each in findings) for kind in ("label_issue", "group_leak")}
    sentences = [f"without {counted(rows, 'image')} {reason}" for reason, rows in left_out.items() if rows]
    if broken := [each for each in findings if each.kind == "unreadable" and each.split in SPLITS]:
        sentences.append(f"without {counted(broken, 'file')} that cannot be read")
    if kept:
        places = few(sorted({f"{images.splits[row]}/{images.label(row)}" for row in kept}))
        sentences.append(f"with {counted(kept, 'copy', 'copies')} in {places}, where no other image would be left")
    if number["label_issue"]:
        labels = counted(number["label_issue"], "suspected label")
        sentences.append(f"with {labels} as they are: a classifier suspects, a person decides (findings.csv)")
    if number["group_leak"]:
        sentences.append(f"with {counted(number['group_leak'], 'group')} in two splits as they are")
    if lost := classes_lost(images, set().union(*left_out.values())):
        sentences.append(f"with no image to train on of {few(lost)}: add some before you train on it")
    return sentences
