"""The frame that all pages share: head, answer and key figures; for a phone, dark mode and paper."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template

PARTS = Path(__file__).with_name("parts")


def framed(
    eyebrow: str, title: str, headline: str, lede: str, tiles: str, body: str, notes: str = "", head: str = ""
) -> str:
    """Return a whole page.

    Args:
        eyebrow: Small line above the headline; plain text, as title and headline are.
        title: Title of the window.
        headline: The answer in a few words.
        lede: HTML of the sentences below it.
        tiles: HTML of the key figures, see `tile_list`.
        body: HTML of all that follows.
        notes: HTML of the cautions.
        head: HTML for the head of the page.
    """
    return Template(part("frame.html")).substitute(
        eyebrow=escape(eyebrow),
        title=escape(title),
        headline=escape(headline),
        lede=lede,
        tiles=tiles,
        notes=notes,
        head=head,
        body=body,
        style=part("page.css"),
    )


def tile_list(tiles: Sequence[tuple[str, str, str]]) -> str:
    """Return key figures as a list of terms: name, figure, and what there is to say of it."""
    return "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(figure)}</dd><dd class='sub'>{escape(sub)}</dd></div>"
        for name, figure, sub in tiles
    )


def part(name: str, folder: Path = PARTS) -> str:
    """Return a file of a page as text: one that all pages share, or one of the `folder` of a page's own."""
    return (folder / name).read_text(encoding="utf-8")
