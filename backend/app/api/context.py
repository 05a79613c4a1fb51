"""The outermost layers: a request id, a log line and metrics for every request, and the last resort."""

from __future__ import annotations

import asyncio
import re
import time
import uuid

import structlog
from sse_starlette.sse import SendTimeoutError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.metrics import Metrics
from app.api.problems import problem_response
from app.errors import ClientGone, InternalError, ShuttingDown

log = structlog.get_logger()

# A caller's id goes into our log lines and answers: nothing but what cannot break either.
_SAFE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_QUIET = frozenset({"/livez", "/readyz", "/health", "/metrics"})


class RequestContext:
    """ASGI middleware that names, logs and counts each HTTP request; `paths` are the fixed paths there are."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: frozenset[str]) -> None:
        self._app = app
        self._metrics = metrics
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0
        started = time.perf_counter()

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", request_id.encode())]
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_named)
            finally:
                self._record(scope, status, time.perf_counter() - started)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        # The template, never the raw path: a scanner must not be able to grow the set of label values.
        fixed = scope["path"] if scope["path"] in self._paths else "unmatched"
        route = getattr(scope.get("route"), "path", fixed)  # the gate may refuse before there is a route
        code = scope["state"].get("error_code")
        self._metrics.requests.labels(scope["method"], route, str(status)).inc()
        self._metrics.latency.labels(route).observe(seconds)
        if code is not None:
            self._metrics.errors.labels(code).inc()
        level = log.debug if scope["path"] in _QUIET else log.info
        fields = {"code": code} if code is not None else {}
        level(
            "request",
            method=scope["method"],
            path=scope["path"],
            status=status,
            ms=round(seconds * 1000, 1),
            **fields,
        )


class LastResort:
    """ASGI middleware that answers with a problem where nothing else did. Inside CORS, so that browsers see it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answered = False

        async def send_watched(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        try:
            await self._app(scope, receive, send_watched)
        except SendTimeoutError:  # uvicorn closes the connection of an answer that was not completed
            scope["state"]["error_code"] = ClientGone.code
        except asyncio.CancelledError:  # by uvicorn, when the time for an orderly shutdown is over
            if answered:
                scope["state"]["error_code"] = ShuttingDown.code
            else:
                await problem_response(ShuttingDown(), scope)(scope, receive, send)
        except Exception:
            log.exception("request_failed", path=scope["path"])
            if not answered:
                await problem_response(InternalError(), scope)(scope, receive, send)


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _SAFE_ID.fullmatch(value.decode("latin-1")):
            return str(value.decode("latin-1"))
    return uuid.uuid4().hex
