"""The process that vLLM's engine core becomes, with plain functions in vLLM's place."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.engine.vllm_ahead import ContextAhead, ProcessAhead, runs_in_core, started_ahead
from app.engine.vllm_direct import VllmDirectEngine
from app.engine.vllm_options import VllmOptions

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


def test_a_model_that_cannot_be_loaded_early_changes_nothing() -> None:
    ahead, early = started()
    ahead.load(VllmOptions(), Path("nowhere"))
    process, told = run(ContextAhead(SPAWN, ahead))
    assert told[0] == process.pid == early.pid


def test_a_process_that_died_is_replaced() -> None:
    ahead, early = started()
    early.kill()
    early.join(PATIENCE)
    ahead.load(VllmOptions(), Path("nowhere"))
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


async def test_an_engine_that_began_and_never_started_leaves_nothing(tmp_path: Path) -> None:
    before, variables = set(multiprocessing.active_children()), dict(os.environ)
    engine = VllmDirectEngine(VllmOptions(str(tmp_path)), frozenset())
    engine.begin()
    assert engine._beginning is not None
    assert engine._beginning.core
    (early,) = set(multiprocessing.active_children()) - before
    assert early.is_alive()
    assert os.environ["VLLM_LOGGING_CONFIG_PATH"]
    await engine.stop()
    assert not early.is_alive()
    assert os.environ.get("VLLM_LOGGING_CONFIG_PATH") == variables.get("VLLM_LOGGING_CONFIG_PATH")


ENDS_EARLY = """
from app.engine.vllm_direct import VllmDirectEngine
from app.engine.vllm_options import VllmOptions

if __name__ == "__main__":
    engine = VllmDirectEngine(VllmOptions(), frozenset())
    engine.begin()
    print(engine._beginning.core._process.pid, flush=True)
    raise SystemExit(3)
"""


def test_a_program_that_ends_after_it_began_ends_the_process(tmp_path: Path) -> None:
    """Multiprocessing would wait for it, and it for the program."""
    script = tmp_path / "ends_early.py"
    script.write_text(ENDS_EARLY)
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode == 3, ended.stderr
    assert not psutil.pid_exists(int(ended.stdout))


def test_engine_arguments_that_nothing_can_begin_with_are_left_to_the_start() -> None:
    engine = VllmDirectEngine(VllmOptions(engine_args={"model": "other"}), frozenset())
    engine.begin()
    assert engine._beginning is None


@pytest.mark.parametrize(
    ("arguments", "inside"),
    [
        ({"tensor_parallel_size": 1}, True),
        ({"tensor_parallel_size": 2}, False),
        ({"data_parallel_size": 2}, False),
        ({"distributed_executor_backend": "mp"}, False),
    ],
)
def test_a_core_opens_the_gpu_only_where_the_model_runs_in_it(arguments: dict[str, Any], inside: bool) -> None:
    assert runs_in_core(arguments) is inside
