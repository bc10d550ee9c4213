"""What `tlab.serve` does under load: many requests at once, large bodies, foreign names, and the signal to end.

Starts the server, asks it from threads of its own, and prints answers by status, seconds, and the server's resident
memory after each step (Linux): the smallest within the second after it.

    python benchmarks/serve_check.py outputs/runs/NAME
"""

import argparse
import http.client
import io
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

BOUNDARY = "boundary-of-the-form"
FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


def noise(height: int, width: int, kind: str) -> bytes:
    """Return an image file of noise; a PNG is not compressed."""
    file = io.BytesIO()
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(file, kind, compress_level=0)
    return file.getvalue()


def form(content: bytes) -> bytes:
    """Return the body of a request with one file."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="image"\r\n\r\n'
    return head.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()


class Server:
    """A server, and what is asked of it.

    Args:
        run: The run that it serves.
    """

    def __init__(self, run: Path) -> None:
        command = [sys.executable, "-m", "tlab.serve", f"run={run}", "port=0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        addresses = (re.search(r"127\.0\.0\.1:(\d+)", line) for line in self.process.stdout)
        found = next(filter(None, addresses), None)
        if found is None:
            sys.exit("the server has not begun")
        self.port = int(found[1])

    def ask(self, body: bytes | Iterator[bytes], path: str = "/predict", **headers: str) -> str:
        """Return the status of an answer, or the name of the error."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        try:
            connection.request("POST", path, body, FORM | headers)
            answer = connection.getresponse()
            answer.read()
            return str(answer.status)
        except OSError as error:
            return type(error).__name__
        finally:
            connection.close()

    def memory(self, name: str = "VmRSS") -> float:
        """Return resident memory in MB, or its peak."""
        text = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return int(re.search(rf"{name}:\s+(\d+)", text)[1]) / 1e3  # type: ignore[index]

    def told(self, what: str, work: Callable[[], list[str]]) -> None:
        """Do something, and print the answers by status, how long it took and the memory afterwards."""
        begun = time.monotonic()
        answers = Counter(work())
        seconds, memory = time.monotonic() - begun, []
        for _ in range(10):
            time.sleep(0.1)
            memory.append(self.memory())
        counts = ", ".join(f"{number} x {status}" for status, number in answers.most_common())
        print(f"{what:<44} {counts:<24} {seconds:6.1f} s {min(memory):7.0f} MB", flush=True)

    def at_once(self, body: bytes, number: int) -> list[str]:
        """Ask from so many threads, which begin together."""
        barrier = threading.Barrier(number)

        def ask(_: int) -> str:
            barrier.wait()
            return self.ask(body)

        with ThreadPoolExecutor(number) as threads:
            return list(threads.map(ask, range(number)))


def main() -> None:
    """Ask, and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    run = parser.parse_args().run
    photo, large = form(noise(375, 500, "JPEG")), form(noise(2820, 2820, "PNG"))
    too_large = form(noise(4500, 4500, "PNG"))
    empty = io.BytesIO()
    Image.new("RGB", (13000, 13000)).save(empty, "PNG")
    server = Server(run)
    try:
        print(f"{'':<69} {'seconds':>8} {'memory':>10}")
        server.told("20 photographs, one after the other", lambda: [server.ask(photo) for _ in range(20)])
        for _ in range(3):
            server.told("200 at once", lambda: server.at_once(photo, 200))
        for _ in range(5):
            server.told(f"10 of {len(large) / 1e6:.0f} MB", lambda: [server.ask(large) for _ in range(10)])
        for _ in range(2):
            server.told(f"32 of {len(large) / 1e6:.0f} MB at once", lambda: server.at_once(large, 32))
        for _ in range(2):
            server.told("20 heat maps", lambda: [server.ask(photo, "/heatmap") for _ in range(20)])
        server.told(f"a PNG of {len(too_large) / 1e6:.0f} MB", lambda: [server.ask(too_large)])
        pieces = (too_large[start : start + 65536] for start in range(0, len(too_large), 65536))
        server.told("the same, without its length", lambda: [server.ask(pieces)])
        server.told("another Host", lambda: [server.ask(photo, Host="photos.example")])
        server.told("another Origin", lambda: [server.ask(photo, Origin="http://photos.example")])
        server.told("20 photographs, one after the other", lambda: [server.ask(photo) for _ in range(20)])
        print(f"peak of memory: {server.memory('VmHWM'):.0f} MB")
        asker = threading.Thread(target=server.ask, args=(form(empty.getvalue()),), daemon=True)
        asker.start()
        time.sleep(1)
        begun = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        code = server.process.wait(30)
        print(f"ended by SIGTERM below 169 megapixels: code {code} after {time.monotonic() - begun:.1f} s")
    finally:
        server.process.kill()


if __name__ == "__main__":
    main()
