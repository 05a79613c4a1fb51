"""The process that vLLM's engine core becomes, with plain functions in vLLM's place."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import pytest

from app.engine.vllm_ahead import ContextAhead, ProcessAhead, started_ahead

SPAWN = multiprocessing.get_context("spawn")
MODULE = "xml.dom.minidom"  # which nothing else here imports
PATIENCE = 60.0


def started(*modules: str) -> tuple[ProcessAhead, BaseProcess]:
    """Start a process ahead; returns it both ways."""
    before = set(multiprocessing.active_children())
    ahead = ProcessAhead(modules=modules)
    (early,) = set(multiprocessing.active_children()) - before
    assert early.name == "EngineCore"
    return ahead, early


def tell(sender: Connection, **more: Any) -> None:
    """Send what there is to know of this process."""
    sender.send((os.getpid(), os.environ.get("TOLD"), MODULE in sys.modules))
    sender.close()


def run(context: Any, **more: Any) -> tuple[Any, tuple[int, str | None, bool]]:
    """Start a process as vLLM does; returns it, and what it told."""
    receiver, sender = SPAWN.Pipe(duplex=False)
    process = context.Process(target=tell, name="EngineCore_7", kwargs={"sender": sender, **more})
    process.start()
    sender.close()
    assert receiver.poll(PATIENCE)
    told = receiver.recv()
    process.join(PATIENCE)
    return process, told


def test_the_first_process_is_the_one_started_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    ahead, early = started(MODULE, "no_such_module")
    monkeypatch.setenv("TOLD", "later")
    context = ContextAhead(SPAWN, ahead)
    process, told = run(context)
    assert told == (early.pid, "later", True)
    assert (process.pid, process.name, process.exitcode) == (early.pid, "EngineCore_7", 0)
    another, told = run(context)
    assert told == (another.pid, "later", False)
    assert another.pid != early.pid
    ahead.end()


class Lock:
    """What no process can be given but while it is started."""

    def __init__(self) -> None:
        self.lock = SPAWN.Lock()


def test_work_that_cannot_be_handed_over_starts_a_process() -> None:
    ahead, early = started()
    process, told = run(ContextAhead(SPAWN, ahead), lock=Lock())
    assert told[0] == process.pid != early.pid
    assert not early.is_alive()


def test_a_process_that_died_is_replaced() -> None:
    ahead, early = started()
    early.kill()
    early.join(PATIENCE)
    process, told = run(ContextAhead(SPAWN, ahead))
    assert told[0] == process.pid != early.pid


def test_an_unused_process_ends() -> None:
    before = set(multiprocessing.active_children())
    with started_ahead() as ahead:
        (early,) = set(multiprocessing.active_children()) - before
        assert early.is_alive()
    assert not early.is_alive()
    assert ahead.give(threading.active_count, {}) is None


def test_it_ends_when_nobody_can_ask_any_more() -> None:
    ahead, early = started()
    ahead._sender.close()
    early.join(PATIENCE)
    assert early.exitcode == 0
