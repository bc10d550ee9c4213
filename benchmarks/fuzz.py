"""Random damage to images, tables, weights and checkpoints: none may crash, hang, or take more than 1 GB of memory.

Small files are drawn, and damaged in a few places each time: bytes replaced, spans removed or repeated, the end
cut off, values of a checkpoint exchanged; checksums of PNG and ZIP are mended, so that the damage is met behind
them. Only `DecodeError` and `UserError` may be raised, and what the check finds readable must be readable.
What fails is reduced by Hypothesis, kept in a file, and ends the script with exit code 1. Linux and macOS.

    pip install hypothesis
    python benchmarks/fuzz.py --minutes 10
"""

import argparse
import faulthandler
import io
import itertools
import logging
import resource
import struct
import sys
import tempfile
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import strategies as st
from PIL import Image

from tlab.config.hydra import compose
from tlab.config.provenance import plain
from tlab.core.errors import UserError
from tlab.data.decode import DecodeError, decode
from tlab.data.decode_options import DecodeOptions, Levels
from tlab.data.sources.csv_table import csv_index
from tlab.data.sources.verify import examine
from tlab.models.weights import read_file
from tlab.runs.load import load_trained

SECONDS = 20  # for one input
MEMORY = 10**9  # bytes that one input may take
ROUND = 50  # inputs after which another kind has its turn
NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)
OPTIONS = (
    DecodeOptions(),
    DecodeOptions(Levels(integers=(0, 4095), floats=(-1, 2)), truncated=True),
    DecodeOptions(max_megapixels=1),
)

Edit = tuple[str, float, int, int]  # what, where (as a share of the file), how much, and with which number
edits = st.lists(
    st.tuples(
        st.sampled_from(("byte", "word", "remove", "repeat", "end")),
        st.floats(0, 1),
        st.integers(0, 300),
        st.one_of(st.sampled_from(NUMBERS), st.integers(0, 2**32 - 1)),
    ),
    min_size=1,
    max_size=6,
)
values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.text(max_size=20),
    st.lists(st.integers(-3, 3), max_size=4),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
)


def damaged(content: bytes, damage: list[Edit]) -> bytes:
    """Return the content after some edits."""
    data = bytearray(content)
    for what, where, count, number in damage:
        place = int(where * len(data))
        if what == "byte":
            data[place : place + 1] = bytes([number & 255])
        elif what == "word":
            data[place : place + 4] = struct.pack("<I" if count % 2 else ">I", number)
        elif what == "remove":
            del data[place : place + count]
        elif what == "repeat":
            data[place:place] = data[place : place + count]
        else:
            del data[place:]
    return bytes(data)


def mended_png(content: bytes) -> bytes:
    """Return a PNG with the right checksums."""
    out, start = [content[:8]], 8
    while start + 12 <= len(content):
        length = int.from_bytes(content[start : start + 4], "big")
        body = content[start + 4 : start + 8 + length]
        out.append(content[start : start + 4] + body + struct.pack(">I", zlib.crc32(body)))
        start += 12 + length
    return b"".join(out)


