"""Hooks for every test."""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver

import pytest
import structlog

# Every worker process imports its parent's main module, here pytest, and what it runs. The fork server does it once for
# all; the services' own lists come too late, when it is already there.
multiprocessing.set_forkserver_preload(["pytest", "app.ingest.sandbox", "app.results.sandbox", "app.workers"])
multiprocessing.forkserver.ensure_running()

# Unasked, structlog has rich draw every variable of every frame, which takes minutes and holds the interpreter.
structlog.configure(
    processors=[
        *structlog.get_config()["processors"][:-1],
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ]
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the fast tests first."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)
