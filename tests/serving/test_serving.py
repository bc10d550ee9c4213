"""What a served run answers: the same as prediction says of the same files, and why not where it cannot."""

import asyncio
import io
import shutil
import socket
from collections.abc import Iterator
from threading import Event

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

import tlab.serve
from tlab.core.errors import UserError
from tlab.models.calibration.measures import interval_words, share
from tlab.runs.directory import RunDirectory
from tlab.runs.load import load_trained
from tlab.runs.trained_model import TrainedModel
from tlab.serving import gate
from tlab.serving.app import build_app, metadata
from tlab.serving.gate import MOST_BYTES, MOST_REQUESTS, MOST_WAITING, Gate
from tlab.serving.page import serving_page
from tlab.serving.predictor import Predictor
from tlab.serving.server import listen

URL = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def model(trained) -> TrainedModel:
    return TrainedModel(load_trained(trained), "cpu")


@pytest.fixture(scope="module")
def client(model) -> Iterator[TestClient]:
    predictor = Predictor(model)
    yield TestClient(build_app(predictor, metadata(model), 8000), URL)
    assert predictor.close(10)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def pictures(photos) -> dict[str, bytes]:
    """Name -> content of files of all kinds."""
    red = Image.open(photos / "test/red/00.png").resize((200, 120))
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    jpeg = encoded(red, "JPEG")
    return {
        "red.png": encoded(red, "PNG"),
        "turned.jpg": encoded(red, "JPEG", exif=exif),
        "print.jpg": encoded(red.convert("CMYK"), "JPEG"),
        "deep.png": encoded(Image.fromarray(deep), "PNG"),
        "cut short.jpg": jpeg[: int(0.8 * len(jpeg))],
    }


def post(client: TestClient, files: dict[str, bytes], **options):
    return client.post("/predict", files=[("file", each) for each in files.items()], **options)


def test_answers_are_those_of_prediction(client, model, pictures, tmp_path):
    for name, content in pictures.items():
        (tmp_path / name).write_bytes(content)
    expected = model.predict([tmp_path / name for name in pictures])
    results = post(client, pictures).json()["results"]
    assert [result["name"] for result in results] == list(pictures)
    for result, said in zip(results, expected, strict=True):
        assert result["probabilities"] == pytest.approx(said.probabilities, abs=1e-6)
        assert (result["prediction"], result["known"]) == (said.label, said.known)
        assert result["probability"] == max(result["probabilities"].values())
        assert ("reason" in result) == (result["name"] == "cut short.jpg")


def test_the_other_images_are_answered(client, pictures):
    results = post(client, {"notes.txt": b"some text", "red.png": pictures["red.png"]}).json()["results"]
    assert results[0] == {"name": "notes.txt", "reason": "text, not an image"}
    assert results[1]["prediction"] in ("blue", "green", "red")


def test_no_image_is_told_in_a_sentence(client):
    alone = post(client, {"notes.txt": b"some text"})
    assert (alone.status_code, alone.json()) == (422, {"detail": "notes.txt: text, not an image"})
    for other in ({}, {"json": {"file": "x"}}, {"data": {"file": "x"}}):
        no_form = client.post("/predict", **other)
        assert no_form.status_code == 415
        assert "fields named file" in no_form.json()["detail"]
    for named in ("image", "file"):
        no_file = client.post("/predict", files={named: (None, b"text")})
        assert no_file.status_code == 422
        assert "field named file" in no_file.json()["detail"]
    for path in ("/predict", "/heatmap"):
        assert client.post(path, files={"image": b"x"}).json()["detail"].endswith(f"{URL}{path}")


class Broken(io.BytesIO):
    """A file on a disk that fails."""

    def read(self, size: int | None = -1) -> bytes:
        raise OSError("the disk fails")


def test_an_image_that_fails_takes_no_other_with_it(model, pictures, monkeypatch):
    predictor, go_on, said = Predictor(model), Event(), model.predictions
    black = encoded(Image.new("RGB", (40, 40)), "PNG")

    def predictions(x):
        go_on.wait(60)
        if len(x) > 3 or not x.amax((1, 2, 3)).all():
            raise RuntimeError("the network fails")
        return said(x)

    monkeypatch.setattr(model, "predictions", predictions)
    monkeypatch.setattr("tlab.serving.predictor.heat_maps", lambda *given: 1 / 0)
    first = predictor.submit("first.png", io.BytesIO(pictures["red.png"]))
    files = [
        io.BytesIO(pictures["red.png"]),
        Broken(),
        io.BytesIO(black),
        *map(io.BytesIO, [pictures["red.png"]] * 4),
    ]
    waited_for = [predictor.submit(f"{number}.png", file) for number, file in enumerate(files)]
    mapped = predictor.submit_for_map("red.png", io.BytesIO(pictures["red.png"]), None)
    go_on.set()
    errors = [type(each.exception(timeout=60)) for each in (*waited_for, mapped)]
    nothing = type(None)
    assert errors == [nothing, OSError, RuntimeError, *[nothing] * 4, ZeroDivisionError]
    for each in (first, waited_for[0], *waited_for[3:]):
        assert each.result()["prediction"] in model.classes
    assert predictor.close(10)


