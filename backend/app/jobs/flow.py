"""Documents as durable workflows, a page a step: the only module that knows DBOS.

It is imported when it is needed: DBOS takes most of a second to import.

What has to be known after a crash is in tables of ours (`store`); DBOS keeps which documents are to be read, who
reads them and which step is next. Its rows stay small: ids, page numbers, yes or no.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Protocol, TypeVar

import sqlalchemy as sa
import structlog
from sqlalchemy.exc import DBAPIError

from app.errors import DatabaseUnavailable
from app.jobs import ranges

# DBOS writes to stderr by itself unless its logger has a handler when it is imported.
logging.getLogger("dbos").addHandler(logging.NullHandler())
# A stop cancels what is under way, and the next start takes it up: nothing to warn of.
logging.getLogger("dbos").addFilter(lambda record: not record.getMessage().startswith("Asyncio task cancelled"))

from dbos import DBOS, DBOSConfig, DBOSPortableJSONSerializer, SetWorkflowID  # noqa: E402

log = structlog.get_logger()
T = TypeVar("T")

APPLICATION = "deepseek-ocr"
# Unasked, DBOS makes a version of the workflow's source, and leaves the documents of every other version lying. Raise
# this when `read_document` changes its steps: documents that are under way then end as they began, by their own code.
VERSION = "1"
QUEUE = "documents"

_QUEUE_POLL_SECONDS = 0.5
# How DBOS names the threads that take workflows from queues, and how long one may take to end: the database may be slow.
_QUEUE_THREADS, _QUEUE_END_SECONDS = "queue-worker-", 10.0
# Seconds before each further attempt at a webhook: all in all about a day.
WEBHOOK_PAUSES = (5, 30, 120, 600, 3_600, 14_400, 43_200)


class Work(Protocol):
    """What the steps do; called on the service's event loop."""

    async def plan(self, task_id: str, run: int) -> str:
        """Return the pages that a run has to read, as ranges."""
        ...

    async def left(self, task_id: str, run: int) -> set[int]:
        """Return those of them that are still to be read."""
        ...

    async def take_turn(self, task_id: str, run: int) -> bool:
        """Wait until the document may read a page; False, without a turn, where its task wants none."""
        ...

    def give_turn_back(self) -> None:
        """End a turn."""
        ...

    async def read_page(self, task_id: str, run: int, number: int) -> bool:
        """Read a page and write it down; say whether the task still wants any."""
        ...

    async def finish(self, task_id: str, run: int) -> bool:
        """End the task, with its results unless it was cancelled; say whether somebody is to be told."""
        ...

    async def fail(self, task_id: str, run: int) -> bool:
        """End the task after a fault of ours; say whether somebody is to be told."""
        ...

    async def notify(self, task_id: str, run: int, attempt: int, last: bool) -> bool:
        """Send the webhook of a run; say whether that is done with."""
        ...


class Flow:
    """DBOS, launched for one replica; there is one at a time in a process. Every method blocks."""

    def __init__(self, url: sa.URL, replica_id: str) -> None:
        shown = url.set(drivername=url.get_backend_name()).render_as_string(hide_password=False)
        config: DBOSConfig = {
            "name": APPLICATION,
            "system_database_url": shown,
            "application_version": VERSION,
            "executor_id": replica_id,
            "serializer": DBOSPortableJSONSerializer(),
            "log_level": "WARNING",
            "enable_otlp": False,
            # Nobody listens: documents are followed through our own tables.
            "notification_listener_polling_interval_sec": 0.5,
        }
        self._config = config
        self._dbos: DBOS | None = None

    def launch(self, work: Work, loop: asyncio.AbstractEventLoop) -> None:
        """Make DBOS's tables where they are missing, and begin to take documents from the queue."""
        _service.work, _service.loop = work, loop
        with _unavailable():
            self._dbos = DBOS(config=self._config)
            DBOS.launch()
            DBOS.register_queue(QUEUE, polling_interval_sec=_QUEUE_POLL_SECONDS)

    def destroy(self) -> None:
        """Stop; what was under way is as after a crash."""
        if self._dbos is not None:
            _stop_taking(self._dbos)
        DBOS.destroy()
        _service.work = _service.loop = None

    def enqueue(self, task_id: str, run: int) -> None:
        """Have a run of a task read, once."""
        with _unavailable(), SetWorkflowID(_workflow_id(task_id, run)):
            DBOS.enqueue_workflow(QUEUE, read_document, task_id, run)

    def delete(self, task_id: str, runs: int) -> None:
        """Forget the runs of a task."""
        with _unavailable():
            DBOS.delete_workflows([_workflow_id(task_id, run) for run in range(1, runs + 1)])

    def adopt(self, living: set[str]) -> list[str]:
        """Put the documents of replicas that are not `living` back into the queue; return their tasks."""
        with _unavailable():
            pending = DBOS.list_workflows(status="PENDING", name=_NAME, load_input=False, load_output=False)
            orphans = [found.workflow_id for found in pending if found.executor_id not in living]
            for workflow_id in orphans:
                DBOS.resume_workflow(workflow_id, queue_name=QUEUE)
        return [workflow_id.rpartition("/")[0] for workflow_id in orphans]

    def states(self, runs: list[tuple[str, int]]) -> dict[tuple[str, int], str]:
        """Return the state of the workflows there are for `runs` of tasks."""
        ids = {_workflow_id(*run): run for run in runs}
        if not ids:
            return {}
        with _unavailable():
            found = DBOS.list_workflows(workflow_ids=list(ids), load_input=False, load_output=False)
        return {ids[one.workflow_id]: one.status for one in found}