def damaged_zip(content: bytes, damage: list[Edit]) -> bytes:
    """Return a file of `torch.save` of which one member is damaged, with the right checksum."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        names = old.namelist()
        chosen = names[0] if damage[0][2] % 3 else names[damage[0][2] % len(names)]  # mostly the pickle
        for name in names:
            member = old.read(name)
            new.writestr(name, damaged(member, damage) if name == chosen else member)
    return out.getvalue()


def images() -> list[bytes]:
    """Draw an image in every format that Pillow writes, and of every depth."""
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (8, 10, 3), np.uint8)).resize((90, 70))
    drawn: list[tuple[Image.Image, str, dict[str, Any]]] = [
        (rgb, name, {})
        for name in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO", "TGA", "PCX", "SGI", "DDS", "ICNS")
    ]
    drawn += [(rgb, name, {}) for name in ("AVIF", "JPEG2000", "MPO", "QOI") if name in Image.SAVE]
    drawn += [(rgb, "JPEG", {"progressive": True}), (rgb.convert("CMYK"), "JPEG", {})]
    drawn += [(rgb.convert(mode), "TIFF", {}) for mode in ("1", "L", "P", "RGBA", "CMYK", "LAB", "I", "F", "I;16")]
    drawn += [(rgb, "TIFF", {"compression": each}) for each in ("tiff_lzw", "jpeg", "tiff_deflate", "packbits")]
    drawn += [(rgb.convert(mode), "PNG", {}) for mode in ("1", "L", "P", "LA", "RGBA", "I;16")]
    exif = Image.Exif()
    exif[0x0112] = 6
    drawn.append((rgb, "JPEG", {"exif": exif}))
    drawn.append((rgb, "GIF", {"save_all": True, "append_images": [rgb.rotate(90)]}))
    contents = []
    for image, name, options in drawn:
        buffer = io.BytesIO()
        image.save(buffer, name, **options)
        contents.append(buffer.getvalue())
    return contents


def fuzz_image(file: Path, kind: int, damage: list[Edit], options: DecodeOptions, *, drawn: list[bytes]) -> None:
    """Check and decode a damaged image, which has to agree."""
    content = damaged(drawn[kind % len(drawn)], damage)
    file.write_bytes(mended_png(content) if content.startswith(b"\x89PNG") else content)
    found = examine(file, options.max_megapixels)
    try:
        x = decode(file, 32, options)
    except DecodeError as error:
        if not found.reason:
            raise AssertionError("the check reads it, but then it cannot be decoded") from error
    else:
        assert x.ndim == 3
        assert x.shape[0] == 3


TABLES = (
    b"id,label\n0,cat\n1,dog\n2,cat\n3,dog\n4,cat\n5,dog\n6,cat\n7,dog\n",
    b"\xef\xbb\xbfid;label\r\n0.png;cat\r\n1.png;dog\r\n2.png;cat\r\n3.png;dog\r\n",
    b'id\tlabel\n"0"\t"a ""cat"""\n"1"\tdog\n"2"\t"a ""cat"""\n"3"\tdog\n',
    "id,label\n0,кот\n1,犬\n2,кот\n3,犬\n".encode("utf-16"),
)


def fuzz_table(file: Path, kind: int, damage: list[Edit]) -> None:
    """Index the images of a damaged table."""
    for number in range(8):
        (file.parent / f"{number}.png").touch()
    file.write_bytes(damaged(TABLES[kind % len(TABLES)], damage))
    csv_index(file.parent, labels=file.name, images=".")


def state_dicts() -> list[bytes]:
    """Return weights as people save them: in ZIP, in the format before it, wrapped."""
    state = {
        "conv1.weight": torch.ones(2, 3, 3, 3),
        "fc.bias": torch.zeros(2),
        "bn.num_batches_tracked": torch.tensor(1),
    }
    saved = []
    for content, legacy in itertools.product(
        (state, {"state_dict": state, "epoch": 3}, {"model": {f"module.{k}": v for k, v in state.items()}}), (0, 1)
    ):
        buffer = io.BytesIO()
        torch.save(content, buffer, _use_new_zipfile_serialization=not legacy)
        saved.append(buffer.getvalue())
    return saved


def fuzz_weights(file: Path, kind: int, damage: list[Edit], *, saved: list[bytes]) -> None:
    """Read a damaged weights file."""
    content = saved[kind % len(saved)]
    inside = content.startswith(b"PK") and damage[0][3] % 4
    file.write_bytes(damaged_zip(content, damage) if inside else damaged(content, damage))
    read_file(file)


def checkpoint() -> dict[str, Any]:
    """Return what a checkpoint holds besides weights."""
    cfg = compose(["data=demo", "backbone=mobilenet_v3_small", "backbone.weights=null", "run_dir=r"])
    about = {
        "config": plain(cfg),
        "classes": ["cat", "dog"],
        "precision": "32-true",
        "image_size": 32,
        "resize": "crop",
        "crop_fraction": 0.875,
        "mean": [0.5] * 3,
        "std": [0.2] * 3,
        "levels": {"integers": [0.0, 4095.0], "floats": None},
        "tokens": "mixed",
        "prefix_tokens": 0,
    }
    return {"state_dict": {"fc.bias": torch.zeros(2)}, "tlab": about}


