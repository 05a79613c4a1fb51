"""Hooks for every test."""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
import os
from typing import Any

import pytest
import structlog

# Every worker process imports its parent's main module, here pytest, and what it runs. The fork server does it once for
# all; the services' own lists come too late, when it is already there.
multiprocessing.set_forkserver_preload(["pytest", "app.ingest.sandbox", "app.results.sandbox", "app.workers"])
multiprocessing.forkserver.ensure_running()

# Before PyTorch is loaded. Its threads spin while they wait for each other: where two processes run tests on two cores,
# that takes several times as long as one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Unasked, structlog has rich draw every variable of every frame, which takes minutes and holds the interpreter.
structlog.configure(
    processors=[
        *structlog.get_config()["processors"][:-1],
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ]
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the fast tests first. Each has an id of its own: of tests that share one xdist would run one, and not say so."""
    assert len({item.nodeid for item in items}) == len(items), "tests share an id"
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep a file's tests in one process, for its fixtures, and all that import vLLM: several gigabytes, and a service."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "vllm" if "/with_vllm/" in file else file

    return ByFile(config, log)
