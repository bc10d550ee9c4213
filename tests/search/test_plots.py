"""The page of a search, opened in a real browser."""

from pathlib import Path

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from tlab.search.plots import caution, write_plots
from tlab.search.space import Space
from tlab.search.study import Definition, Study

SPACE = Space(
    ("data=demo",),
    {"optimizer.lr": "tag(log, interval(1e-4, 1))", "aug": "none,light"},
    {"optimizer.lr": FloatDistribution(1e-4, 1, log=True), "aug": CategoricalDistribution(["none", "light"])},
)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Twelve trials without a run, the last two pruned."""
    sampler = {"_target_": "optuna.samplers.RandomSampler", "seed": 0}
    pruner = {"_target_": "optuna.pruners.NopPruner"}
    definition = Definition(
        *(["data=demo"], dict(SPACE.searched), [0, 1], "val/acc", "max", None, 12, sampler, pruner)
    )
    study = Study("<b>rates</b>", tmp_path, definition, SPACE)
    for number in range(12):
        with study.lease() as lease:
            assert lease is not None
            lease.trial.report(number / 20, 0)
            if number < 10:
                study.optuna.tell(lease.trial, number / 20)
            else:
                study.optuna.tell(lease.trial, state=TrialState.PRUNED)
    return study


def test_the_caution_names_the_trials(study):
    assert "the best 1 trial of the 10 finished ones" in caution(study)


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_on_a_phone_and_in_the_dark(browser, study, width):
    file = write_plots(study)
    errors, requests, looks = [], [], {}
    for scheme in ("light", "dark"):
        view = {"width": width, "height": 900}
        page = browser.new_context(viewport=view, color_scheme=scheme).new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(file.as_uri())
        page.wait_for_selector("html[data-drawn]", timeout=120_000)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.inner_text("h1") == "Trial 9 is the best: val/acc 45.0 %"
        assert "10 finished, 2 pruned" in page.inner_text(".tiles")
        assert page.locator("section svg.main-svg").count() >= 4
        looks[scheme] = page.evaluate(
            "[getComputedStyle(document.body).backgroundColor,"
            " getComputedStyle(document.querySelector('.xtick text')).fill]"
        )
    assert errors == []
    assert set(requests) == {file.as_uri()}
    assert all(light != dark for light, dark in zip(looks["light"], looks["dark"], strict=True))
