"""A worker process answers, fails, is killed and comes back, and costs exactly the job that was running."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from app.errors import QueueFull
from app.workers import WorkerCrashed, WorkerJobFailed, WorkerProcess, WorkerTimeout
from tests import jobs

# Every new process imports its parent's main module again, here pytest; this saves most of the tests' time.
multiprocessing.set_forkserver_preload(["pytest", "asyncio", "concurrent.futures.thread"])

ROOT = Path(__file__).parents[1]
PLENTY = 30.0


@contextlib.asynccontextmanager
async def working(*args: Any, **options: Any) -> AsyncIterator[WorkerProcess]:
    worker = WorkerProcess("test-worker", *args, **options)
    try:
        yield worker
    finally:
        await worker.stop()


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PLENTY
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


def is_gone(pid: int) -> bool:
    """Whether no process of that id runs; one that has ended and waits to be reaped counts as gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


async def test_a_job_runs_in_another_process_and_its_value_comes_back() -> None:
    async with working() as worker:
        assert await worker.call(jobs.echo, {"a": (1, b"2")}, timeout=PLENTY) == {"a": (1, b"2")}
        assert await worker.call(jobs.pid, timeout=PLENTY) == worker.pid != os.getpid()


async def test_none_is_a_value() -> None:
    async with working() as worker:
        assert await worker.call(jobs.echo, None, timeout=PLENTY) is None


async def test_the_initializer_runs_once_in_each_process() -> None:
    async with working(jobs.greet_with, ("hello",)) as worker:
        assert await worker.call(jobs.greeting, timeout=PLENTY) == "hello"
        with pytest.raises(WorkerCrashed):
            await worker.call(jobs.die, timeout=PLENTY)
        assert await worker.call(jobs.greeting, timeout=PLENTY) == "hello"


async def test_start_starts_the_process_once() -> None:
    async with working() as worker:
        assert (worker.pid, worker.alive) == (None, False)
        await worker.start()
        first = worker.pid
        await worker.start()
        assert (worker.pid, worker.alive) == (first, True)


async def test_a_service_error_of_a_job_arrives_as_itself() -> None:
    async with working() as worker:
        with pytest.raises(QueueFull) as refusal:
            await worker.call(jobs.refuse, timeout=PLENTY)
        assert (refusal.value.detail, refusal.value.retry_after) == ("no room", 7)
        assert await worker.call(jobs.pid, timeout=PLENTY) == worker.pid


async def test_any_other_error_of_a_job_arrives_with_its_trace() -> None:
    async with working() as worker:
        with pytest.raises(WorkerJobFailed) as failure:
            await worker.call(jobs.divide, timeout=PLENTY)
        assert failure.value.kind == "ZeroDivisionError"
        assert "in divide" in str(failure.value)


@pytest.mark.parametrize(("job", "args", "exitcode"), [(jobs.leave, (7,), 7), (jobs.die, (), -signal.SIGKILL)])
async def test_a_death_costs_its_own_job_only(job: Callable[..., None], args: tuple[int, ...], exitcode: int) -> None:
    async with working() as worker:
        await worker.start()
        first = worker.pid
        with pytest.raises(WorkerCrashed) as crash:
            await worker.call(job, *args, timeout=PLENTY)
        assert crash.value.exitcode == exitcode
        assert await worker.call(jobs.pid, timeout=PLENTY) == worker.pid != first


async def test_a_death_between_two_jobs_costs_none() -> None:
    async with working() as worker:
        await worker.start()
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        await until(lambda: not worker.alive)
        assert await worker.call(jobs.echo, "still here", timeout=PLENTY) == "still here"


async def test_a_job_that_takes_too_long_is_killed() -> None:
    async with working() as worker:
        await worker.start()
        first = worker.pid
        assert first is not None
        with pytest.raises(WorkerTimeout):
            await worker.call(jobs.nap, 600, timeout=0.05)
        assert is_gone(first)
        assert await worker.call(jobs.echo, "next", timeout=PLENTY) == "next"


