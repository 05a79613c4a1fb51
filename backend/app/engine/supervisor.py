"""Keeps one engine running: starts it beside the server, and again with backoff when it fails."""

from __future__ import annotations

import asyncio
import contextlib

import structlog

from app.engine.base import Engine, EngineState, Health
from app.errors import EngineFailed, EngineNotReady, EngineStartError, ServiceError

log = structlog.get_logger()

POLL_SECONDS = 0.25
FIRST_BACKOFF_SECONDS = 1.0
LONGEST_BACKOFF_SECONDS = 60.0

_COME_BACK = "Send the request again after the time in Retry-After."


class EngineSupervisor:
    """Owns an engine's life; `health` is the engine's, or why it could not be started."""

    def __init__(self, engine: Engine, first_backoff: float = FIRST_BACKOFF_SECONDS) -> None:
        self.engine = engine
        self._first_backoff = first_backoff
        self._task: asyncio.Task[None] | None = None
        self._start_failure: str | None = None

    def health(self) -> Health:
        """The engine's health as a client should see it."""
        if self._start_failure is not None:
            return Health(EngineState.FAILED, self._start_failure)
        return self.engine.health()

    def refusal(self) -> ServiceError | None:
        """Why no request can be served now, None when one can."""
        if self._start_failure is not None:
            return EngineStartError(self._start_failure)
        health = self.engine.health()
        if health.state is EngineState.READY:
            return None
        if health.state is EngineState.FAILED:
            return EngineFailed(f"{health.reason} {_COME_BACK}".lstrip())
        return EngineNotReady()

    async def start(self) -> None:
        """Begin loading in the background and return at once."""
        self._task = asyncio.create_task(self._run(), name="engine-supervisor")

    async def stop(self) -> None:
        """Stop supervising, then the engine."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self.engine.stop()

    async def _run(self) -> None:
        while True:
            await self._start_until_ready()
            while self.engine.health().state is not EngineState.FAILED:  # noqa: ASYNC110 - engines are only asked
                await asyncio.sleep(POLL_SECONDS)
            log.error("engine_failed", engine=self.engine.name, reason=self.engine.health().reason)
            await self._stop_engine()

    async def _start_until_ready(self) -> None:
        backoff = self._first_backoff
        while True:
            try:
                await self.engine.start()
            except EngineStartError as error:
                self._start_failure = error.detail
                log.error("engine_start_failed", engine=self.engine.name, reason=error.detail, retry_in_s=backoff)
            except Exception:
                self._start_failure = EngineStartError.default_detail
                log.exception("engine_start_crashed", engine=self.engine.name, retry_in_s=backoff)
            else:
                self._start_failure = None
                log.info("engine_ready", engine=self.engine.name, model=self.engine.model)
                return
            await self._stop_engine()
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, LONGEST_BACKOFF_SECONDS)

    async def _stop_engine(self) -> None:
        """Clear away what is left of a failed engine; that going wrong must not keep the next start from coming."""
        try:
            await self.engine.stop()
        except Exception:
            log.exception("engine_failed", engine=self.engine.name, reason="It could not be stopped cleanly.")
