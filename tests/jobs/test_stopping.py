"""A stop that comes while documents are only beginning to be taken."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from app.jobs import flow


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