async def test_a_cancelled_call_kills_the_process() -> None:
    async with working() as worker:
        await worker.start()
        first = worker.pid
        assert first is not None
        call = asyncio.ensure_future(worker.call(jobs.nap, 600, timeout=PLENTY))
        await asyncio.sleep(0.05)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await worker.call(jobs.echo, "next", timeout=PLENTY) == "next"
        assert is_gone(first)


async def test_cancelling_a_call_during_the_start_leaves_the_start_alone() -> None:
    async with working(jobs.sleep_before_start, (0.3,)) as worker:
        call = asyncio.ensure_future(worker.call(jobs.echo, 1, timeout=PLENTY))
        await until(lambda: worker.pid is not None)
        first = worker.pid
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await worker.call(jobs.pid, timeout=PLENTY) == first


async def test_cancelling_at_any_moment_never_mixes_up_answers() -> None:
    """The payload is large, so that many cancellations fall into the sending of the job or of its answer."""
    moments = random.Random(1)
    payload = bytes(3_000_000)
    async with working() as worker:
        await worker.start()
        for number in range(30):
            call = asyncio.ensure_future(worker.call(jobs.echo, payload, timeout=PLENTY))
            await asyncio.sleep(moments.choice((0, 0.0005, 0.002, 0.005, 0.01)))
            call.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await call
            assert await worker.call(jobs.echo, number, timeout=PLENTY) == number


async def test_calls_run_one_after_another() -> None:
    async with working() as worker:
        assert await asyncio.gather(*(worker.call(jobs.echo, n, timeout=PLENTY) for n in range(20))) == [*range(20)]


async def test_what_cannot_be_pickled_fails_without_a_restart() -> None:
    async with working() as worker:
        await worker.start()
        first = worker.pid
        with pytest.raises((TypeError, AttributeError)):
            await worker.call(jobs.echo, threading.Lock(), timeout=PLENTY)
        with pytest.raises(WorkerJobFailed) as failure:
            await worker.call(jobs.unpicklable, timeout=PLENTY)
        assert failure.value.kind == "TypeError"
        assert await worker.call(jobs.pid, timeout=PLENTY) == first


async def test_a_stream_yields_its_items_in_order() -> None:
    async with working() as worker:
        assert [item async for item in worker.stream(jobs.count, 5, timeout=PLENTY)] == [0, 1, 2, 3, 4]
        assert [item async for item in worker.stream(jobs.count, 0, timeout=PLENTY)] == []


async def test_a_stream_closed_early_stops_at_its_next_item_and_keeps_the_process() -> None:
    async with working() as worker:
        await worker.start()
        first = worker.pid
        async with contextlib.aclosing(worker.stream(jobs.count, 10**9, 0.001, timeout=PLENTY)) as items:
            assert [await anext(items) for _ in range(3)] == [0, 1, 2]
        assert await worker.call(jobs.pid, timeout=PLENTY) == first


async def test_a_cancelled_stream_keeps_the_process() -> None:
    async with working() as worker:
        await worker.start()
        first = worker.pid

        async def consume() -> None:
            async with contextlib.aclosing(worker.stream(jobs.count, 10**9, 0.02, timeout=PLENTY)) as items:
                async for _ in items:
                    pass

        for _ in range(5):
            consumer = asyncio.ensure_future(consume())
            await asyncio.sleep(0.05)
            consumer.cancel()
            with pytest.raises(asyncio.CancelledError):
                await consumer
            assert await worker.call(jobs.pid, timeout=PLENTY) == first


async def test_a_stream_that_does_not_stop_in_time_is_killed() -> None:
    async with working() as worker:
        async with contextlib.aclosing(worker.stream(jobs.count_then_hang, 1, timeout=0.2)) as items:
            assert await anext(items) == 0
            first = worker.pid
        assert await worker.call(jobs.pid, timeout=PLENTY) != first


async def test_a_stream_whose_next_item_is_late_is_killed() -> None:
    async with working() as worker:
        items = worker.stream(jobs.count_then_hang, 2, timeout=0.2)
        assert [await anext(items), await anext(items)] == [0, 1]
        with pytest.raises(WorkerTimeout):
            await anext(items)
        assert not worker.alive


