"""What an audit has found, on the terminal."""

from collections.abc import Iterable

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tlab.auditing.finding import Audit, Finding
from tlab.auditing.label_issues import CLEANLAB_MISSING
from tlab.core.text import counted, duration

TITLES = {
    "unreadable": "cannot be read",
    "exact_duplicate": "same bytes",
    "near_duplicate": "changed copies",
    "label_issue": "suspected labels",
    "group_leak": "groups in two splits",
    "outlier": "like no other",
    "quality": "show little",
    "imbalance": "rare classes",
}
SHOWN = 2  # findings of a kind


def print_audit(console: Console, audit: Audit, remarks: Iterable[str]) -> None:
    """Print what the data are, a table of the findings with the worst of each kind, and remarks that are new."""
    images = sum(sum(classes.values()) for classes in audit.counts.values())
    splits = ", ".join(f"{split} {sum(classes.values()):,}" for split, classes in audit.counts.items())
    classes = counted(next(iter(audit.counts.values()), {}), "class", "classes")
    console.print()
    console.print(Text(f"{counted(images, 'image')} of {classes} ({splits}), {_sizes(audit)}", style="bold"))
    console.print(Text(f"features: {audit.backbone}; {duration(audit.seconds)}", style="dim"))
    table = Table("finding", "number", "the worst", box=box.SIMPLE_HEAD)
    for kind, number in audit.numbers().items():
        worst = [each for each in audit.findings if each.kind == kind][:SHOWN]
        is_known = kind != "label_issue" or CLEANLAB_MISSING not in audit.remarks
        table.add_row(TITLES[kind], f"{number:,}" if is_known else "–", Text("\n".join(map(_line, worst))))
    console.print(table)
    for remark in remarks:
        console.print(Text(f"! {remark}", style="yellow"))


def _sizes(audit: Audit) -> str:
    """Return the sizes of the images: one, or the smallest and largest width and height."""
    if len(audit.sizes) == 1:
        ((width, height),) = audit.sizes
        return f"{width} x {height} px"
    widths, heights = zip(*audit.sizes, strict=True)
    return f"{min(widths)} to {max(widths)} x {min(heights)} to {max(heights)} px"


def _line(finding: Finding) -> str:
    names = " = ".join(name for name in (finding.path, finding.other) if name) or finding.label
    return f"{names}: {finding.reason}"
