"""vLLM's processes are ended for certain; others stand for them here."""

from __future__ import annotations

import multiprocessing
import subprocess
import time

import psutil

from app.engine.vllm_processes import end_processes, engine_processes


def work_in_another() -> None:
    """As an engine core whose worker is a process of its own."""
    subprocess.run(["sleep", "600"], check=False)


def test_a_hung_core_is_killed_with_its_worker() -> None:
    """Stopped, neither ends by itself."""
    core = multiprocessing.get_context("spawn").Process(target=work_in_another, name="EngineCore_0")
    core.start()
    try:
        deadline = time.monotonic() + 60
        while len(engine_processes()) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        worker, found = engine_processes()
        assert (found.pid, worker.ppid()) == (core.pid, core.pid)
        for process in (worker, found):
            process.suspend()
        assert end_processes([worker, found], patience=0.2) == 2
        assert not psutil.pid_exists(found.pid)
        assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
    finally:
        core.kill()
        core.join()
    assert engine_processes() == []
