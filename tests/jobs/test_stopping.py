"""A stop that comes in an unlucky moment."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from asgi_lifespan import LifespanManager

from app.api.metrics import Metrics
from app.jobs import flow, keeper
from app.main import create_app
from tests.documents import database_of_a_first_start
from tests.serving import make_settings


def test_threads_that_are_being_started_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python lists a thread a moment before it runs, and refuses to wait for it until it does."""
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait, name=f"{flow._QUEUE_THREADS}-test", daemon=True)
    monkeypatch.setattr(threading, "enumerate", lambda: [thread] if thread.ident is None or thread.is_alive() else [])
    starting = threading.Timer(0.05, thread.start)
    starting.start()
    flow._stop_taking(SimpleNamespace(background_thread_stop_events=[ended]))  # type: ignore[arg-type]
    assert not thread.is_alive()
    assert thread.ident is not None


@pytest.mark.parametrize("passes", range(5))
async def test_a_stop_is_heard_wherever_a_beat_is(passes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancellation that came as the beat began was lost once: the service beat on, and never ended."""
    (tmp_path / "tasks.sqlite").write_bytes(await database_of_a_first_start())
    beaten = asyncio.Event()
    monkeypatch.setattr(Metrics, "observe_tasks", lambda self, count: beaten.set())
    monkeypatch.setattr(keeper, "_BEAT_SECONDS", 1e-9)
    app = create_app(make_settings(jobs_enabled=True, data_dir=str(tmp_path)))
    async with LifespanManager(app, startup_timeout=60, shutdown_timeout=15):
        await beaten.wait()
        for _ in range(passes):
            await asyncio.sleep(0)
