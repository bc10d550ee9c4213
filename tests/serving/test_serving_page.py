"""The server as a process of its own, asked by a real browser, and ended."""

import base64
import http.client
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from forked_command import ForkedCommand
from opened_page import OpenedPage
from tlab.serving.server import listen

FROM_CONTENT = """
(encoded) => {
  const transfer = new DataTransfer();
  for (const [name, text] of Object.entries(encoded))
    transfer.items.add(new File([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))], name));
"""
PASTE = FROM_CONTENT + "document.dispatchEvent(new ClipboardEvent('paste', {clipboardData: transfer}))}"
DROP = FROM_CONTENT + (
    "document.querySelector('.choose').dispatchEvent("
    "new DragEvent('drop', {dataTransfer: transfer, bubbles: true, cancelable: true}))}"
)


@pytest.fixture(scope="module")
def start(trained) -> Iterator[Callable[[], tuple[ForkedCommand, int]]]:
    """Return a function that starts a server, and returns it with its port once it answers."""
    started = []

    def begin() -> tuple[ForkedCommand, int]:
        with listen(0) as free:
            port = free.getsockname()[1]
        server = ForkedCommand("tlab.serve", f"run={trained}", f"port={port}", "accelerator=cpu")
        started.append(server)
        for _ in range(600):
            with suppress(OSError):
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                connection.request("GET", "/health")
                assert connection.getresponse().status == 200
                return server, port
            assert server.poll() is None, server.communicate()
            time.sleep(0.05)
        raise TimeoutError("the server does not answer")

    yield begin
    for server in started:
        if server.poll() is None:
            server.send_signal(signal.SIGKILL)
            server.wait()


@pytest.fixture(scope="module")
def url(start) -> str:
    return f"http://127.0.0.1:{start()[1]}/"


class Opened(OpenedPage):
    """The page of a server."""

    def __init__(self, browser: Any, url: str, width: int = 1280, scheme: str = "light") -> None:
        super().__init__(browser, url, width, scheme, only_errors=True)

    def answers(self, count: int) -> list[str]:
        """What the first so many cards say, once they all do."""
        self.page.locator("#cards > li:not([aria-busy])").nth(count - 1).wait_for(timeout=60_000)
        return self.page.locator("#cards .answer").all_inner_texts()


def encoded(*files: Path) -> dict[str, str]:
    return {file.name: base64.b64encode(file.read_bytes()).decode() for file in files}


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_choosing_pasting_and_dropping(browser, url, photos, tmp_path, width, scheme):
    opened = Opened(browser, url, width, scheme)
    page, classes = opened.page, {"blue", "green", "red"}
    page.set_input_files("#files", [photos / f"test/{name}/00.png" for name in sorted(classes)])
    assert {*opened.answers(3)} <= classes
    page.evaluate(PASTE, encoded(photos / "test/red/01.png"))
    opened.answers(4)
    page.evaluate(DROP, encoded(photos / "test/red/02.png", photos / "test/red/03.png"))
    assert {*opened.answers(6)} <= classes
    shares = page.locator("#cards > li").first.locator("ol span:nth-child(2)").all_inner_texts()
    assert sum(float(share.removesuffix("%")) for share in shares) == pytest.approx(100, abs=0.2)
    assert page.inner_text("#said") == "6 of 6 answered"
    assert page.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert opened.errors == []
    assert all(request.startswith((url, "blob:", "data:")) for request in opened.requests)
    page.get_by_role("button", name="Heat map").first.click()
    page.get_by_alt_text("where the network sees it").wait_for()
    page.get_by_role("button", name="Heat map", pressed=True).click()
    assert page.get_by_alt_text("where the network sees it").count() == 0
    page.focus("#files")
    page.keyboard.press("Tab")  # to the one button
    page.keyboard.press("Enter")
    assert page.locator("#cards > li").count() == 0


def test_what_is_no_image_or_too_large_is_told_at_its_card_and_the_others_answered(browser, url, photos, tmp_path):
    large, broken = tmp_path / "large.png", tmp_path / "broken.png"
    noise = np.random.default_rng(0).integers(0, 256, (4500, 4500, 3), np.uint8)
    Image.fromarray(noise).save(large, compress_level=0)
    assert large.stat().st_size > 60e6
    broken.write_bytes((photos / "test/red/00.png").read_bytes()[:100])
    opened = Opened(browser, url)
    opened.page.set_input_files("#files", [large, broken, photos / "test/red/00.png"])
    too_large, no_image, answer = opened.answers(3)
    assert "more than 25 MB" in too_large
    assert no_image.startswith("truncated")
    assert answer in ("blue", "green", "red")
    assert opened.page.inner_text("#said") == "3 of 3 answered, 2 of them with an error"


def test_a_heat_map_that_fails_is_told_beside_the_answer(browser, url, photos):
    opened = Opened(browser, url)
    page, held = opened.page, []
    page.route("**/heatmap", lambda route: held.append(route))
    page.set_input_files("#files", photos / "test/red/00.png")
    answers, button = opened.answers(1), page.get_by_role("button", name="Heat map")
    button.click()
    button.press("Enter")
    page.get_by_role("button", name="Heat map", disabled=True).wait_for()
    held[0].fulfill(status=422, json={"detail": "00.png: it has failed"})
    page.get_by_text("no heat map: it has failed", exact=True).wait_for()
    assert opened.answers(1) == answers
    assert page.inner_text("#said") == "1 of 1 answered"
    assert len(held) == 1
    page.unroute("**/heatmap")
    button.click()
    page.get_by_alt_text("where the network sees it").wait_for()
    assert not page.get_by_text("it has failed").count()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_it_within_five_seconds_also_below_a_request(start, number, code):
    server, port = start()
    with socket.create_connection(("127.0.0.1", port)) as half_sent:
        head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 99\r\n"
        half_sent.sendall(head.encode() + b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x")
        time.sleep(0.3)
        begun = time.monotonic()
        server.send_signal(number)
        assert server.wait(timeout=10) == code
        assert time.monotonic() - begun < 5
        assert half_sent.recv(1000).startswith(b"HTTP/1.1 503")
    assert "Traceback" not in "".join(server.communicate())
