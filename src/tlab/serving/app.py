"""The application: what is answered at which address."""

import asyncio
import math
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from typing import Annotated, Any

from fastapi import FastAPI, Form, HTTPException, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response

from tlab.core.error_messages import one_line
from tlab.core.text import as_text, few
from tlab.runs.directory import RunDirectory
from tlab.runs.environment import versions
from tlab.runs.loggers import short_name
from tlab.runs.trained_model import TrainedModel
from tlab.serving.gate import Gate
from tlab.serving.page import policy, serving_page
from tlab.serving.predictor import Answer, Predictor


def metadata(model: TrainedModel) -> dict[str, Any]:
    """Return what `/metadata` tells of a model.

    Metrics are those of the checkpoint that validation has chosen, `metrics_of`; there are none where it is neither
    this one nor what a refit has made this one from. `images` are the numbers of images of their splits.
    """
    trained = model.trained
    run, name = RunDirectory.of_checkpoint(trained.checkpoint, model.classes), trained.checkpoint.name
    is_measured = run is not None and name in (run.selected.name, run.refit.name)
    metrics = run.metrics() if run and is_measured else {}
    return {
        "run": short_name(run.path.resolve()) if run else None,
        "checkpoint": as_text(name),
        "backbone": trained.config.backbone.name,
        "image_size": trained.image_size,
        "classes": list(model.classes),
        "metrics": {name: value for name, value in metrics.items() if math.isfinite(value)},
        "metrics_of": run.selected.name if run and metrics else None,
        "images": run.images() if run and metrics else {},
        "temperature": model.temperature,
        "version": versions().get("tlab"),
    }


def build_app(predictor: Predictor, about: Mapping[str, Any], port: int) -> Gate:
    """Return the application, behind its gate.

    Args:
        predictor: What predicts.
        about: See `metadata`.
        port: Port at which it answers.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)  # whose pages of documentation ask elsewhere
    page = serving_page(about, port, predictor.can_map)

    @app.get("/")
    async def show() -> HTMLResponse:
        return HTMLResponse(page)

    @app.get("/health")
    async def tell_health() -> JSONResponse:
        return JSONResponse({"status": "ok"})

    @app.get("/metadata")
    async def tell_metadata() -> JSONResponse:
        return JSONResponse(about)

    @app.post("/predict")
    async def predict(file: list[UploadFile]) -> JSONResponse:
        names = [each.filename or "image" for each in file]
        answers, status = await _all(map(predictor.submit, names, (each.file for each in file)))
        results = [{"name": name, **answer} for name, answer in zip(names, answers, strict=True)]
        if not any("prediction" in each for each in results):
            raise HTTPException(status, few(f"{each['name']}: {each['reason']}" for each in results))
        return JSONResponse({"results": results})

    if predictor.can_map:

        @app.post("/heatmap")
        async def map_heat(file: UploadFile, label: Annotated[str | None, Form(alias="class")] = None) -> Response:
            classes = predictor.model.classes
            if label is not None and label not in classes:
                raise HTTPException(422, f"class={label} is none of {few(classes, 20)}")
            name = file.filename or "image"
            (answer,), status = await _all([predictor.submit_for_map(name, file.file, label)])
            if "reason" in answer:
                raise HTTPException(status, f"{name}: {answer['reason']}")
            return Response(answer["heat_map"], media_type="image/png")

    @app.exception_handler(RequestValidationError)
    async def tell_way(request: Request, error: RequestValidationError) -> JSONResponse:
        path = request.url.path
        asked = "" if path == "/predict" else " -o map.png"
        way = f"send it as multipart field named file: curl -F file=@photo.jpg{asked} http://127.0.0.1:{port}{path}"
        return JSONResponse({"detail": f"the request has no image; {way}"}, 422)

    return Gate(app, port, policy(page))


async def _all(waited_for: Iterable["Future[Answer]"]) -> tuple[list[Answer], int]:
    """Return answers, which tell where the server itself has failed, and the status if all of them are reasons."""
    found = await asyncio.gather(*map(asyncio.wrap_future, waited_for), return_exceptions=True)
    answers = [
        {"reason": f"the server failed ({one_line(each)})"} if isinstance(each, BaseException) else each
        for each in found
    ]
    return answers, 500 if any(isinstance(each, BaseException) for each in found) else 422
