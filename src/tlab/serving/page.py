"""The page on which a run is tried: one document, which asks for nothing but answers."""

import re
from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from string import Template
from typing import Any

from tlab.core.text import counted, few
from tlab.models.calibration.measures import interval_words, share_of
from tlab.pages.frame import framed, part, tile_list

PARTS = Path(__file__).with_name("parts")
MAP_BUTTON = '<button type="button" aria-pressed="false" hidden>Heat map</button>'


def serving_page(about: Mapping[str, Any], port: int, with_maps: bool) -> str:
    """Return the page.

    Args:
        about: What `/metadata` tells.
        port: Port at which it answers.
        with_maps: Whether there are heat maps.
    """
    metrics = about["metrics"]
    measured = next((split for split in ("test", "val") if f"{split}/acc" in metrics), None)
    before = "" if about["metrics_of"] == about["checkpoint"] else f" of {about['metrics_of']}, before the refit"
    accuracy = []
    if measured:
        value, images = metrics[f"{measured}/acc"], about["images"].get(measured)
        found = share_of(value, images)
        sure = f", {counted(images, 'image')}, 95 % interval {interval_words(found)}" if images else ""
        accuracy = [("Accuracy", f"{value:.1%}", f"{measured}/acc{before}{sure}")]
    tiles = [
        ("Classes", str(len(about["classes"])), few(about["classes"], 4)),
        ("Backbone", about["backbone"], f"images of {about['image_size']} px"),
        *accuracy,
    ]
    body = Template(part("page.html", PARTS)).substitute(map_button=MAP_BUTTON if with_maps else "")
    style, script = (part(name, PARTS) for name in ("page.css", "page.js"))
    return framed(
        f"tlab · {about['run'] or about['checkpoint']}",
        f"tlab · {about['run'] or about['checkpoint']}",
        f"Which of {counted(about['classes'], 'class', 'classes')} is it?",
        f"Programs ask likewise: <code>curl -F file=@photo.jpg http://127.0.0.1:{port}/predict</code>",
        tile_list(tiles),
        f"{body}<script>{script}</script>",
        head=f'<link rel="icon" href="data:,"><style>{style}</style>',
    )


def policy(page: str) -> str:
    """Return the Content-Security-Policy that lets a page do what it does itself, and nothing else."""
    digests = {
        kind: [_digest(text) for text in re.findall(rf"<{kind}>(.*?)</{kind}>", page, re.DOTALL)]
        for kind in ("script", "style")
    }
    allowed = {f"{kind}-src": " ".join(f"'sha256-{each}'" for each in found) for kind, found in digests.items()}
    own = {"connect-src": "'self'", "img-src": "blob: data:"}
    nothing = dict.fromkeys(("default-src", "base-uri", "form-action", "frame-ancestors"), "'none'")
    return "; ".join(f"{name} {value}" for name, value in (nothing | allowed | own).items())


def _digest(text: str) -> str:
    return b64encode(sha256(text.encode()).digest()).decode()