def test_a_failure_of_the_server_is_told_at_its_image(client, model, pictures, monkeypatch):
    monkeypatch.setattr(model, "predictions", lambda x: 1 / 0)
    monkeypatch.setattr("tlab.serving.predictor.heat_maps", lambda *given: 1 / 0)
    mapped = client.post("/heatmap", files={"file": ("red.png", pictures["red.png"])})
    for failed in (mapped, post(client, {"red.png": pictures["red.png"], "notes.txt": b"some text"})):
        assert failed.status_code == 500
        assert "red.png: the server failed (ZeroDivisionError" in failed.json()["detail"]


def test_why_there_is_no_heat_map_is_said(client, pictures, monkeypatch):
    def refuse(*_):
        raise UserError("no stage passes a gradient")

    monkeypatch.setattr("tlab.serving.predictor.heat_maps", refuse)
    answer = client.post("/heatmap", files={"file": ("red.png", pictures["red.png"])})
    assert (answer.status_code, answer.json()["detail"]) == (422, "red.png: no stage passes a gradient")


def test_a_heat_map_is_a_picture_of_a_class(client, model, pictures):
    maps = {}
    for label in (None, *model.classes):
        asked = {} if label is None else {"class": label}
        answer = client.post("/heatmap", files={"file": ("red.png", pictures["red.png"])}, data=asked)
        assert answer.headers["content-type"] == "image/png"
        maps[label] = Image.open(io.BytesIO(answer.content)).tobytes()
        assert len(maps[label]) == 32 * 32 * 3
    said = post(client, {"red.png": pictures["red.png"]}).json()["results"][0]["prediction"]
    assert maps[None] == maps[said]
    assert len({*maps.values()}) > 1
    for file, label in ((pictures["red.png"], "cats"), (b"some text", "red")):
        answer = client.post("/heatmap", files={"file": ("notes.txt", file)}, data={"class": label})
        assert answer.status_code == 422
        assert ("cats" if label == "cats" else "text, not an image") in answer.json()["detail"]


def test_metadata_health_and_page(client, trained):
    assert client.get("/health").status_code == 200
    told = client.get("/metadata").json()
    assert told["classes"] == ["blue", "green", "red"]
    assert (told["image_size"], told["backbone"], told["checkpoint"]) == (32, "resnet18", "best.ckpt")
    assert told["run"] == trained.name
    assert 0 <= told["metrics"]["val/acc"] <= 1
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    assert not {"access-control-allow-origin"} & {*page.headers}


def test_metrics_are_told_with_the_checkpoint_that_they_are_of(trained, tmp_path):
    run = RunDirectory(shutil.copytree(trained, tmp_path / "run"))
    for copy in (run.refit, run.path / "best.ckpt"):
        shutil.copy(run.best, copy)
    told = {
        path: metadata(TrainedModel(load_trained(path), "cpu"))
        for path in (run.path, run.best, run.last, run.path / "best.ckpt")
    }
    of = {path: (about["checkpoint"], about["metrics_of"]) for path, about in told.items()}
    assert of[run.path] == ("refit.ckpt", "best.ckpt")
    assert of[run.best] == ("best.ckpt", "best.ckpt")
    assert of[run.last] == ("last.ckpt", None)
    assert of[run.path / "best.ckpt"] == ("best.ckpt", None)
    assert [bool(about["metrics"]) for about in told.values()] == [True, True, False, False]
    assert "of best.ckpt, before the refit" in serving_page(told[run.path], 8000, with_maps=False)
    page = serving_page(told[run.best], 8000, with_maps=False)
    assert "before the refit" not in page
    images, accuracy = run.record["data"]["images"]["test"], run.metrics()["test/acc"]
    interval = interval_words(share(round(accuracy * images), images))
    assert f"test/acc, {images} images, 95 % interval {interval}" in page


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 403),
        ({"host": "evil.example:8000"}, 403),
        ({"host": "127.0.0.1:9000"}, 403),
        ({"host": "127.0.0.1:8000.evil.example"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://localhost:8000"}, 403),  # another page than that of this host
        ({"origin": "null"}, 403),
        ({"origin": URL}, 200),
        ({"host": "LOCALHOST:8000"}, 200),
        ({"host": "[::1]:8000", "origin": "http://[::1]:8000"}, 200),
    ],
    ids=str,
)
def test_only_this_machine_and_its_own_page_may_ask(client, pictures, headers, status):
    answer = post(client, {"red.png": pictures["red.png"]}, headers=headers)
    assert answer.status_code == status
    assert (client.get("/health", headers=headers).status_code) == status


