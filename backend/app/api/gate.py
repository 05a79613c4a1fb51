"""What a request to /api/ must pass before its body is read: key, ready engine, free place, size, pace."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import re
from collections.abc import Awaitable, Callable, Iterator

from async_timeout import timeout
from fastapi import Security
from fastapi.security import APIKeyHeader, HTTPBearer
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.problems import problem_response
from app.errors import (
    QueueFull,
    ServiceError,
    Unauthorized,
    UploadTimeout,
    UploadTooLarge,
)

MEGABYTE = 1_000_000

# What the OpenAPI description says of keys, so that /docs asks for one; they check nothing, the gate does.
KEY_SCHEMES = (
    Security(HTTPBearer(auto_error=False, description="One of the keys the operator has set; none where none is set.")),
    Security(APIKeyHeader(name="X-API-Key", auto_error=False, description="The same key, in a header of its own.")),
)

# Bytes a second, on average. An upload slower than this would hold its place for hours without ever falling silent;
# the slowest mobile connections are five times as fast.
SLOWEST_UPLOAD = 2_000


# These carry no upload and need no engine.
_TASK_ACTION = re.compile(r"/api/tasks/[^/]+/(cancel|retry)")
# A document waits for the engine: it is taken while that is loading, too.
_DOCUMENT = "/api/ocr/pdf"


class Admission:
    """Counts accepted requests and refuses the one too many with QueueFull."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.depth = 0

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Hold one of the places; raises QueueFull when none is free."""
        if self.depth >= self._limit:
            raise QueueFull
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1


def hash_api_key(key: str) -> str:
    """Return what is stored of an API key: keys are 256 random bits, so one SHA-256 is enough."""
    return hashlib.sha256(key.encode()).hexdigest()


class Gate:
    """ASGI middleware before the /api/ routes; errors in the order 401, 503, 413, 429, 408.

    A request holds its place until its answer has been sent. `request.state.until_sent` is an
    AsyncExitStack closed at that moment, for what a streamed answer holds.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        key_hashes: tuple[str, ...],
        refusal: Callable[[], ServiceError | None],
        admission: Admission,
        max_body_bytes: int,
        upload_timeout: float,
    ) -> None:
        self._app = app
        self._key_hashes = key_hashes
        self._refusal = refusal
        self._admission = admission
        self._max_body_bytes = max_body_bytes
        self._upload_timeout = upload_timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/api/"):
            await self._app(scope, receive, send)
            return
        try:
            headers = Headers(scope=scope)
            self._check_key(headers)
            if scope["method"] != "POST" or _TASK_ACTION.fullmatch(scope["path"]):
                await self._app(scope, receive, send)
                return
            if scope["path"] != _DOCUMENT and (refused := self._refusal()) is not None:
                raise refused
            self._check_length(headers.get("content-length"))
            with self._admission.place():
                async with contextlib.AsyncExitStack() as until_sent:
                    scope.setdefault("state", {})["until_sent"] = until_sent
                    await self._app(scope, self._limited(receive), send)
        except ServiceError as error:
            await problem_response(error, scope)(scope, receive, send)

    def _check_key(self, headers: Headers) -> None:
        if not self._key_hashes:
            return
        scheme, _, token = headers.get("authorization", "").partition(" ")
        key = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        digest = hash_api_key(key)
        # Every stored hash is compared, so that the time tells nothing about which one matched.
        matches = [hmac.compare_digest(digest, stored) for stored in self._key_hashes]
        if not any(matches):
            raise Unauthorized

    def _check_length(self, content_length: str | None) -> None:
        if content_length is not None and content_length.isdecimal() and int(content_length) > self._max_body_bytes:
            raise self._too_large()

    def _too_large(self) -> UploadTooLarge:
        limit = self._max_body_bytes / MEGABYTE
        return UploadTooLarge(f"The upload is larger than the {limit:g} MB this service accepts. Send a smaller file.")

    def _limited(self, receive: Receive) -> Callable[[], Awaitable[Message]]:
        received = 0
        complete = False
        started = asyncio.get_running_loop().time()

        async def limited() -> Message:
            nonlocal received, complete
            if complete:
                return await receive()
            late = started + self._upload_timeout + received / SLOWEST_UPLOAD
            left = late - asyncio.get_running_loop().time()
            try:
                async with timeout(min(self._upload_timeout, left)):
                    message = await receive()
            except asyncio.TimeoutError:
                raise UploadTimeout from None
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > self._max_body_bytes:
                    raise self._too_large()
                complete = not message.get("more_body", False)
            return message

        return limited
