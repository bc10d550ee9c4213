"""Damage in JPEGs that libjpeg passes over: missing blocks, which it fills with gray, and bytes that it skips."""

import io
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

END = b"\xff\xd9"
SEQUENTIAL, SCAN, RESTART_INTERVAL = (0xC0, 0xC1), 0xDA, 0xDD  # markers (ITU-T T.81, table B.1)
RESTART = re.compile(rb"\xff+([\xd0-\xd7])")
AFTER_SCAN = re.compile(rb"\xff+[^\0\xff\xd0-\xd7]")
JUNK = bytes(range(1, 200))  # bits that decode to something else than what libjpeg fills missing blocks with
NO_CODE = 8 * b"\xff\0"  # bits that are no Huffman code, as many as the decoder may read ahead
READ_AHEAD = 24  # bytes


def is_plain(content: bytes) -> bool:
    """Tell whether a JPEG is sequential, in one scan without restart markers, and has its end marker."""
    segments = dict(_segments(content))
    frame = next((segments[marker] for marker in SEQUENTIAL if marker in segments), None)
    if frame is None or SCAN not in segments or content.find(END, segments[SCAN]) < 0:
        return False
    interval = segments.get(RESTART_INTERVAL)
    no_restarts = interval is None or content[interval + 4 : interval + 6] == b"\0\0"
    return no_restarts and content[frame + 9] == content[segments[SCAN] + 4]  # numbers of components


def lacks_scan(content: bytes) -> bool:
    """Tell whether the segments of a JPEG lead to no scan, as where a transfer as text put bytes between them."""
    return SCAN not in dict(_segments(content))


def loads_exactly(image: JpegImageFile, content: bytes) -> bool:
    """Load a plain JPEG, and tell whether it is complete with the last bytes of its scan; as fast as loading alone.

    Args:
        image: The image as opened, of no use if this returns False.
        content: Bytes of the file.
    """
    end = content.find(END, dict(_segments(content))[SCAN])
    # without the end marker, the decoder waits at the first block that it lacks bits of
    pieces = [content[: end - READ_AHEAD], content[end - READ_AHEAD : end] + NO_CODE]
    image.load_read = lambda _: pieces.pop(0) if pieces else b""  # type: ignore
    with suppress(OSError):
        image.load()
        return not pieces
    return False


def lacks_blocks(content: bytes, size: tuple[int, int]) -> bool:
    """Tell whether a JPEG, decoded at about a size, changes with bits added where a scan or a part of it ends.

    These bits are skipped if no block is missing. A progressive JPEG is decoded at its full size, since its later
    scans hold details.
    """

    def pixels(of: bytes) -> bytes:
        with Image.open(io.BytesIO(of), formats=("JPEG",)) as image:
            if "progressive" not in image.info:
                image.draft(None, size)
            return image.tobytes()

    scans = [*_scans(content)]
    if any(_lacks_restarts(content[start:end]) for start, end in scans):
        return True
    return pixels(content) != pixels(_with_junk(content, scans))


def _segments(content: bytes, place: int = 2) -> Iterator[tuple[int, int]]:
    """Yield the marker and the place of each segment up to the next scan, whose header is the last one."""
    while content[place : place + 1] == b"\xff" and len(content) > place + 4:
        marker = content[place + 1]
        if marker == 0xFF:  # which fills
            place += 1
            continue
        yield marker, place
        if marker == SCAN:
            return
        place = _after(content, place)


def _after(content: bytes, place: int) -> int:
    return place + 2 + int.from_bytes(content[place + 2 : place + 4], "big")


def _scans(content: bytes) -> Iterator[tuple[int, int]]:
    """Yield where the data of each scan begin and end."""
    end = 2
    while (scan := dict(_segments(content, end)).get(SCAN)) is not None:
        start = _after(content, scan)
        if (marker := AFTER_SCAN.search(content, start)) is None:
            return
        end = marker.start()
        yield start, end


def _lacks_restarts(scan: bytes) -> bool:
    """Tell whether the restart markers of a scan are not numbered 0 to 7 in turn."""
    numbers = b"".join(RESTART.findall(scan))
    return numbers != (b"\xd0\xd1\xd2\xd3\xd4\xd5\xd6\xd7" * (len(numbers) // 8 + 1))[: len(numbers)]


def _with_junk(content: bytes, scans: Iterable[tuple[int, int]]) -> bytes:
    """Return a JPEG with `JUNK` before each marker in a scan, and before the one after it."""
    parts, done = [], 0
    for start, end in scans:
        parts += [content[done:start], RESTART.sub(lambda marker: JUNK + marker[0], content[start:end]), JUNK]
        done = end
    return b"".join([*parts, content[done:]])