async def test_a_stream_that_fails_gives_its_items_first() -> None:
    async with working() as worker:
        items = worker.stream(jobs.count_then_divide, 2, timeout=PLENTY)
        assert [await anext(items), await anext(items)] == [0, 1]
        with pytest.raises(WorkerJobFailed):
            await anext(items)


async def test_a_start_that_is_refused_says_why() -> None:
    async with working(jobs.refuse_to_start) as worker:
        with pytest.raises(QueueFull) as refusal:
            await worker.start()
        assert (refusal.value.detail, worker.alive) == ("no room", False)


async def test_a_start_that_breaks_gives_its_trace() -> None:
    async with working(jobs.break_at_start) as worker:
        with pytest.raises(WorkerJobFailed) as failure:
            await worker.call(jobs.pid, timeout=PLENTY)
        assert (failure.value.kind, worker.alive) == ("KeyError", False)


async def test_a_start_that_takes_too_long_is_killed() -> None:
    async with working(jobs.sleep_before_start, (600,), start_timeout=0.05) as worker:
        with pytest.raises(WorkerTimeout):
            await worker.start()
        assert not worker.alive


async def test_stop_ends_the_running_job_the_waiting_ones_and_all_later_ones() -> None:
    worker = WorkerProcess("test-worker")
    await worker.start()
    first = worker.pid
    assert first is not None
    calls = [asyncio.ensure_future(worker.call(jobs.nap, 600, timeout=PLENTY)) for _ in range(3)]
    await asyncio.sleep(0.05)
    await worker.stop()
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(outcome, WorkerCrashed)
        assert outcome.exitcode is None
    with pytest.raises(WorkerCrashed):
        await worker.call(jobs.pid, timeout=PLENTY)
    await worker.stop()
    assert is_gone(first)


@pytest.mark.parametrize("pause", [0, 0.002, 0.02, 0.2])
async def test_stop_does_not_wait_for_a_start(pause: float) -> None:
    worker = WorkerProcess("test-worker", jobs.sleep_before_start, (600,))
    start = asyncio.ensure_future(worker.start())
    await asyncio.sleep(pause)
    began = time.monotonic()
    await worker.stop()
    assert time.monotonic() - began < 10
    with pytest.raises(WorkerCrashed):
        await start
    assert not worker.alive


async def test_stop_before_any_start_is_harmless() -> None:
    worker = WorkerProcess("test-worker")
    await worker.stop()
    await worker.stop()


async def test_kills_and_restarts_leave_no_descriptor_or_thread_behind() -> None:
    def held() -> tuple[int, int]:
        gc.collect()  # earlier tests leave theirs in reference cycles
        return len([*Path("/proc/self/fd").iterdir()]), threading.active_count()

    async with working() as worker:

        async def cycle() -> None:
            with pytest.raises(WorkerCrashed):
                await worker.call(jobs.die, timeout=PLENTY)
            with pytest.raises(WorkerTimeout):
                await worker.call(jobs.nap, 600, timeout=0.01)
            assert await worker.call(jobs.echo, 1, timeout=PLENTY) == 1

        await cycle()
        before = held()
        for _ in range(5):
            await cycle()
        assert held() == before


@pytest.mark.parametrize("job", ["jobs.nap", "jobs.hold_the_interpreter"])
def test_a_killed_service_leaves_no_worker_behind(job: str) -> None:
    service = textwrap.dedent(
        f"""
        import asyncio
        from app.workers import WorkerProcess
        from tests import jobs

        async def main():
            worker = WorkerProcess("orphan")
            await worker.start()
            call = asyncio.ensure_future(worker.call({job}, 600, timeout=600))
            await asyncio.sleep(0.2)
            print(worker.pid, flush=True)
            await call

        asyncio.run(main())
        """
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'backend'}{os.pathsep}{ROOT}"}
    with subprocess.Popen(
        [sys.executable, "-c", service], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        worker_pid = int(process.stdout.readline())
        assert not is_gone(worker_pid)
        process.kill()
        process.wait(PLENTY)
    deadline = time.monotonic() + PLENTY
    while not is_gone(worker_pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)
