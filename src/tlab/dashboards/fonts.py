"""The font of the figures: matplotlib's own, else one of this machine that has the letters of a text."""

import functools
import logging
from pathlib import Path

from PIL import ImageFont

log = logging.getLogger(__name__)


def line(text: str, size: int) -> tuple[str, ImageFont.FreeTypeFont]:
    r"""Return a text as it can be drawn, and the font that has all of its letters.

    Where no font of this machine has them, they are written as `\u73ab`, and the log says once what is missing.

    Args:
        text: The text.
        size: Height of the letters, in pixels.
    """
    own = _letters(_own_font())
    if lacking := {each for each in text if ord(each) not in own}:
        if other := _other_font(frozenset(lacking)):
            return text, _font(other, size)
        text = "".join(_escaped(each) if each in lacking else each for each in text)
    return text, _font(_own_font(), size)


@functools.cache
def _font(file: Path, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, size)


@functools.cache
def _own_font() -> Path:
    import matplotlib

    return Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")


@functools.cache
def _letters(file: Path) -> frozenset[int]:
    """Return the numbers of the characters that a font has; none where it cannot be read."""
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(str(file)).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()


@functools.cache
def _other_font(letters: frozenset[str]) -> Path | None:
    found = next((file for file in _system_fonts() if {*map(ord, letters)} <= _letters(file)), None)
    if found is None:
        _say_what_is_missing()
    return found


@functools.cache
def _say_what_is_missing() -> None:
    log.warning(
        r"No font on this machine has the letters of some names, which figures write as \u73ab: install one that "
        "has them, such as Noto Sans CJK (apt-get install fonts-noto-cjk) for Chinese, Japanese and Korean"
    )


@functools.cache
def _system_fonts() -> list[Path]:
    from matplotlib.font_manager import findSystemFonts

    return sorted(map(Path, findSystemFonts()))


def _escaped(letter: str) -> str:
    return letter.encode("ascii", "backslashreplace").decode()
