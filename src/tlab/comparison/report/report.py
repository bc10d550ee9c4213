"""The comparison as one self-contained HTML file: no network, a phone, dark mode and paper included."""

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template

from tlab.comparison.load import FINISHED
from tlab.comparison.phrases import detail, effects_sentence, heading, headline, lead, methods, span, value
from tlab.comparison.report.report_data import report_data
from tlab.comparison.report.report_tables import filters, runs_table, settings_table
from tlab.comparison.result import Comparison
from tlab.comparison.statistics import INTERVAL_NAMES
from tlab.core.files import write_text
from tlab.core.text import as_text, counted, duration
from tlab.pages.frame import framed, part, tile_list

PAGE = Path(__file__).with_name("page")
SHARED = ("theme.js", "table.js")
OWN = ("settings.js", "filter.js", "ranking.js", "curves.js", "factors.js", "classes.js", "main.js")


def write_report(comparison: Comparison, directory: Path) -> Path:
    """Write `report.html` and return its path; the runs are linked relative to it."""
    from plotly.offline import get_plotlyjs  # the library's text, 5 MB

    data = json.dumps(report_data(comparison), ensure_ascii=False, separators=(",", ":"))
    name = directory.resolve().name
    body = Template(part("page.html", PAGE)).substitute(
        heading=escape(heading(comparison)),
        each=comparison.replicate,
        effects=escape(effects_sentence(comparison) or ""),
        filters=filters(comparison),
        settings=settings_table(comparison),
        runs=runs_table(comparison, directory),
        methods=_items(methods(comparison)),
        script="\n".join([*map(part, SHARED), *(part(name, PAGE) for name in OWN)]),
        data=data.replace("<", "\\u003c"),
        plotly=get_plotlyjs(),
    )
    page = framed(
        f"tlab comparison · {name}",
        f"{name}: {headline(comparison)}",
        headline(comparison),
        escape(detail(comparison)),
        _tiles(comparison),
        body,
        notes=f"<ul class='notes' aria-label='Beware'>{_items(comparison.notes)}</ul>" if comparison.notes else "",
        head='<link rel="icon" href="data:,">',
    )
    file = directory / "report.html"
    write_text(file, as_text(page))
    return file


def _tiles(comparison: Comparison) -> str:
    """Return the key figures as a list of terms."""
    metric, ranked = comparison.monitor, comparison.ranked
    tiles = []
    if ranked and not comparison.data_sets:
        best = ranked[0].result
        interval = f"{span(best, metric)} ({INTERVAL_NAMES[comparison.interval]})"
        if best.low is None or best.all_equal:
            each = comparison.replicate
            interval = f"one {each}" if best.low is None else f"{best.n} equal {each}s, no interval"
        tiles.append((f"best {metric}", value(best.mean, metric), interval))
        if ranked[0].out_of_fold is not None:
            tiles.append(("out-of-fold accuracy", value(ranked[0].out_of_fold, "acc"), "of all folds together"))
        if ranked[0].test:
            tiles.append((comparison.test_metric, value(ranked[0].test.mean, metric), "not used to choose"))
        if len(ranked) > 1:
            gap = lead(best.mean - ranked[1].result.mean, metric)
            tiles.append(("lead over the next", gap, f"of {counted(len(ranked), 'setting')}"))
    finished = [run for run in comparison.runs if run.status == FINISHED]
    seconds = sum(run.seconds or 0.0 for run in finished)
    tiles.append(("training time", duration(seconds), f"in {counted(len(finished), 'finished run')}"))
    return tile_list(tiles)


def _items(sentences: Sequence[str]) -> str:
    return "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
