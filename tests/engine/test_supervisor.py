"""What keeps an engine running whatever it does."""

from __future__ import annotations

import asyncio

import structlog

from app.engine.base import EngineState
from app.engine.supervisor import EngineSupervisor
from tests.engines import ScriptedEngine


class StopBreaksEngine(ScriptedEngine):
    """Cannot be stopped after it failed."""

    async def stop(self) -> None:
        if self.state is EngineState.FAILED:
            raise RuntimeError("the process is gone already")
        await super().stop()


async def test_an_engine_that_cannot_be_stopped_is_started_again() -> None:
    """Its exception goes to the log, not into the task that would have to restart it."""
    engine = StopBreaksEngine()
    supervisor = EngineSupervisor(engine)
    with structlog.testing.capture_logs() as logs:
        await supervisor.start()
        await until_starts(engine, 1)
        engine.state = EngineState.FAILED
        assert (refusal := supervisor.refusal()) is not None
        assert refusal.detail == (
            "The engine was broken on purpose. Send the request again after the time in Retry-After."
        )
        await until_starts(engine, 2)
        assert supervisor.refusal() is None
        await supervisor.stop()
    assert engine.state is EngineState.STOPPED
    assert [log["event"] for log in logs] == ["engine_ready", "engine_failed", "engine_failed", "engine_ready"]


async def until_starts(engine: ScriptedEngine, starts: int) -> None:
    async def wait() -> None:
        while engine.starts < starts or engine.state is not EngineState.READY:
            await asyncio.sleep(0.01)

    await asyncio.wait_for(wait(), 10)
