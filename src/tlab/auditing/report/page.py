"""`audit.html`: what an audit found as one self-contained page, with the images that it is about."""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from html import escape
from itertools import chain, zip_longest
from pathlib import Path
from string import Template
from urllib.parse import quote

from tlab.auditing.finding import KINDS, Audit, Finding
from tlab.auditing.report.size_chart import size_chart
from tlab.core.files import write_text
from tlab.core.text import as_text, counted, duration, shell_word
from tlab.data.progress_bar import shown
from tlab.data.thumbnails import SIDE, thumbnails
from tlab.pages.frame import framed, part, tile_list
from tlab.pages.table import Cell, table

PARTS = Path(__file__).with_name("parts")
MOST_PICTURES = 1000  # 5 to 10 MB of them
MOST_ROWS = 1000  # of a kind
WITHOUT_PICTURE = ("unreadable", "imbalance")
# Kind -> its name, what it means and what to do about it
TEXTS = {
    "unreadable": (
        "Unreadable files",
        "No run trains on them. Fetch them again or delete them.",
    ),
    "exact_duplicate": (
        "Exact duplicates",
        "The same bytes twice. Across splits the result counts images that were trained on, under two labels one "
        "of these is wrong. Keep one of each, as fix=true does, which keeps none under two labels.",
    ),
    "near_duplicate": (
        "Near duplicates",
        "The same picture resized, compressed, brightened, turned or cropped. Across splits take the one in "
        "training out, as fix=true does; within a split one of them is enough.",
    ),
    "label_issue": (
        "Suspected label errors",
        "A classifier that was fitted on the other images expects another class; the score is how probably the "
        "label is wrong. Look at each, and correct what is wrong; a correct one is a hard case worth keeping.",
    ),
    "group_leak": (
        "Groups in several splits",
        "By their names these belong together, as shots of one person or place do, and yet lie in several splits, "
        "so that results flatter. Keep each group in one split: data.group takes the pattern.",
    ),
    "outlier": (
        "Outliers",
        "Far from all other images in what the backbone sees. Delete what does not belong; keep what is only rare.",
    ),
    "quality": (
        "Quality",
        "Dark, bright, blurred, tiny or oddly shaped. Delete them unless such images come in use, too.",
    ),
    "imbalance": (
        "Imbalance",
        "Classes with few images beside the others. Collect more of them, or train with data.balanced=true.",
    ),
}


def write_page(audit: Audit, output: Path) -> Path:
    """Write `audit.html` into the directory `output` and return its path; images are linked relative to it."""
    found = {kind: [each for each in audit.findings if each.kind == kind] for kind in KINDS}
    listed = {kind: findings[:MOST_ROWS] for kind, findings in found.items() if findings}
    pictured, left_out = _pictured(listed)
    urls = shown(thumbnails([audit.root / path for path in pictured]), "Thumbnails", len(pictured))
    pictures = {path: url for path, url in zip(pictured, urls, strict=True) if url}
    places = {path: place for place, path in enumerate(pictures)}
    file_cell = partial(_file_cell, root=audit.root, way=os.path.relpath(audit.root, output), places=places)
    sections = [_section(kind, findings, len(found[kind]), file_cell) for kind, findings in listed.items()]
    if left_out:
        sections.append(
            f"<p class='say'>The page shows {counted(len(pictures), 'image')}, those of the highest scores of each "
            f"kind; {left_out:,} more have none here. The links open every file.</p>"
        )
    body = Template(part("page.html", PARTS)).substitute(
        kinds=_choices((kind, TEXTS[kind][0]) for kind in listed),
        splits=_choices((split, split) for split in audit.counts),
        classes=_choices((label, label) for label in _classes(audit)),
        sections="".join(sections),
        legend=" ".join(f"<span><i></i>{escape(split)}</span>" for split in audit.counts),
        classes_table=_classes_table(audit),
        sizes=size_chart(audit.sizes) if audit.sizes else "",
        facts=_facts(audit),
        side=SIDE,
        pictures=json.dumps(list(pictures.values())),
        script=part("table.js") + part("page.js", PARTS),
    )
    name, images = audit.root.name, counted(_total(audit), "image")
    page = framed(
        f"tlab audit · {audit.root}",
        f"Audit of {name}",
        f"{name}: {counted(len(audit.findings), 'finding') if audit.findings else 'nothing found'} in {images}",
        f"Seen by {escape(audit.backbone)} in {duration(audit.seconds)}. All findings: "
        f"<a href='findings.csv'>findings.csv</a>. To repeat it: <code>{escape(audit.command)}</code>",
        _tiles(audit, found),
        body,
        notes=f"<ul class='notes' aria-label='Beware'>{_items(audit.remarks)}</ul>" if audit.remarks else "",
        head=f'<link rel="icon" href="data:,"><style>{part("page.css", PARTS)}</style>',
    )
    file = output / "audit.html"
    write_text(file, as_text(page))
    return file


def _pictured(listed: Mapping[str, Sequence[Finding]]) -> tuple[list[str], int]:
    """Return the files that get a picture, and the number of those that are too many.

    The kinds take turns, each with its highest score first.
    """
    turns = zip_longest(*(findings for kind, findings in listed.items() if kind not in WITHOUT_PICTURE))
    pairs = ((each.path, each.other) for each in chain.from_iterable(turns) if each)
    files = list(dict.fromkeys(file for file in chain.from_iterable(pairs) if file))
    return files[:MOST_PICTURES], len(files[MOST_PICTURES:])