class _Service:
    """Where the steps find the service; DBOS knows workflows as functions of a module."""

    work: Work | None = None
    loop: asyncio.AbstractEventLoop | None = None


_service = _Service()
_NAME = "read_document"


@DBOS.workflow(name=_NAME, max_recovery_attempts=None)
async def read_document(task_id: str, run: int) -> None:
    """Read the pages of a document, write its results and tell who asked to be told."""
    try:
        plan = await DBOS.run_step_async({"name": "plan"}, _plan, task_id, run)
        await _read_pages(task_id, run, plan)
        tell = await DBOS.run_step_async({"name": "finish"}, _finish, task_id, run)
    except Exception:
        log.exception("task_failed", job=task_id)
        tell = await DBOS.run_step_async({"name": "fail"}, _fail, task_id, run)
    for attempt, pause in enumerate((*WEBHOOK_PAUSES, None), 1) if tell else ():
        if (
            await DBOS.run_step_async({"name": "notify"}, _notify, task_id, run, attempt, pause is None)
            or pause is None
        ):
            return
        await DBOS.sleep_async(pause)


async def _read_pages(task_id: str, run: int, plan: str) -> None:
    """Read what is left of a plan, several pages at once, for as long as the task is wanted.

    The number of a page's step is its place in the plan. The steps of pages that are in the database are not run
    again, so that a document resumes at once however many pages it has.
    """
    left = await _on_service(lambda work: work.left(task_id, run))
    running: set[asyncio.Task[bool]] = set()
    wanted = True
    failure: BaseException | None = None

    def ended(page: asyncio.Task[bool]) -> None:
        nonlocal wanted, failure
        running.discard(page)
        _give_turn_back()
        error = asyncio.CancelledError() if page.cancelled() else page.exception()
        failure = failure or error
        wanted = wanted and failure is None and page.result()

    try:
        for number in ranges.read(plan):
            step = DBOS.reserve_step()
            if number not in left or not wanted:
                continue
            if not await _on_service(lambda work: work.take_turn(task_id, run)):
                wanted = False
                continue
            if not wanted:
                _give_turn_back()
                continue
            page = asyncio.ensure_future(step.run_async({"name": "page"}, _read_page, task_id, run, number))
            running.add(page)
            page.add_done_callback(ended)
        if running:
            await asyncio.wait(running)
            await asyncio.sleep(0)  # for `ended`
        if failure is not None:
            raise failure
    finally:
        for page in list(running):
            page.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _plan(task_id: str, run: int) -> str:
    return await _on_service(lambda work: work.plan(task_id, run))


async def _read_page(task_id: str, run: int, number: int) -> bool:
    return await _on_service(lambda work: work.read_page(task_id, run, number))


async def _finish(task_id: str, run: int) -> bool:
    return await _on_service(lambda work: work.finish(task_id, run))


async def _fail(task_id: str, run: int) -> bool:
    return await _on_service(lambda work: work.fail(task_id, run))


async def _notify(task_id: str, run: int, attempt: int, last: bool) -> bool:
    return await _on_service(lambda work: work.notify(task_id, run, attempt, last))


def _give_turn_back() -> None:
    work, loop = _service.work, _service.loop
    if work is not None and loop is not None and not loop.is_closed():
        loop.call_soon_threadsafe(work.give_turn_back)


async def _on_service(ask: Callable[[Work], Coroutine[Any, Any, T]]) -> T:
    """Have something done on the service's event loop: the engine lives there, workflows on a loop of DBOS's."""
    work, loop = _running_service()
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(ask(work), loop))


def _running_service() -> tuple[Work, asyncio.AbstractEventLoop]:
    if _service.work is None or _service.loop is None:
        raise asyncio.CancelledError  # the service is stopping; the step is run after the next start
    return _service.work, _service.loop


def _stop_taking(dbos: DBOS) -> None:
    """End the threads that take documents from the queue.

    DBOS stops the event loop they hand them to before it waits for them: a document taken in between would be handed to
    a loop that has stopped, its thread waiting for ever, or to one that is closed.
    """
    for ended in dbos.background_thread_stop_events:
        ended.set()
    for thread in threading.enumerate():
        if thread.name.startswith(_QUEUE_THREADS):
            while not thread.is_alive() and thread in threading.enumerate():
                time.sleep(0.001)  # it is being started, and nobody can wait for its end yet
            thread.join(_QUEUE_END_SECONDS)


def _workflow_id(task_id: str, run: int) -> str:
    return f"{task_id}/{run}"


@contextlib.contextmanager
def _unavailable() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        log.error("database_failed", kind=type(error.orig).__name__, trace=str(error.orig))
        raise DatabaseUnavailable from None
