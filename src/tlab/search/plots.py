"""How a search went, as one HTML file that needs no network."""

import html
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlab.cache import write_text
from tlab.search.commands import repeat_command
from tlab.search.study import Study

if TYPE_CHECKING:  # imported when a search ends, not for --help
    from plotly.graph_objects import Figure

FEWEST = 4  # finished trials from which importances are told

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ margin: 0 auto; padding: 1.5rem; max-width: 62rem; font: 16px/1.5 system-ui, sans-serif; color: #1b1f24; }}
h1 {{ font-size: 1.4rem; margin: 0 0 .25rem; }} h2 {{ font-size: 1.05rem; margin: 2rem 0 .25rem; }}
p {{ margin: .25rem 0; max-width: 44rem; }} code {{ font-size: .85rem; overflow-wrap: anywhere; }}
.answer {{ font-size: 1.1rem; }} .plot {{ overflow-x: auto; }} a {{ color: #0969da; }}
.note {{ color: #57606a; font-size: .9rem; }}
@media (prefers-color-scheme: dark) {{
  body {{ background: #14171a; color: #e6e8ea; }} .note {{ color: #9aa4ae; }} a {{ color: #6cb6ff; }}
  .plotly-graph-div {{ filter: invert(1) hue-rotate(180deg); }}
}}
@media print {{ h2, .plotly-graph-div {{ break-inside: avoid; }} body {{ max-width: none; padding: 0; }} }}
</style><script>{script}</script></head><body>
<h1>{title}</h1>
{body}
</body></html>
"""


def importances(study: Study) -> dict[str, float]:
    """Return each searched key's share in what sets the best tenth of the trials apart, the largest first.

    By PED-ANOVA (Watanabe et al., "PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in Arbitrary
    Subspaces", IJCAI 2023, equation 16). Empty where too few trials have finished, or all came to the same.
    """
    from optuna.importance import get_param_importances

    values = {trial.value for trial in study.trials("COMPLETE")}
    if len(study.trials("COMPLETE")) < FEWEST or len(values) < 2 or len(study.space.distributions) < 2:
        return {}
    return get_param_importances(study.optuna)


def write_plots(study: Study) -> Path:
    """Write `search.html` into the study's directory and return its path."""
    import plotly
    from optuna import visualization as draw

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
        note = "Share in what sets the best tenth of the trials apart (PED-ANOVA, Watanabe et al. 2023)."
        figure = draw.plot_param_importances(study.optuna, target_name=monitor)
        parts.insert(1, ("What mattered", note, figure))
    plots = [
        f'<h2>{title}</h2><p class="note">{note}</p><div class="plot" tabindex="0">{_html(figure)}</div>'
        for title, note, figure in parts
    ]
    body = "\n".join([_answer(study), *plots])
    page = PAGE.format(title=html.escape(f"Search {study.name}"), body=body, script=plotly.offline.get_plotlyjs())
    file = study.directory / "search.html"
    write_text(file, page)
    return file


def _answer(study: Study) -> str:
    best = study.best()
    if best is None:
        return ""
    chosen = "<br>".join(html.escape(override) for override in study.space.chosen(best.params))
    value = f"{html.escape(study.definition.monitor)} {best.value:.4f}"
    return (
        f'<p class="answer">Best of {len(study.trials())} trials: <a href="trial={best.number:04d}/">trial '
        f"{best.number}</a>, <strong>{value}</strong></p><p><code>{chosen}</code></p>"
        f'<p class="note">Run it again: <code>{html.escape(repeat_command(study, best))}</code></p>'
        '<p class="note">The settings compared, with intervals: <a href="report.html">report.html</a></p>'
    )


def _html(figure: "Figure") -> str:
    layout: dict[str, Any] = {"title": None, "margin": {"l": 60, "r": 20, "t": 20, "b": 50}, "height": 380}
    subplots = sum(1 for name in figure.layout if name.startswith("xaxis"))  # too narrow ones are scrolled to
    width = {"width": 200 * subplots} if subplots > 4 else {}
    figure.update_layout(
        template="plotly_white", paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)", **layout, **width
    )
    figure.update_xaxes(title_text="Epoch, from 0", selector={"title": {"text": "Step"}})
    return figure.to_html(
        full_html=False, include_plotlyjs=False, config={"displaylogo": False, "responsive": True}
    )
