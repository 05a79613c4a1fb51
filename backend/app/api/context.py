"""The outermost layer: a request id, a log line and metrics for every request, and the last resort."""

from __future__ import annotations

import re
import time
import uuid

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.metrics import Metrics
from app.api.problems import problem_response
from app.errors import InternalError

log = structlog.get_logger()

# A caller's id goes into our log lines and answers: nothing but what cannot break either.
_SAFE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_QUIET = frozenset({"/livez", "/readyz", "/health", "/metrics"})


class RequestContext:
    """ASGI middleware that names, logs and counts each HTTP request."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
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
            except Exception:
                log.exception("request_failed", path=scope["path"])
                if status == 0:
                    await problem_response(InternalError(), scope)(scope, receive, send_named)
            finally:
                self._record(scope, status, time.perf_counter() - started)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        # The template, never the raw path: a scanner must not be able to grow the set of label values.
        route = getattr(scope.get("route"), "path", "unmatched")
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


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _SAFE_ID.fullmatch(value.decode("latin-1")):
            return str(value.decode("latin-1"))
    return uuid.uuid4().hex
