"""The server: a port of this machine, and its end within seconds."""

import os
import socket
import sys

import uvicorn
from starlette.types import ASGIApp

from tlab.core.errors import INTERRUPTED, UserError
from tlab.core.signals import stoppable
from tlab.serving.predictor import Predictor

ADDRESS = "127.0.0.1"  # of this machine alone
GRACE_SECONDS, LAST_SECONDS = 2, 0.5  # for requests underway, and for the image that is at work then


def listen(port: int) -> socket.socket:
    """Return a socket that listens at a port of this machine; 0: any free one.

    Raises:
        UserError: The port cannot be taken.
    """
    try:
        return socket.create_server((ADDRESS, port), backlog=1024)
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise UserError(f"port={port} cannot be taken ({why}); give port=0 for a free one") from error


def serve(app: ASGIApp, predictor: Predictor, listening: socket.socket) -> None:
    """Answer until a signal ends it, within 5 seconds."""
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="off",
        loop="asyncio",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    try:
        with stoppable():
            uvicorn.Server(config).run([listening])
    finally:
        if not predictor.close(LAST_SECONDS):  # Python would crash at its end, below a thread that computes
            sys.stdout.flush()
            sys.stderr.flush()
            end = sys.exc_info()[1]
            os._exit(end.code if isinstance(end, SystemExit) and isinstance(end.code, int) else INTERRUPTED)
