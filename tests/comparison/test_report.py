"""The report, opened in a real browser."""

from pathlib import Path
from typing import Any

import pytest

from opened_page import OpenedPage
from tlab.comparison import compare_runs
from tlab.comparison.report.report import write_report

DRAWN = "html[data-drawn]"


def levels(page: Any, table: str, column: int) -> list[str]:
    return page.eval_on_selector_all(
        f"#{table} tbody tr:not([hidden])", f"rows => rows.map(row => row.cells[{column}].textContent)"
    )


@pytest.fixture
def grid(make_run, sweep) -> Path:
    for aug, shift in {"none": 0.0, "light": 0.05, "strong": 0.1}.items():
        for lr in (0.1, 0.03):
            for seed in range(3):
                overrides = [f"aug={aug}", f"optimizer.lr={lr}"]
                curve = [0.3, 0.4, 0.45, 0.5 + shift + lr / 2 + seed / 100]
                make_run(f"{aug}{lr}", curve, seed, overrides, {"optimizer.lr": lr}, test_acc=0.5 + shift)
    make_run(
        "strong0.03", 0.1, 3, ["aug=strong", "optimizer.lr=0.03"], {"optimizer.lr": 0.03}, "failed", "E: <b>x</b>"
    )
    return sweep


class Opened(OpenedPage):
    """The report of a directory, once its charts are drawn."""

    def __init__(self, browser: Any, directory: Path, width: int = 1280, scheme: str = "light") -> None:
        report = write_report(compare_runs(directory), directory)
        super().__init__(browser, report.as_uri(), width, scheme, only_errors=True)
        self.page.wait_for_selector(DRAWN, timeout=120_000)
        self.report = report

    def after(self, action: Any) -> None:
        """Do something that draws the charts again, and wait until they are."""
        before = int(self.page.get_attribute("html", "data-drawn"))
        action()
        self.page.wait_for_function(f"Number(document.documentElement.dataset.drawn) > {before}", timeout=120_000)


def test_every_part_is_there_without_an_error_or_a_request(browser, grid):
    opened = Opened(browser, grid)
    assert opened.errors == []
    assert [url for url in opened.requests if not url.startswith("data:")] == [opened.report.as_uri()]
    for chart in ("ranking", "effect-0", "effect-1", "curves", "time", "parallel", "classes", "confusion"):
        assert opened.page.locator(f"#{chart} svg.main-svg").first.is_visible(), chart
    assert "aug=strong, optimizer.lr=0.1" in opened.page.inner_text("h1")
    assert "cat taken for dog" in opened.page.inner_text("#pairs")
    assert opened.page.locator("#curves .shapelayer path").count() == 1  # the second phase begins
    assert "E: <b>x</b>" in opened.page.inner_text("#runs")


def test_links_lead_to_the_runs(browser, grid):
    opened = Opened(browser, grid)
    link = opened.page.eval_on_selector("#runs tbody a", "a => a.href")
    assert Path(link.removeprefix("file://")) == grid / "strong0.1" / "seed=0"


def test_sorting(browser, grid):
    page = Opened(browser, grid).page
    heading = page.locator("#settings th button", has_text="optimizer.lr")
    heading.click()
    assert levels(page, "settings", 2) == ["0.03"] * 3 + ["0.1"] * 3
    assert page.get_attribute("#settings th:nth-child(3)", "aria-sort") == "ascending"
    heading.click()
    assert levels(page, "settings", 2) == ["0.1"] * 3 + ["0.03"] * 3
    page.locator("#settings th button", has_text="behind").click()
    assert (
        page.inner_text("#settings tbody tr:last-child td:first-child").strip() == "1"
    )  # the best is behind nobody


def test_filtering_by_words_and_by_levels(browser, grid):
    opened = Opened(browser, grid)
    page = opened.page
    opened.after(lambda: page.fill("#words", "aug=none lr=0.1"))
    assert levels(page, "settings", 1) == ["none"]
    assert len(levels(page, "runs", 1)) == 3
    assert page.locator("#ranking .ytick").count() == 1
    opened.after(lambda: page.click("#reset"))
    opened.after(lambda: page.select_option("select[data-factor='1']", "0.03"))
    assert set(levels(page, "settings", 2)) == {"0.03"}
    assert page.locator("#ranking .ytick").count() == 3
    opened.after(lambda: page.fill("#words", "nothing like it"))
    assert levels(page, "settings", 1) == []
    assert opened.errors == []


