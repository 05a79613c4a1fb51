"""A worker process that can be killed: what keeps a bad file or a native crash away from the service.

One process, one pipe, one job at a time. A pool whose workers share a pipe (concurrent.futures,
pebble) breaks as a whole when one member dies between jobs or halfway through a message; here a
death costs exactly the job that was running.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import AsyncGenerator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any, NoReturn

from app.errors import ServiceError

_ITEM, _VALUE, _DONE, _ERROR = "item", "value", "done", "error"
_FINAL = (_VALUE, _DONE, _ERROR)
# Bytes that a pipe takes though nobody reads yet: a watch over them would be a thread for each page.
_SMALL_MESSAGE = 32 * 2**10
_CURRENT = -1  # stands for the number of a job that could not be read


class WorkerCrashed(Exception):
    """The process ended under the job; `exitcode` is negative for a signal, None when `stop` ended it."""

    def __init__(self, exitcode: int | None) -> None:
        super().__init__(f"worker process ended with exit code {exitcode}")
        self.exitcode = exitcode


class WorkerTimeout(Exception):
    """The job gave no answer in time; the process was killed."""


class WorkerJobFailed(Exception):
    """The job raised something other than a ServiceError; `kind` is the exception's class name."""

    def __init__(self, kind: str, trace: str) -> None:
        super().__init__(kind, trace)
        self.kind = kind

    def __str__(self) -> str:
        return "{} in worker process:\n{}".format(*self.args)


