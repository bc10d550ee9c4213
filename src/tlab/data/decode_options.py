"""How files are decoded: which are readable, and what is black and white in samples of more than 8 bits."""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from tlab.core.text import counted, noun

MAX_MEGAPIXELS = 179  # Pillow's own limit, in 10^6 pixels
HIGHEST: dict[float, int] = {2**bits - 1: bits for bits in range(8, 17)}  # the highest sample of as many bits
COMMON = (255, 1023, 4095, 16383, 65535)  # those that cameras and scanners have
NAMES = {"integers": "more than 8 bits", "floats": "floating-point samples"}
NO_DATA = (-9999, -32768, float(np.finfo(np.float32).min))  # what geographic software stores in holes
RARE = 0.05  # share of a set's images that may be whiter than white
CUT_SHORT = "truncated (the file ends too early)"
MOSTLY_THERE = "truncated (the file ends too early, but most of the image is there)"
EXTRA_BYTES = "more JPEG data than the image takes, as where bytes of it are damaged"


class SampleRange(NamedTuple):
    """The smallest and the largest of the samples of an image, which have more than 8 bits.

    Attributes:
        kind: `integers` or `floats`.
        low: The smallest, but for values that stand for no data.
        high: The largest; of color images the largest with the same high byte.
    """

    kind: str
    low: float
    high: float


@dataclass(frozen=True)
class Levels:
    """Black and white of samples of more than 8 bits, in all images of a set.

    Attributes:
        integers: Black and white of integer samples; None: 16 bits, or the range of each image of 32 bits.
        floats: Black and white of floating-point samples; None: the range of each image.
    """

    integers: tuple[float, float] | None = None
    floats: tuple[float, float] | None = None

    def plain(self) -> dict[str, list[float] | None]:
        """Return the levels as plain data, see `levels_from`."""
        return {kind: list(each) if each else None for kind, each in asdict(self).items()}

    def to_eight_bits(self, samples: np.ndarray) -> np.ndarray:
        """Scale samples of any shape to uint8. What is not a number becomes black, as does an infinite one.

        Where white is a power of two less one, as of 12 or 16 bits, the high bits are kept.
        """
        found = sample_range(samples)
        known = self.integers if found.kind == "integers" else self.floats
        black, white = known or ((0, 65535) if samples.dtype == np.uint16 else usual_range(found))
        if samples.dtype.kind == "f":
            samples = np.nan_to_num(samples.astype(np.float64), nan=black, posinf=black, neginf=black)
        if black == 0 and white in HIGHEST and (white > 255 or found.kind == "integers"):
            return (samples.clip(0, white).astype(np.uint16) >> (HIGHEST[white] - 8)).astype(np.uint8)
        scaled = (samples.astype(np.float64) - black) * (255 / max(white - black, 1e-12))
        return np.rint(scaled).clip(0, 255).astype(np.uint8)


@dataclass(frozen=True)
class DecodeOptions:
    """How files are decoded.

    Attributes:
        levels: Black and white of samples of more than 8 bits.
        max_megapixels: Largest number of pixels of a readable image, in 10^6, at the size at which it is decoded.
        truncated: Whether files that end too early are read, if most of their rows are there; the rest is gray or
            black.
    """

    levels: Levels = Levels()
    max_megapixels: float = MAX_MEGAPIXELS
    truncated: bool = False


DEFAULTS = DecodeOptions()


def sample_range(samples: np.ndarray) -> SampleRange:
    """Return the range of the finite samples that do not stand for no data; from 0 to 0 where there is none."""
    kind = "floats" if samples.dtype.kind == "f" else "integers"
    if kind == "floats":
        samples = samples[np.isfinite(samples)]
    while samples.size and (lowest := samples.min()) in NO_DATA:
        samples = samples[samples > lowest]
    return (
        SampleRange(kind, float(samples.min()), float(samples.max())) if samples.size else SampleRange(kind, 0, 0)
    )


def usual_range(found: SampleRange) -> tuple[float, float]:
    """Return the first usual range that holds the samples of one image: black and white.

    Floats: 0..1, 0..255. Both: 16 bits. Else their own range.
    """
    return _range_up_to((1, 255, 65535) if found.kind == "floats" else (65535,), found)


def range_of_set(found: SampleRange) -> tuple[float, float]:
    """Return the smallest usual range that holds the samples of a set: black and white.

    As many bits as cameras and scanners have, 8 at least; floats also 0..1, and their own range where they use less
    than a quarter of the usual one.
    """
    if found.kind == "floats":
        return _range_up_to([white for white in (1, *COMMON) if found.high >= white / 4 or not found.high], found)
    return _range_up_to(COMMON, found)


def _range_up_to(whites: Iterable[int], found: SampleRange) -> tuple[float, float]:
    """Return the range from 0 to the first of these numbers that holds the samples, else their own."""
    white = next((white for white in whites if found.high <= white), None)
    return (0, white) if white and found.low >= 0 else (found.low, found.high)


