"""What stands before the application: who may ask, how much and how many at once, and what browsers are told."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import monotonic

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

NAMES = ("127.0.0.1", "localhost", "[::1]")
MOST_BYTES = 25_250_000  # of a request: 25 MB of images, and the form around them
MOST_BYTES_AT_ONCE = 4 * MOST_BYTES
MOST_REQUESTS = 64
MOST_WAITING = 256  # requests, each unread, for a place among these
PLACE_SECONDS = 30.0  # that one waits for it
IDLE_SECONDS = 30.0  # that a body may stop, or fall behind this pace
SLOWEST = 250_000  # bytes a second
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
        size = int(headers.get("content-length", 0))
        if size > MOST_BYTES:
            raise HTTPException(413, TOO_LARGE)
        if not headers.get("content-type", "").lower().startswith("multipart/form-data"):
            raise HTTPException(415, NO_FORM)
        try:
            async with self._places.taken(size) as grow:
                await self._app(scope, _limited(receive, grow), send)
        except asyncio.CancelledError:  # by the server, which does not wait any longer
            raise HTTPException(503, "the server ends") from None


class _Places:
    """Places for requests, as many as there may be at once, in number and in bytes of their bodies."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._requests = self._bytes = self._waiting = 0

    @asynccontextmanager
    async def taken(self, size: int) -> AsyncIterator[Callable[[int], Awaitable[None]]]:
        """Hold a place for a body of so many bytes, and give a function of how many it then has, which may be more.

        Raises:
            HTTPException: There is none, and for some time none becomes free, or too many wait for one.
        """
        if self._waiting >= MOST_WAITING:
            raise _full(f"{self._waiting} requests wait already")
        self._waiting += 1
        try:
            await self._take(1, size)
        finally:
            self._waiting -= 1
        held = size

        async def grow(count: int) -> None:
            nonlocal held
            if count > held:
                await self._take(0, count - held)
                held = count

        try:
            yield grow
        finally:
            async with self._changed:
                self._requests, self._bytes = self._requests - 1, self._bytes - held
                self._changed.notify_all()

    async def _take(self, requests: int, size: int) -> None:
        def is_free() -> bool:
            return self._requests + requests <= MOST_REQUESTS and self._bytes + size <= MOST_BYTES_AT_ONCE

        try:
            async with asyncio.timeout(PLACE_SECONDS), self._changed:
                await self._changed.wait_for(is_free)
                self._requests, self._bytes = self._requests + requests, self._bytes + size
        except TimeoutError:
            underway = f"{self._requests} requests with {self._bytes / 1e6:.0f} MB are underway"
            raise _full(f"{underway}, and left no place for {PLACE_SECONDS:.0f} s") from None


def _full(reason: str) -> HTTPException:
    return HTTPException(503, f"{reason}: ask again", {"Retry-After": "5"})


def _limited(receive: Receive, grow: Callable[[int], Awaitable[None]]) -> Receive:
    """Return what receives a body up to the limits of size and pace.

    Args:
        receive: What receives it.
        grow: Function of the number of bytes that have come, which finds them a place.
    """
    count, patience = 0, IDLE_SECONDS

    async def limited() -> Message:
        nonlocal count, patience
        begun = monotonic()
        try:
            async with asyncio.timeout(patience):
                message = await receive()
        except TimeoutError:
            raise HTTPException(408, f"less than {SLOWEST / 1000:.0f} kB a second came: send it again") from None
        size = len(message.get("body", b""))
        count, patience = count + size, min(IDLE_SECONDS, patience - (monotonic() - begun) + size / SLOWEST)
        if count > MOST_BYTES:
            raise HTTPException(413, TOO_LARGE)
        await grow(count)
        return message

    return limited