class _Job:
    """One job under way; `given_up` is set when nobody waits for it any more."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.given_up = False


class WorkerProcess:
    """Runs importable functions in a child process, started on first use and again after a death.

    Jobs queue on a lock: one runs at a time. A ServiceError raised by a job arrives as itself.
    `initializer(*initargs)` runs once in each new process; what it raises fails the start.
    """

    def __init__(
        self,
        name: str,
        initializer: Callable[..., None] | None = None,
        initargs: tuple[Any, ...] = (),
        start_timeout: float = 60.0,
    ) -> None:
        self.name = name
        self._initializer = initializer
        self._initargs = initargs
        self._start_timeout = start_timeout
        # A fork of a process that holds threads and locks may deadlock; the fork server holds neither.
        self._context = multiprocessing.get_context("forkserver")
        self._process: Any = None
        self._pipe: Connection | None = None
        self._lifeline: Connection | None = None
        self._stopped = False
        self._jobs = itertools.count(1)
        self._busy_with: int | None = None
        self._lock = asyncio.Lock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    @property
    def pid(self) -> int | None:
        """The child's process id, None before the first start."""
        process = self._process
        return process.pid if process is not None else None

    @property
    def alive(self) -> bool:
        """Whether the child is running."""
        process = self._process
        return process is not None and process.is_alive()

    async def start(self) -> None:
        """Start the process and wait for its initializer.

        Raises WorkerCrashed, WorkerTimeout, WorkerJobFailed, or the initializer's ServiceError.
        """
        async with self._lock:
            await self._run(self._ensure_started)

    async def call(self, function: Callable[..., Any], *args: Any, timeout: float) -> Any:
        """Return `function(*args)`; when cancelled, or after `timeout` seconds, kill the process."""
        async with contextlib.aclosing(self._exchange(function, args, timeout, grace=0.0)) as items:
            async for item in items:
                return item
        raise AssertionError("a plain job always answers")

    async def stream(
        self, function: Callable[..., Iterable[Any]], *args: Any, timeout: float
    ) -> AsyncGenerator[Any, None]:
        """Yield the items of `function(*args)`, each due within `timeout` seconds of the one before.

        Closing the iterator asks the job to stop at its next item and kills the process only when
        that takes longer than `timeout`. Use with contextlib.aclosing.
        """
        async with contextlib.aclosing(self._exchange(function, args, timeout, grace=timeout)) as items:
            async for item in items:
                yield item

    async def stop(self) -> None:
        """Kill the process and release its pipe and thread; idempotent.

        The job that runs, those that wait and any that come later raise WorkerCrashed.
        """
        self._stopped = True
        self._interrupt()
        await asyncio.to_thread(self._thread.shutdown)

    async def _exchange(
        self, function: Callable[..., Any], args: tuple[Any, ...], timeout: float, grace: float
    ) -> AsyncGenerator[Any, None]:
        async with self._lock:
            job = _Job(next(self._jobs))
            try:
                # One visit to the thread for what a plain job needs: each waits for the event loop, which may be busy.
                kind, payload = await self._run(self._begin, job, function, args, timeout)
                while kind != _DONE:
                    if kind == _ERROR:
                        raise payload
                    yield payload
                    if kind == _VALUE:
                        return
                    kind, payload = await self._run(self._receive, job.number, timeout)
            finally:
                job.given_up = True
                if self._busy_with == job.number:
                    if grace == 0.0:
                        self._interrupt()
                    else:
                        self._submit(self._abandon, job.number, grace)

    async def _run(self, function: Callable[..., Any], *args: Any) -> Any:
        if self._stopped:
            raise WorkerCrashed(None)
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    def _interrupt(self) -> None:
        """Kill the process from outside its thread, which sees the pipe end, then tidies up."""
        process = self._process
        if process is not None:
            process.kill()
        self._submit(self._kill)

    def _submit(self, function: Callable[..., None], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # stop has shut the thread down, and the process with it
            self._thread.submit(function, *args)

    # The methods below block; they run one after another on this worker's own thread.

    def _ensure_started(self) -> None:
        if self.alive:
            return
        self._kill()
        pipe, far_pipe = self._context.Pipe()
        far_lifeline, lifeline = self._context.Pipe(duplex=False)
        process = self._context.Process(
            target=_serve,
            args=(far_pipe, far_lifeline, self._initializer, self._initargs),
            name=self.name,
            daemon=True,
        )
        # Known only once they exist: until then there is nothing that _interrupt could kill.
        self._pipe, self._lifeline = pipe, lifeline
        with far_pipe, far_lifeline:
            process.start()
        self._process = process
        if self._stopped:
            self._kill()
            raise WorkerCrashed(None)
        kind, payload = self._receive(0, self._start_timeout)
        if kind == _ERROR:
            self._kill()
            raise payload

    def _begin(self, job: _Job, function: Callable[..., Any], args: tuple[Any, ...], timeout: float) -> tuple[str, Any]:
        """Send a job, unless it was given up meanwhile, and return the first that comes of it."""
        self._ensure_started()
        # In this order, as the other side sets the one and then looks at the other: one of the two sees it.
        self._busy_with = job.number
        if job.given_up:
            self._busy_with = None
            return _DONE, None
        self._send(job.number, function, args, timeout)
        return self._receive(job.number, timeout)

    def _send(self, job: int, function: Callable[..., Any], args: tuple[Any, ...], timeout: float) -> None:
        if self._pipe is None:  # stopped between the start and this job
            raise WorkerCrashed(None)
        timer: threading.Timer | None = None
        deadline = time.monotonic() + timeout
        try:
            message = ForkingPickler.dumps((job, function, args))
            if len(message) > _SMALL_MESSAGE:
                # A process that does not read blocks it until it is killed.
                timer = threading.Timer(timeout, self._process.kill)
                timer.start()
            self._pipe.send_bytes(message)
        except OSError:
            if timer is not None and time.monotonic() >= deadline:
                self._kill()
                raise WorkerTimeout from None
            self._crash()
        except Exception:
            self._busy_with = None  # the job could not be pickled, so the process knows nothing of it
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def _receive(self, job: int, timeout: float) -> tuple[str, Any]:
        pipe = self._pipe
        if pipe is None:
            raise WorkerCrashed(None)
        deadline = time.monotonic() + timeout
        while True:
            try:
                if not pipe.poll(max(0.0, deadline - time.monotonic())):
                    self._kill()
                    raise WorkerTimeout
                sender, kind, payload = pipe.recv()
            except (EOFError, OSError):
                self._crash()
            if sender in (job, _CURRENT):
                if kind in _FINAL:
                    self._busy_with = None
                return kind, payload

    def _abandon(self, job: int, grace: float) -> None:
        if self._busy_with != job or self._pipe is None:
            return
        with contextlib.suppress(OSError, WorkerCrashed, WorkerTimeout):
            self._pipe.send((job, None, ()))
            while self._busy_with == job:
                self._receive(job, grace)

    def _crash(self) -> NoReturn:
        """Reap the dead child and raise WorkerCrashed."""
        process = self._process
        if process is not None:
            process.join(timeout=1.0)
        exitcode = process.exitcode if process is not None and not self._stopped else None
        self._kill()
        raise WorkerCrashed(exitcode)

    def _kill(self) -> None:
        process, ends = self._process, (self._pipe, self._lifeline)
        self._process = self._pipe = self._lifeline = self._busy_with = None
        if process is not None:
            process.kill()
            process.join()
        for end in ends:
            if end is not None:
                end.close()


def _serve(
    pipe: Connection, lifeline: Connection, initializer: Callable[..., None] | None, initargs: tuple[Any, ...]
) -> None:
    """Child side: run the initializer, then jobs until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    _end_with(lifeline)
    try:
        if initializer is not None:
            initializer(*initargs)
    except Exception as error:  # noqa: BLE001 - process boundary: the parent decides what to do with it
        pipe.send((0, _ERROR, _portable(error)))
        return
    pipe.send((0, _DONE, None))
    while True:
        try:
            message = pipe.recv_bytes()
        except (EOFError, OSError):
            return
        try:
            job, function, args = pickle.loads(message)  # noqa: S301 - from our own parent process
        except Exception as error:  # noqa: BLE001 - process boundary, and too big a job is the likely one
            pipe.send((_CURRENT, _ERROR, _portable(error)))
            continue
        if function is not None:  # None is the cancellation of a job that was already done
            _perform(pipe, job, function, args)


def _perform(pipe: Connection, job: int, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    try:
        result = function(*args)
        if not hasattr(result, "__next__"):
            pipe.send((job, _VALUE, result))
            return
        with contextlib.closing(result):
            for item in result:
                if pipe.poll():  # while a job runs, the only message is its cancellation
                    pipe.recv()
                    break
                pipe.send((job, _ITEM, item))
        pipe.send((job, _DONE, None))
    except Exception as error:  # noqa: BLE001 - process boundary: the parent decides what to do with it
        pipe.send((job, _ERROR, _portable(error)))


def _portable(error: Exception) -> Exception:
    if isinstance(error, ServiceError):
        return error
    return WorkerJobFailed(type(error).__name__, traceback.format_exc())


if sys.platform == "linux":
    import fcntl

    def _end_with(lifeline: Connection) -> None:
        """Have the kernel kill this process when the service's end of `lifeline` closes, however it closes.

        A thread would not do: native code that holds the interpreter's lock keeps it from running.
        """
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
        if lifeline.poll():  # it closed before the kernel was asked
            os._exit(1)

else:

    def _end_with(lifeline: Connection) -> None:
        """End this process when the service's end of `lifeline` closes, native code permitting."""

        def wait() -> None:
            multiprocessing.connection.wait([lifeline])
            os._exit(1)

        threading.Thread(target=wait, daemon=True).start()