def fuzz_checkpoint(
    file: Path, places: list[tuple[int, Any]], damage: list[Edit], *, content: dict[str, Any]
) -> None:
    """Load a checkpoint in which some values are others, or which is damaged."""
    for number, value in places:
        content = _with_value(content, number, value)
    buffer = io.BytesIO()
    torch.save(content, buffer)
    file.write_bytes(buffer.getvalue() if places else damaged_zip(buffer.getvalue(), damage))
    load_trained(file)


def _with_value(node: dict[str, Any], number: int, value: Any) -> dict[str, Any]:
    """Return a nested mapping with another value at a place that follows from the number."""
    number, chosen = divmod(number, len(node) or 1)
    key = list(node or "x")[chosen]
    deeper = isinstance(node.get(key), dict) and number % 8
    return {**node, key: _with_value(node[key], number // 8, value) if deeper else value}


def targets() -> dict[str, tuple[Callable[..., None], st.SearchStrategy[Any]]]:
    """Return what takes one input of each kind, after the path of a file, and what draws inputs."""
    kinds = st.integers(0, 1000)
    changes = st.lists(st.tuples(st.integers(0, 2**40), values), max_size=3)
    return {
        "images": (partial(fuzz_image, drawn=images()), st.tuples(kinds, edits, st.sampled_from(OPTIONS))),
        "tables": (fuzz_table, st.tuples(kinds, edits)),
        "weights": (partial(fuzz_weights, saved=state_dicts()), st.tuples(kinds, edits)),
        "checkpoints": (partial(fuzz_checkpoint, content=checkpoint()), st.tuples(changes, edits)),
    }


@settings(
    max_examples=ROUND,
    deadline=None,
    database=None,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
    verbosity=Verbosity.quiet,
)
@given(st.data())
def fuzz(target: Callable[..., None], inputs: st.SearchStrategy[Any], file: Path, data: st.DataObject) -> None:
    """Give a target some inputs."""
    run_one(partial(target, file, *data.draw(inputs)))


def run_one(call: Callable[[], None]) -> None:
    """Run one input within its limits."""
    faulthandler.dump_traceback_later(SECONDS, exit=True)  # which ends a hang inside a library, too
    before, began = peak_memory(), time.monotonic()
    try:
        call()
    except UserError:
        pass
    finally:
        faulthandler.cancel_dump_traceback_later()
    assert time.monotonic() - began < SECONDS, "it took too long"
    assert peak_memory() - before < MEMORY, f"it took {(peak_memory() - before) / 1e9:.1f} GB"


def peak_memory() -> int:
    """Return the most memory that this process has had so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    """Take turns until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--only", nargs="+", help="images, tables, weights, checkpoints")
    parser.add_argument("--keep", type=Path, help="folder of the input")
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    args.keep = args.keep or Path(tempfile.mkdtemp(prefix="fuzz-"))
    args.keep.mkdir(parents=True, exist_ok=True)
    end, rounds = time.monotonic() + 60 * args.minutes, 0
    chosen = {name: each for name, each in targets().items() if name in (args.only or [name])}
    began = peak_memory()
    while time.monotonic() < end:
        for name, (target, inputs) in chosen.items():
            file = args.keep / f"{name}.input"
            try:
                fuzz(target, inputs, file)
            except BaseException:
                print(f"{name}: failed after {rounds * ROUND} inputs; this one is {file}", flush=True)
                raise
        rounds += 1
    print(
        f"{rounds * ROUND} inputs each: {', '.join(chosen)}; memory {began / 1e9:.2f} GB before, at most "
        f"{peak_memory() / 1e9:.2f} GB"
    )


if __name__ == "__main__":
    main()