def _file_cell(path: str, root: Path, way: str, places: Mapping[str, int]) -> Cell:
    """Return the cell of a file: its picture and path, which link to it, and a button that copies the whole path.

    Args:
        path: The file, relative to the root of the data.
        root: That root.
        way: Its path from the directory of the page.
        places: File -> place of its picture in the list of pictures.
    """
    if not path:
        return "", ""
    link = escape(quote(os.fsencode(os.path.join(way, path)), safe="/"))  # noqa: PTH118 - Path has no way with ..
    picture = f"<img data-picture='{places[path]}' alt=''>" if path in places else ""
    return (
        f"<a href='{link}'>{picture}<span>{escape(path).replace('/', '/<wbr>')}</span></a>"
        f"<button type='button' class='copy' data-path='{escape(shell_word(str(root / path)))}'>copy</button>"
    ), path


def _section(kind: str, findings: Sequence[Finding], number: int, file_cell: Callable[[str], Cell]) -> str:
    """Return the section of a kind: what it means, and a table of findings without the columns that are empty."""
    title, meaning = TEXTS[kind]
    columns: dict[str, list[Cell]] = {
        "file": [file_cell(each.path) for each in findings],
        "other": [file_cell(each.other) for each in findings],
        "reason": [(escape(each.reason), each.reason) for each in findings],
        "score": [(f"{each.score:.3f}", each.score) for each in findings if kind != "unreadable"],
        "split": [(escape(each.split), each.split) for each in findings],
        "class": [(escape(each.label), each.label) for each in findings],
        "suggested": [(escape(each.suggested), each.suggested) for each in findings],
    }
    columns = {name: column for name, column in columns.items() if any(key != "" for _, key in column)}
    rows = list(zip(map(_attributes, findings), map(list, zip(*columns.values(), strict=True)), strict=True))
    more = f" The first {len(findings):,} of {number:,}; findings.csv has all." if number > len(findings) else ""
    look = "" if kind in WITHOUT_PICTURE else " gallery pairs" if "other" in columns else " gallery"
    return (
        f"<section class='findings{look}' id='{kind}'><h2>{title} <small></small></h2>"
        f"<p class='say'>{meaning}{more}</p>{table(f'{kind}-table', title, list(columns), rows)}</section>"
    )


def _attributes(finding: Finding) -> str:
    words = " ".join((finding.path, finding.other, finding.label, finding.suggested, finding.reason)).lower()
    return (
        f"data-words='{escape(words)}' data-split='/{escape(finding.split)}/' "
        f"data-class='/{escape(f'{finding.label}/{finding.suggested}')}/'"
    )


def _tiles(audit: Audit, found: Mapping[str, Sequence[Finding]]) -> str:
    """Return the number of images, and of every kind that was found, which leads to its section."""
    by_split = ", ".join(f"{split} {sum(counts.values()):,}" for split, counts in audit.counts.items())
    kinds = "".join(
        f"<div><dt>{TEXTS[kind][0]}</dt><dd><a href='#{kind}'>{len(findings):,}</a></dd>"
        f"<dd class='sub'>{escape(_straddling(findings, audit))}</dd></div>"
        for kind, findings in found.items()
        if findings
    )
    clean = [TEXTS[kind][0].lower() for kind, findings in found.items() if not findings]
    none = f"<div><dt>None found</dt><dd class='sub'>{', '.join(clean)}</dd></div>" if clean else ""
    return tile_list([("Images", f"{_total(audit):,}", by_split)]) + kinds + none


def _straddling(findings: Sequence[Finding], audit: Audit) -> str:
    """Return how many findings are across splits and how many under two labels."""
    pairs = [each for each in findings if each.other]
    splits = sum(each.split not in audit.counts for each in pairs)
    labels = sum(each.label not in _classes(audit) for each in pairs)
    told = [f"{splits:,} across splits"] * bool(splits) + [f"{labels:,} under two labels"] * bool(labels)
    return ", ".join(told)


def _classes_table(audit: Audit) -> str:
    """Return a row per class with its images by split, as numbers and as a bar."""
    totals = {label: sum(counts[label] for counts in audit.counts.values()) for label in _classes(audit)}
    if not totals:
        return ""
    most = max(1, *totals.values())
    rows: list[tuple[str, list[Cell]]] = []
    for label, total in totals.items():
        bar = "".join(
            f"<i style='width:{100 * counts[label] / most:.2f}%' title='{escape(split)}: {counts[label]:,}'></i>"
            for split, counts in audit.counts.items()
        )
        numbers: list[Cell] = [(f"{counts[label]:,}", counts[label]) for counts in audit.counts.values()]
        rows.append(("", [(escape(label), label), *numbers, (f"{total:,}", total), (f"<div>{bar}</div>", total)]))
    return table("classes", "Images by class and split", ["class", *audit.counts, "all", "share"], rows)


def _facts(audit: Audit) -> str:
    """Return modes, formats, mean and standard deviation as a list of terms."""
    facts = {
        "Formats": _counts(audit.formats),
        "Modes": _counts(audit.modes),
        "Sizes": f"{len(audit.sizes):,} different" if len(audit.sizes) > 1 else "all the same",
        "Mean of red, green, blue": ", ".join(f"{value:.3f}" for value in audit.mean),
        "Standard deviation": ", ".join(f"{value:.3f}" for value in audit.std),
    }
    return "".join(f"<dt>{name}</dt><dd>{escape(fact)}</dd>" for name, fact in facts.items())


def _counts(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(numbers.items(), key=lambda item: -item[1]))


def _classes(audit: Audit) -> list[str]:
    return list(next(iter(audit.counts.values()), {}))


def _total(audit: Audit) -> int:
    return sum(sum(counts.values()) for counts in audit.counts.values())


def _choices(choices: Iterable[tuple[str, str]]) -> str:
    return "".join(f"<option value='{escape(value)}'>{escape(name)}</option>" for value, name in choices)


def _items(sentences: Sequence[str]) -> str:
    return "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
