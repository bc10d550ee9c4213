"""What stands before the application: who may ask, how much and how many at once, and what browsers are told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

NAMES = ("127.0.0.1", "localhost", "[::1]")
MOST_BYTES = 25_250_000  # of a request: 25 MB of images, and the form around them
MOST_BYTES_AT_ONCE = 4 * MOST_BYTES
MOST_REQUESTS = 64
PLACE_SECONDS = 30.0  # that a request waits for a place among these, unread
IDLE_SECONDS = 30.0  # that one may stop in the middle of its body
NO_FORM = "the request is no form: send images as multipart/form-data, in fields named file"
TOO_LARGE = "the request has more than 25 MB: send smaller images, or fewer at once"


class Gate:
    """An ASGI application around another one, which lets through what its own page and local programs ask.

    A name that leads to this machine (DNS rebinding) is refused by `Host`, another page's form or script (CSRF) by
    `Origin`. A body that is too large is refused before it is read, and one that turns out to be where it does.

    Args:
        app: The application.
        port: Port at which it answers.
        policy: The page's Content-Security-Policy.
    """

    def __init__(self, app: ASGIApp, port: int, policy: str) -> None:
        self._app = app
        self._hosts = {f"{name}:{port}" for name in NAMES} | (set(NAMES) if port == 80 else set())
        self._headers = {
            "Content-Security-Policy": policy,
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
        }
        self._places = _Places()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self._headers)
            await send(message)

        try:
            await self._answer(scope, receive, send_with_headers)
        except HTTPException as refused:
            response = JSONResponse({"detail": refused.detail}, refused.status_code, refused.headers)
            await response(scope, receive, send_with_headers)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        host, origin = headers.get("host", "").lower(), headers.get("origin")
        if host not in self._hosts:
            raise HTTPException(403, f"Host {host or '(none)'} is not this server, which is only for this machine")
        if origin not in (None, f"http://{host}"):
            raise HTTPException(403, f"Origin {origin} is another page, and this server is only for its own")
        if scope["method"] != "POST":
            return await self._app(scope, receive, send)
        size = int(headers.get("content-length", MOST_BYTES))
        if size > MOST_BYTES:
            raise HTTPException(413, TOO_LARGE)
        if not headers.get("content-type", "").lower().startswith("multipart/form-data"):
            raise HTTPException(415, NO_FORM)
        try:
            async with self._places.taken(size):
                await self._app(scope, _limited(receive), send)
        except asyncio.CancelledError:  # by the server, which does not wait any longer
            raise HTTPException(503, "the server ends") from None


class _Places:
    """Places for requests, as many as there may be at once, in number and in bytes of their bodies."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._requests = self._bytes = 0

    @asynccontextmanager
    async def taken(self, size: int) -> AsyncIterator[None]:
        """Hold a place for a body of so many bytes.

        Raises:
            HTTPException: There is none, and for some time none becomes free.
        """
        try:
            async with asyncio.timeout(PLACE_SECONDS), self._changed:
                await self._changed.wait_for(lambda: self._is_free(size))
                self._requests, self._bytes = self._requests + 1, self._bytes + size
        except TimeoutError:
            detail = f"{MOST_REQUESTS} requests wait already: ask again"
            raise HTTPException(503, detail, {"Retry-After": "5"}) from None
        try:
            yield
        finally:
            async with self._changed:
                self._requests, self._bytes = self._requests - 1, self._bytes - size
                self._changed.notify_all()

    def _is_free(self, size: int) -> bool:
        return self._requests < MOST_REQUESTS and self._bytes + size <= MOST_BYTES_AT_ONCE


def _limited(receive: Receive) -> Receive:
    """Return what receives a body up to the limit, for those that do not tell their length."""
    count = 0

    async def limited() -> Message:
        nonlocal count
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                message = await receive()
        except TimeoutError:
            raise HTTPException(408, f"nothing came for {IDLE_SECONDS:.0f} s: send it again") from None
        count += len(message.get("body", b""))
        if count > MOST_BYTES:
            raise HTTPException(413, TOO_LARGE)
        return message

    return limited