class Asked:
    """A request to an ASGI application that comes in parts."""

    def __init__(self, parts: int = 1, part: bytes = b"", **headers: str) -> None:
        self.left, self.part, self.read = parts, part, 0
        named = {"host": "127.0.0.1:8000", "content-type": "multipart/form-data; boundary=x"}
        named |= {name.replace("_", "-"): value for name, value in headers.items()}
        raw = [(name.encode(), value.encode()) for name, value in named.items()]
        self.scope = {"type": "http", "method": "POST", "path": "/predict", "headers": raw, "query_string": b""}
        self.status, self.answered, self.body = 0, {}, b""

    async def receive(self) -> dict:
        self.read += len(self.part)
        self.left -= 1
        return {"type": "http.request", "body": self.part, "more_body": self.left > 0}

    async def send(self, message: dict) -> None:
        if message["type"] == "http.response.start":
            self.status, self.answered = message["status"], dict(message["headers"])
        self.body += message.get("body", b"")


def test_a_large_body_is_refused_unread_by_its_length_and_else_where_it_is_too_much(client):
    known = Asked(content_length=str(MOST_BYTES + 1))
    asyncio.run(client.app(known.scope, known.receive, known.send))
    assert (known.status, known.read) == (413, 0)
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
    streamed = Asked(100, head.ljust(1_000_000, b" "))
    asyncio.run(client.app(streamed.scope, streamed.receive, streamed.send))
    assert streamed.status == 413
    assert MOST_BYTES < streamed.read <= MOST_BYTES + 1_000_000


def test_a_body_that_stops_gives_its_place_away(client, monkeypatch):
    monkeypatch.setattr(gate, "IDLE_SECONDS", 0.05)
    stopped = Asked()
    asyncio.run(client.app(stopped.scope, asyncio.Event().wait, stopped.send))
    assert stopped.status == 408

    slow = Asked(50, b"\n")  # before the first boundary

    async def come_slowly() -> dict:
        await asyncio.sleep(0.01)
        return await slow.receive()

    asyncio.run(client.app(slow.scope, come_slowly, slow.send))
    assert slow.status == 408
    assert slow.read < 20


class Busy:
    """An application behind its gate, which reads what is asked and answers once it may go on."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self._gated = Gate(self._read, 8000, "")

    async def _read(self, scope, receive, send) -> None:
        while (await receive())["more_body"]:
            pass
        await self.go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def ask(self, *asked: Asked) -> list[asyncio.Task]:
        """Ask, and return the tasks after what comes of them at once."""
        tasks = [asyncio.create_task(self._gated(each.scope, each.receive, each.send)) for each in asked]
        await asyncio.sleep(0.1)
        return tasks


def test_requests_wait_for_a_place_and_too_many_or_for_too_long_are_told_when_to_ask_again(monkeypatch):
    asked = [Asked(content_length="10") for _ in range(MOST_REQUESTS + MOST_WAITING + 3)]
    late = [Asked(content_length="10") for _ in range(2)]

    async def many() -> None:
        busy = Busy()
        tasks = await busy.ask(*asked)
        assert sum(task.done() for task in tasks) == 3
        busy.go_on.set()
        await asyncio.gather(*tasks)
        busy.go_on.clear()
        monkeypatch.setattr(gate, "PLACE_SECONDS", 0.01)
        tasks = await busy.ask(*[Asked(content_length="10") for _ in range(MOST_REQUESTS)], late[0])
        busy.go_on.set()
        await asyncio.gather(*tasks, *await busy.ask(late[1]))

    asyncio.run(many())
    refused = [each for each in asked if each.status == 503]
    assert [each.status for each in asked].count(200) == len(asked) - 3
    assert [each.status for each in late] == [503, 200]
    assert all(int(each.answered[b"retry-after"]) > 0 for each in (*refused, late[0]))
    assert all(f"{MOST_WAITING} requests wait" in each.body.decode() for each in refused)
    assert f"{MOST_REQUESTS} requests with 0 MB are underway" in late[0].body.decode()


def test_a_body_of_unknown_length_takes_the_place_of_what_has_come(monkeypatch):
    monkeypatch.setattr(gate, "PLACE_SECONDS", 0.01)
    begun, large = [Asked(1, b"x") for _ in range(5)], [Asked(25, b" " * 1_000_000) for _ in range(5)]
    known = Asked(content_length=str(MOST_BYTES))

    async def many() -> None:
        busy = Busy()
        tasks = await busy.ask(*begun)
        tasks += await busy.ask(*large[:3], known)
        tasks += await busy.ask(*large[3:])
        busy.go_on.set()
        await asyncio.gather(*tasks)

    asyncio.run(many())
    assert [each.status for each in (*begun, *large, known)] == [200] * 8 + [503] * 2 + [200]
    assert "100 MB are underway" in large[-1].body.decode()


def test_a_port_that_is_taken_and_a_package_that_is_missing(monkeypatch, run_entry_point, capsys):
    with listen(0) as taken, pytest.raises(UserError, match="give port=0") as caught:
        listen(taken.getsockname()[1])
    assert str(caught.value).startswith("port=")
    monkeypatch.setattr(tlab.serve, "find_spec", lambda name: None if name == "uvicorn" else socket)
    with pytest.raises(SystemExit, match="2"):
        run_entry_point(tlab.serve.run, "serve", "run=nowhere")
    assert "pip install 'tlab-transfer[serve]'" in capsys.readouterr().err
