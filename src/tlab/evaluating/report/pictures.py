"""The pictures of a report, each of which is in the page once."""

import os
from collections.abc import Iterable
from html import escape
from pathlib import Path
from urllib.parse import quote

from torch import Tensor

from tlab.core.text import as_text
from tlab.data.decode_options import DecodeOptions
from tlab.data.progress_bar import shown
from tlab.data.thumbnails import data_url, thumbnails

MOST_CHARACTERS = 14 * 10**6  # of all pictures, so that the page opens soon


class Pictures:
    """Pictures as `data:` URLs.

    Attributes:
        urls: The pictures.
        places: File -> place of its thumbnail among them.
        left_out: Number of files that have none, since there would be too many.
    """

    def __init__(self) -> None:
        self.urls: list[str] = []
        self.places: dict[str, int] = {}
        self.left_out = 0

    def add(self, x: Tensor, most: int) -> int:
        """Add an image, uint8 `3 H W`, of at most `most` pixels a side, and return its place."""
        self.urls.append(data_url(x, most))
        return len(self.urls) - 1

    def add_files(self, files: Iterable[str], options: DecodeOptions) -> None:
        """Add the thumbnails of files, the first ones first, until the page has enough."""
        wanted = [file for file in dict.fromkeys(files) if file not in self.places]
        room = MOST_CHARACTERS - sum(map(len, self.urls))
        found = thumbnails([Path(file) for file in wanted], options)
        for number, (file, url) in enumerate(zip(wanted, shown(found, "Thumbnails", len(wanted)), strict=True)):
            room -= len(url or "")
            if room < 0:
                self.left_out += len(wanted) - number
                return
            if url:
                self.places[file] = len(self.urls)
                self.urls.append(url)


def link_to(file: Path, folder: Path) -> str:
    """Return the address of a file, relative to the folder of the page."""
    return quote(os.fsencode(os.path.relpath(file, folder)), safe="/")


def image_tag(place: int | None, words: str) -> str:
    """Return the tag of a picture, which the page's script shows; nothing where there is none."""
    return "" if place is None else f"<img data-picture='{place}' alt='{escape(as_text(words))}'>"