def options_of(data: Mapping[str, Any], levels: Levels = DEFAULTS.levels) -> DecodeOptions:
    """Return the options that the keys `data` of a run say; those that it does not have yet are the defaults."""
    limit = data.get("max_megapixels")
    return DecodeOptions(levels, MAX_MEGAPIXELS if limit is None else limit, data.get("unreadable") == "read")


def levels_from(record: Any) -> Levels:
    """Return the levels that a checkpoint or run.json holds as plain data; the default ones for None.

    Raises:
        TypeError, ValueError: They are none.
    """
    found = dict(record or {}).items()
    chosen: dict[str, Any] = {kind: tuple(map(float, each)) if each else None for kind, each in found}
    levels = Levels(**chosen)
    for each in (levels.integers, levels.floats):
        if each is not None and not (len(each) == 2 and -math.inf < each[0] <= each[1] < math.inf):
            raise ValueError(f"{each} is no black and white")
    return levels


def choose_levels(ranges: Iterable[SampleRange], bits: int | None) -> Levels:
    """Return the levels for a set of images.

    Args:
        ranges: Range of each image that has samples of more than 8 bits.
        bits: Bits of integer samples, and of floats above 255, that are not negative; None: by what nearly all use.
    """
    chosen: dict[str, Any] = {}
    for kind, each in _by_kind(ranges).items():
        whole = _range_of(each) if bits is not None else _range_of_most(each)
        black, white = range_of_set(whole)
        if bits is not None and whole.low >= 0 and (255 if kind == "floats" else 0) < white <= 65535:
            black, white = 0, 2**bits - 1
        chosen[kind] = black, white
    return Levels(**chosen)


def level_remarks(ranges: Iterable[SampleRange], levels: Levels) -> list[str]:
    """Return a sentence for each kind of samples whose white is not the usual one: 16 bits, of floats 1 or 255."""
    remarks = []
    for kind, each in _by_kind(ranges).items():
        black, white = getattr(levels, kind)
        most, name = _range_of_most(each), NAMES[kind]
        beyond = [found.high for found in each if found.low < black or found.high > white]
        usual = (65535,) if kind == "integers" else (1, 255, 65535)
        if not beyond and black == 0 and white in usual:
            continue
        if black == 0 and white in COMMON:
            how = f"read as {HIGHEST[white]} bits (data.bits=16 for the full range)"
        else:
            how = "these are black and white in all images" + " (data.bits=16 for the full range)" * bool(beyond)
        but = f", but {len(beyond)} of them more (up to {max(beyond):g}), which is cut off" if beyond else ""
        use = f"{counted(each, 'training image')} of {name} {noun(len(each), 'uses', 'use')}"
        remarks.append(f"{use} only {most.low:g} to {most.high:g}{but}: {how}.")
    return remarks


def beyond_levels(ranges: Iterable[SampleRange], levels: Levels) -> list[str]:
    """Return a sentence for each kind of samples of which images go far beyond the training images' levels."""
    found = _by_kind(ranges)
    far = {kind: sum(is_far(one, levels) for one in each) for kind, each in found.items()}
    return far_remarks(far, {kind: len(each) for kind, each in found.items()}, levels)


def is_far(found: SampleRange, levels: Levels) -> bool:
    """Tell whether the samples of an image go far beyond black and white."""
    black, white = getattr(levels, found.kind) or (-math.inf, math.inf)
    return max(found.high - black, white - found.low) > 4 * (white - black)


def far_remarks(far: Mapping[str, int], images: Mapping[str, int], levels: Levels) -> list[str]:
    """Return the sentences of `beyond_levels`.

    Args:
        far: Kind of samples -> number of images of which `is_far` is true.
        images: Kind of samples -> number of images in all.
        levels: Black and white.
    """
    remarks = []
    for kind, count in images.items():
        if far[kind]:
            black, white = getattr(levels, kind)
            remarks.append(
                f"{far[kind]} of {counted(count, 'image')} of {NAMES[kind]} with values far beyond {black:g} to "
                f"{white:g}, black and white by the training images: what is beyond is lost, scale these as those."
            )
    return remarks


def _by_kind(ranges: Iterable[SampleRange]) -> dict[str, list[SampleRange]]:
    found: dict[str, list[SampleRange]] = {}
    for each in ranges:
        found.setdefault(each.kind, []).append(each)
    return found


def _range_of(ranges: Collection[SampleRange]) -> SampleRange:
    """Return the range of all images of one kind."""
    return SampleRange(next(iter(ranges)).kind, min(each.low for each in ranges), max(each.high for each in ranges))


def _range_of_most(ranges: Collection[SampleRange]) -> SampleRange:
    """Return the range of all images of one kind but a few, if without these white is a quarter or less."""
    lows, highs = sorted(each.low for each in ranges), sorted(each.high for each in ranges)
    whole = _range_of(ranges)
    black, white = range_of_set(whole)
    for few in range(1, int(RARE * len(ranges)) + 1):
        most = SampleRange(whole.kind, lows[few], highs[-1 - few])
        darkest, brightest = range_of_set(most)
        if 4 * (brightest - darkest) <= white - black:
            return most
    return whole