def test_hovering_tells_the_setting(browser, grid):
    page = Opened(browser, grid).page
    page.locator("#ranking").scroll_into_view_if_needed()
    page.locator("#ranking .scatterlayer .trace:last-child path.point").first.hover(force=True)
    page.wait_for_selector("#ranking .hoverlayer text", timeout=20_000)
    told = page.text_content("#ranking .hoverlayer")
    assert "aug: strong" in told
    assert "optimizer.lr: 0.1" in told


@pytest.mark.parametrize("width", [390, 1280])
def test_dark_mode_and_phone(browser, grid, width):
    grounds = {}
    for scheme in ("light", "dark"):
        opened = Opened(browser, grid, width, scheme)
        assert opened.errors == []
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
        grounds[scheme] = opened.page.evaluate(
            "[getComputedStyle(document.body).backgroundColor,"
            " getComputedStyle(document.querySelector('#ranking .xtick text')).fill]"
        )
    assert all(light != dark for light, dark in zip(grounds["light"], grounds["dark"], strict=True))


def test_the_charts_follow_a_change_of_scheme(browser, grid):
    opened = Opened(browser, grid)
    ink = "getComputedStyle(document.querySelector('#ranking .xtick text')).fill"
    before = opened.page.evaluate(ink)
    opened.after(lambda: opened.page.emulate_media(color_scheme="dark"))
    assert opened.page.evaluate(ink) != before


def test_on_paper_it_is_light_and_nothing_is_wider_than_the_page(browser, grid):
    opened = Opened(browser, grid, scheme="dark")
    opened.page.emulate_media(media="print", color_scheme="dark")
    opened.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert opened.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not opened.page.locator(".filter").is_visible()
    assert (
        opened.page.evaluate("Math.max(...[...document.querySelectorAll('.main-svg')].map(s => s.clientWidth))")
        <= 660
    )
    assert opened.errors == []


@pytest.mark.parametrize(
    ("lengths", "ticks"),
    [((1, 70), "1 s, 2 s, 5 s, 10 s, 20 s, 30 s, 1 min"), ((1, 3), "1 s, 1.5 s, 2 s, 2.5 s, 3 s")],
)
def test_times_read_as_people_say_them(browser, make_run, sweep, lengths, ticks):
    """A run's training time is a second per epoch here."""
    for aug, epochs in zip(("none", "strong"), lengths, strict=True):
        make_run(aug, [0.5 + i / 1000 for i in range(epochs)], 0, [f"aug={aug}"])
    opened = Opened(browser, sweep)
    assert opened.errors == []
    shown = opened.page.eval_on_selector_all("#time .xtick text", "texts => texts.map(text => text.textContent)")
    assert ", ".join(shown) == ticks


def test_one_run(browser, make_run, sweep):
    make_run("only", [0.3, 0.6])
    opened = Opened(browser, sweep)
    assert opened.errors == []
    assert opened.page.locator("#curves svg.main-svg").first.is_visible()
    for section in ("ranking", "effects", "time", "parallel"):
        assert not opened.page.locator(f"#{section}-section").is_visible()


def test_no_finished_run(browser, make_run, sweep):
    make_run("a", status="failed", error="ValueError: x")
    opened = Opened(browser, sweep)
    assert opened.errors == []
    assert opened.page.inner_text("h1") == "No run has finished"
    assert "ValueError: x" in opened.page.inner_text("#runs")


def test_text_of_a_user_is_no_markup(browser, make_run, sweep):
    for name in ("<img src=x onerror=alert(1)>", "</script><b>"):
        make_run(f"r{len(name)}", 0.5, 0, ["aug=strong"], {"data.root": name})
    opened = Opened(browser, sweep)
    assert opened.errors == []
    assert opened.page.locator("main img, main b").count() == 0


@pytest.mark.slow
def test_five_hundred_runs(browser, make_run, sweep):
    for i in range(100):
        for seed in range(5):
            overrides = [f"aug=a{i % 10}", f"optimizer.lr={i // 10}"]
            curve = [0.1 + k * 0.02 + i / 1000 + seed / 1000 for k in range(15)]
            make_run(f"{i}", curve, seed, overrides, {"optimizer.lr": float(i // 10)})
    opened = Opened(browser, sweep)
    assert opened.errors == []
    assert len(levels(opened.page, "runs", 0)) == 500
    assert opened.page.locator("#parallel svg.main-svg").first.is_visible()
