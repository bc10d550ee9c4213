"""How a search went, as one HTML file that needs no network."""

import html
import math
from collections import Counter
from pathlib import Path
from typing import Any

import plotly
from optuna import visualization as draw
from optuna.importance import get_param_importances
from plotly.graph_objects import Figure

from tlab.comparison.phrases import value
from tlab.core.files import write_text
from tlab.core.text import as_text, counted
from tlab.pages.frame import framed, part, tile_list
from tlab.search.commands import repeat_command
from tlab.search.study import Study

HERE = Path(__file__).parent
FEWEST = 4  # least number of finished trials for importances
BEST = 0.1  # share of the trials that importances hold against all: Optuna's default
STATES = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "under way"}


def importances(study: Study) -> dict[str, float]:
    """Return each searched key's share in what sets the best tenth of the trials apart, the largest first.

    By PED-ANOVA (Watanabe et al., "PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in Arbitrary
    Subspaces", IJCAI 2023, equation 16). Empty where too few trials have finished, or all have the same value.
    """
    values = [trial.value for trial in study.trials("COMPLETE")]
    if len(values) < FEWEST or len(set(values)) < 2 or len(study.space.distributions) < 2:
        return {}
    return get_param_importances(study.optuna)


def write_plots(study: Study) -> Path:
    """Write `search.html` into the study's directory and return its path."""
    monitor = study.definition.monitor
    parts = [
        (
            "What the search found, trial by trial",
            "Each dot is a trial that ran to its end; the line is the best so far.",
            draw.plot_optimization_history(study.optuna, target_name=monitor),
        ),
        (
            "Every trial's epochs",
            "A line that ends early is a trial that was pruned.",
            draw.plot_intermediate_values(study.optuna),
        ),
        (
            "Value against each setting",
            "The later a trial, the stronger its dot.",
            draw.plot_slice(study.optuna, target_name=monitor),
        ),
    ]
    if importances(study):
        note = (
            "Share in what sets the best tenth of the trials apart (PED-ANOVA, Watanabe et al. 2023). "
            f"{html.escape(caution(study))}"
        )
        figure = draw.plot_param_importances(study.optuna, target_name=monitor)
        figure.update_xaxes(title_text="share", range=[0, 1.15]).update_yaxes(title_text=None)
        parts.insert(1, ("What mattered", note, figure))
    sections = [
        f'<section><h2>{title}</h2><p class="say">{note}</p>{_html(figure)}</section>'
        for title, note, figure in parts
    ]
    page = framed(
        f"tlab search · {study.name}",
        f"Search {study.name}",
        *_answer(study),
        body="\n".join(
            ["<main>", *sections, "</main>", f"<script>{part('theme.js')}\n{part('plots.js', HERE)}</script>"]
        ),
        head=f"<script>{plotly.offline.get_plotlyjs()}</script>",
    )
    file = study.directory / "search.html"
    write_text(file, as_text(page))
    return file


def caution(study: Study) -> str:
    """Return why importances and the comparison's effects may name different keys, with the number of trials."""
    finished = len(study.trials("COMPLETE"))
    return (
        f"Importances hold the best {counted(math.ceil(BEST * finished), 'trial')} of the {finished} finished ones "
        "against all; the differences between settings in the comparison are means over all. The fewer the "
        "trials, the less the two need agree."
    )


def states(study: Study) -> str:
    """Return how many trials are in each state: `10 finished, 2 pruned`."""
    numbers = Counter(trial.state.name for trial in study.trials())
    return ", ".join(f"{numbers[name]} {word}" for name, word in STATES.items() if numbers[name])


def _answer(study: Study) -> tuple[str, str, str]:
    """Return headline, HTML of the sentences below it, and HTML of the key figures."""
    best, monitor = study.best(), study.definition.monitor
    trials = ("trials", str(len(study.trials())), states(study))
    if best is None or best.value is None:
        return "No trial has finished", "", tile_list([trials])
    chosen = ", ".join(study.space.chosen(best.params))
    lede = (
        f"<code>{html.escape(chosen)}</code>, "
        f'<a href="trial={best.number:04d}/">trial {best.number}</a>. The settings compared, with intervals: '
        '<a href="report.html">report.html</a>. Run it again: '
        f"<code>{html.escape(repeat_command(study, best))}</code>"
    )
    figure = value(best.value, monitor)
    seeds = len(study.definition.seeds)
    of = f"trial {best.number}, mean of {seeds} seeds" if seeds > 1 else f"trial {best.number}"
    tiles = tile_list([(f"best {monitor}", figure, of), trials])
    return f"Trial {best.number} is the best: {monitor} {figure}", lede, tiles


def _html(figure: Figure) -> str:
    """Return a chart as HTML; one with several panels in a row scrolls sideways on a phone."""
    layout: dict[str, Any] = {"title": None, "margin": {"l": 60, "r": 20, "t": 40, "b": 50}, "height": 400}
    layout["legend"] = {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"}
    figure.update_layout(
        template="plotly_white", paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)", **layout
    )
    figure.update_xaxes(title_text="Epoch, from 0", selector={"title": {"text": "Step"}})
    figure.update_xaxes(dtick=1, exponentformat="power", selector={"type": "log"})
    in_a_row = sum(1 for name in figure.layout if name.startswith("xaxis"))
    drawn = figure.to_html(
        full_html=False, include_plotlyjs=False, config={"displayModeBar": False, "responsive": True}
    )
    width = f' style="min-width: {190 * in_a_row}px"' if in_a_row > 1 else ""
    return f'<div class="wide" tabindex="0"><div{width}>{drawn}</div></div>'
