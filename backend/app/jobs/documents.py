"""Documents from upload to result: what the routes call, and what keeps the tasks going."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import json
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, ParamSpec, TypeVar

import structlog

from app.engine.base import Engine
from app.errors import (
    DatabaseUnavailable,
    InternalError,
    PageOutOfRange,
    ServiceError,
    ShuttingDown,
    StorageFull,
    TaskFileNotFound,
    TaskNotFound,
    TaskPageNotFound,
    WebhookRefused,
)
from app.ingest.choice import PageChoice
from app.ingest.decoder import Decoder
from app.jobs import ranges
from app.jobs.files import TaskFolder, rename_figures
from app.jobs.pages import TaskPages
from app.jobs.replicas import Replicas
from app.jobs.store import Store, days_ago, moment
from app.jobs.task import CANCELLED, NO_PAGE_READ, Order, Task, TaskState
from app.jobs.webhooks import Webhooks
from app.ocr.service import check_options
from app.reader import PageReader, ReadPage
from app.results.pages import PageResult

if TYPE_CHECKING:
    from app.jobs.flow import Flow

log = structlog.get_logger()
P = ParamSpec("P")
T = TypeVar("T")

# No file has this page: the refusal says how many there are, without a pixel decoded.
_BEYOND = PageChoice(10**9)

_COPY_BYTES = 1 << 20
_BEAT_SECONDS = 1.0
# A request that comes before DBOS is loaded waits for it this long.
_LAUNCH_SECONDS = 30.0
# A task without a workflow is one whose service died between writing down the one and the other.
_LOST_SECONDS = 15.0
_TIDY_SECONDS = 600.0
_STRAY_SECONDS = 24 * 3600.0
_DATABASE = "tasks.sqlite"


@dataclass(frozen=True)
class DocumentLimits:
    """How much is kept: unfinished tasks, bytes on disk, days after the end (0: for ever)."""

    tasks: int
    bytes: int
    days: float


class Documents:
    """Tasks, durable from when `accept` has returned. `prepare`, then `start`; `stop` leaves unfinished ones for later.

    `database_url` empty means SQLite in `data`. `refusal` says why the engine reads nothing now. `observe` gets every
    page read and None for each that failed, `count` the number of tasks by state from time to time.
    """

    def __init__(
        self,
        engine: Engine,
        decoder: Decoder,
        reader: PageReader,
        *,
        data: Path,
        database_url: str,
        limits: DocumentLimits,
        webhooks: Webhooks,
        refusal: Callable[[], ServiceError | None],
        observe: Callable[[ReadPage | None], None],
        count: Callable[[dict[str, int]], None],
    ) -> None:
        self._engine = engine
        self._decoder = decoder
        self._reader = reader
        self._data = data.absolute()
        self._database_url = database_url
        self._limits = limits
        self._webhooks = webhooks
        self._refusal = refusal
        self._observe = observe
        self._count = count
        self._store: Store | None = None
        self._pages: TaskPages | None = None
        self._replicas: Replicas | None = None
        self._flow: Flow | None = None
        self._launched = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    # Life

    def prepare(self) -> None:
        """Open the database and the folder. Blocks; idempotent. Raises DatabaseUnavailable with a sentence."""
        if self._store is not None:
            return
        try:
            self._data.mkdir(mode=0o700, parents=True, exist_ok=True)
            probe = self._data / f".{uuid.uuid4().hex}"
            probe.touch()
            probe.unlink()
        except OSError:
            raise DatabaseUnavailable(
                f"The folder {self._data} cannot be written. Set DATA_DIR to a folder that this user may write, "
                "or JOBS_ENABLED=false."
            ) from None
        self._store = Store(self._database_url, self._data / _DATABASE)

    async def start(self) -> None:
        """Go on with the tasks there are, and take new ones. Returns before DBOS is loaded."""
        await asyncio.to_thread(self.prepare)
        self._pages = TaskPages(self.store, self._reader, self._refusal, self._data, self._observe)
        self._replicas = Replicas(self.store, self._data)
        await self._run(self._replicas.join)
        self._keeper = asyncio.create_task(self._keep(), name="documents")

    async def stop(self) -> None:
        """Leave what is under way to the next start or to another replica. Idempotent."""
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
            self._keeper = None
        if self._flow is not None:
            await asyncio.to_thread(self._flow.destroy)
            self._flow = None
        if self._replicas is not None:
            with contextlib.suppress(DatabaseUnavailable):
                await self._run(self._replicas.leave)
            self._replicas = None
        if self._pages is not None:
            self._pages.close()
        if self._store is not None:
            self._store.close()
            self._store = None

    @property
    def store(self) -> Store:
        """The database; open from `prepare` to `stop`."""
        if self._store is None:
            raise ShuttingDown
        return self._store

    # What the routes call

    async def accept(self, order: Order, upload: BinaryIO, size: int | None) -> Task:
        """Write down a new document and return its task, or the task that has the same idempotency key.

        The upload is on disk and the task in the database when this returns. Raises what is wrong with the file, the
        options or the pages, and TooManyTasks, StorageFull or IdempotencyConflict.
        """
        check_options(self._engine, order.options)
        if order.webhook_url:
            await self._run(self._webhooks.check, order.webhook_url)
        if await self._run(self.store.total_bytes) + (size or 0) > self._limits.bytes:
            raise StorageFull
        task_id = str(uuid.uuid4())
        folder = TaskFolder(self._data, task_id)
        added = False
        try:
            length, digest = await self._run(_copy, upload, folder)
            numbers = ranges.parse(order.pages, await self._count_pages(folder.source, order.password))
            fingerprint = hashlib.sha256(f"{digest} {_asked(order)}".encode()).hexdigest()
            task = await self._run(self.store.add, task_id, order, numbers, length, fingerprint, self._limits.tasks)
            added = task.id == task_id
            if added:
                await self._enqueue(task)
                log.info("task_accepted", job=task_id, pages=len(numbers), bytes=length, priority=order.priority)
            return task
        except BaseException:
            if added:
                with contextlib.suppress(ServiceError):
                    await asyncio.shield(self._run(self.store.remove, task_id))
            added = False
            raise
        finally:
            if not added:
                await asyncio.shield(self._run(folder.remove))

    async def keep(self, order: Order, upload: BinaryIO, read: ReadPage, queued: datetime) -> Task:
        """Write down a document of which one page was wanted and has been read, as a finished task."""
        if await self._run(self.store.total_bytes) > self._limits.bytes:
            raise StorageFull
        task_id = str(uuid.uuid4())
        folder = TaskFolder(self._data, task_id)
        page, pictures = rename_figures(PageResult.of(read.number, read.recognition, read.dpi), read.pictures)
        length, _ = await self._run(_copy, upload, folder)
        await self._run(self.store.add, task_id, order, (read.number,), length, "", most=10**9, queued=queued)
        await self._run(self.store.start, task_id, 1)
        await self._run(folder.save_pictures, pictures)
        await self._run(self.store.add_page, task_id, 1, page)
        size = await self._run(self._write_results, task_id)
        await self._run(self.store.end, task_id, 1, TaskState.SUCCEEDED, None, size)
        return await self.get(task_id)

    async def get(self, task_id: str) -> Task:
        """Return a task; raises TaskNotFound."""
        return await self._run(self.store.get, _checked(task_id))

    async def newest(self, limit: int, before: tuple[datetime, str] | None, state: TaskState | None) -> list[Task]:
        """Return tasks, newest first."""
        return await self._run(self.store.newest, limit, before, state)

    async def pages(self, task_id: str) -> list[PageResult]:
        """Return every page of a task that was written down, in order."""
        return await self._run(lambda: list(self.store.pages(task_id)))

    async def failed_pages(self, task_id: str) -> list[PageResult]:
        """Return the pages that were not read."""
        return await self._run(self.store.failed_pages, task_id)

    async def pages_since(self, task_id: str, sequence: int, limit: int) -> list[tuple[int, PageResult]]:
        """Return the pages written down after number `sequence` in the order of that, with their numbers."""
        return await self._run(self.store.pages_since, task_id, sequence, limit)

    async def pictures(self, task_id: str) -> list[str]:
        """Return the names of the figures of a task."""
        return await self._run(TaskFolder(self._data, task_id).pictures)

    async def file(self, task: Task, name: str) -> Path:
        """Return a file of a task; raises InvalidPath or TaskFileNotFound."""
        return await self._run(TaskFolder(self._data, task.id).find, name)

    async def draw_page(self, task: Task, number: int, width: int) -> bytes:
        """Return a page of a task as JPEG, at most `width` pixels across; raises TaskPageNotFound or TaskFileNotFound."""
        if not ranges.holds(task.numbers, number):
            raise TaskPageNotFound
        choice = PageChoice(number, task.order.dpi, task.order.password)
        try:
            return await self._reader.draw(TaskFolder(self._data, task.id).source, choice, width)
        except FileNotFoundError:
            raise TaskFileNotFound("The document of this task is no longer there.") from None

    async def cancel(self, task_id: str) -> Task:
        """End a task with what it has; one that is finished stays as it is. Pages being read are aborted."""
        task = await self.get(task_id)
        if not task.unfinished:
            return task
        reason = (CANCELLED, "The task was cancelled by request.")
        if await self._run(self.store.end, task.id, None, TaskState.CANCELLED, reason):
            log.info("task_cancelled", job=task.id, pages=task.done)
        self._working_pages.stop(task.id)
        flow = await self._launched_flow()
        await self._run(flow.cancel, task.id, task.run)
        return await self.get(task_id)

    async def retry(self, task_id: str) -> Task:
        """Read the pages again that failed or were never reached; raises TaskConflict where there are none."""
        task = await self._run(self.store.restart, _checked(task_id), self._limits.tasks)
        log.info("task_retried", job=task.id, run=task.run, pages=task.total - task.done)
        await self._enqueue(task)
        return task

    async def delete(self, task_id: str) -> None:
        """Forget a task, its pages and its files; one that is not finished is cancelled first."""
        task = await self.cancel(task_id)
        flow = await self._launched_flow()
        await self._run(self.store.remove, task.id)
        await self._run(flow.delete, task.id, task.run)
        await self._run(TaskFolder(self._data, task.id).remove)
        log.info("task_deleted", job=task.id)

    # The steps of a document: flow.Work

    async def plan(self, task_id: str, run: int) -> str:
        """Return the pages that a run has to read, as ranges."""
        return ranges.write(await self._patient(self.store.pages_left, task_id, run))

    async def left(self, task_id: str, run: int) -> set[int]:
        """Return those of them that are still to be read."""
        return set(await self._patient(self.store.pages_left, task_id, run))

    async def take_turn(self, task_id: str, run: int) -> bool:
        """Wait until the document may read a page; say whether its task still wants any."""
        task = await self._task(task_id)
        await self._working_pages.turns.take(task.order.priority if task else 0)
        return task is not None and task.unfinished and task.run == run

    def give_turn_back(self) -> None:
        """End a turn."""
        if self._pages is not None:
            self._pages.turns.give_back()

    async def read_page(self, task_id: str, run: int, number: int) -> bool:
        """Read a page and write it down; say whether the task still wants any."""
        task = await self._task(task_id)
        if task is None or not task.unfinished or task.run != run:
            return False
        if task.state is TaskState.PENDING:
            await self._patient(self.store.start, task_id, run)
        return await self._working_pages.read(task, number)

    async def finish(self, task_id: str, run: int) -> bool:
        """Write the results and end the task; say whether somebody is to be told."""
        task = await self._task(task_id)
        if task is None or task.run != run:
            return False
        if task.unfinished:
            size = await self._patient(self._write_results, task_id)
            error = None
            if task.failed == task.total:
                first = (await self._patient(self.store.failed_pages, task_id, 1))[0].failure
                reason = first.detail if first else ""
                error = (NO_PAGE_READ, f"None of the pages could be read. The first: {reason}")
            state = TaskState.FAILED if error else TaskState.SUCCEEDED
            if not await self._patient(self.store.end, task_id, run, state, error, size):
                return False
            log.info("task_finished", job=task_id, state=state.value, pages=task.done, failed=task.failed)
        return bool(task.order.webhook_url)

    async def fail(self, task_id: str, run: int) -> None:
        """End the task after a fault of ours."""
        error = (InternalError.code, "The service failed on this document. Try it again.")
        await self._patient(self.store.end, task_id, run, TaskState.FAILED, error)

    async def notify(self, task_id: str, attempt: int, last: bool) -> bool:
        """Send the webhook; say whether that is done with."""
        task = await self._task(task_id)
        if task is None or task.unfinished:
            return True
        body = {
            "event": "task.finished",
            "task_id": task.id,
            "status": task.state.value,
            "pages_total": task.total,
            "pages_failed": task.failed,
            "error_code": task.error_code,
            "url": f"/api/tasks/{task.id}",
        }
        try:
            sent = await self._run(self._webhooks.send, task.order.webhook_url, body)
            refused = False
        except WebhookRefused:
            sent, refused = False, True
        done = sent or refused or last
        state = "delivered" if sent else "failed" if done else "retrying"
        await self._patient(self.store.set_webhook_state, task_id, state)
        if not sent:
            log.warning("webhook_failed", job=task_id, attempt=attempt, refused=refused, final=done)
        return done

    # What keeps the tasks going

    async def _keep(self) -> None:
        """Launch DBOS, then take over what dead replicas left and clear away what is old."""
        beats = 0
        while True:
            try:
                if self._flow is None:
                    await self._launch()
                await self._beat(beats)
                beats += 1
            except DatabaseUnavailable:
                pass  # it was logged; the next beat tries again
            except Exception:
                log.exception("documents_failed")
            await asyncio.sleep(_BEAT_SECONDS)

    async def _launch(self) -> None:
        flow = await asyncio.to_thread(_load_flow, self.store, self._replica.id)
        launching = asyncio.ensure_future(asyncio.to_thread(flow.launch, self, asyncio.get_running_loop()))
        try:
            await asyncio.shield(launching)
        except BaseException:
            # What is still being launched cannot be taken down: threads would be left over.
            await asyncio.wait({launching})
            await asyncio.to_thread(flow.destroy)
            raise
        self._flow = flow
        self._launched.set()

    async def _beat(self, beats: int) -> None:
        flow = await self._launched_flow()
        living = await self._run(self._replica.living)
        gone = await self._run(self._stopped_elsewhere)
        for task_id in gone:
            self._working_pages.stop(task_id)
        # One takes over for all, the one with the lowest id. Should two do it at once, pages are read twice and written once.
        if self._replica.id == min(living):
            for task_id in await self._run(flow.adopt, living):
                log.warning("task_taken_over", job=task_id)
            if beats % 10 == 0:
                await self._find_lost(flow)
            if beats % int(_TIDY_SECONDS / _BEAT_SECONDS) == 0:
                await self._tidy()
        if beats % 5 == 0:
            self._count(await self._run(self.store.counts))

    def _stopped_elsewhere(self) -> list[str]:
        """Return the tasks of which pages are being read here although they were ended, by another replica say."""
        active = self._working_pages.active
        wanted = {task_id for task_id, _, _ in self.store.unfinished()} if active else set()
        return [task_id for task_id in active if task_id not in wanted]

    async def _find_lost(self, flow: Flow) -> None:
        """Start tasks that have no workflow, and end those whose workflow ended without them."""
        old = days_ago(_LOST_SECONDS / 86_400)
        waiting = [(task_id, run) for task_id, run, changed in await self._run(self.store.unfinished) if changed < old]
        states = await self._run(flow.states, waiting)
        for task_id, run in waiting:
            state = states.get((task_id, run))
            if state is None:
                log.warning("task_found", job=task_id)
                await self._run(flow.enqueue, task_id, run)
            elif state not in ("ENQUEUED", "PENDING", "DELAYED"):
                log.error("task_lost", job=task_id, state=state)
                await self.fail(task_id, run)

    async def _tidy(self) -> None:
        """Delete tasks that are older than they are kept, and folders that belong to none."""
        if self._limits.days:
            for task_id in await self._run(self.store.finished_before, days_ago(self._limits.days)):
                with contextlib.suppress(TaskNotFound):
                    await self.delete(task_id)
        for task_id in await self._run(self._strays):
            await self._run(TaskFolder(self._data, task_id).remove)

    def _strays(self) -> list[str]:
        """Return folders without a task that are no uploads under way either."""
        old = days_ago(_STRAY_SECONDS / 86_400)
        found = [
            entry.name
            for entry in os.scandir(self._data)
            if entry.is_dir() and _is_id(entry.name) and moment(entry.stat().st_mtime) < old
        ]
        known = self.store.known(found)
        return [name for name in found if name not in known]

    async def _enqueue(self, task: Task) -> None:
        flow = await self._launched_flow()
        await self._run(flow.enqueue, task.id, task.run)

    async def _launched_flow(self) -> Flow:
        try:
            await asyncio.wait_for(self._launched.wait(), _LAUNCH_SECONDS)
        except asyncio.TimeoutError:
            raise DatabaseUnavailable from None
        if self._flow is None:
            raise ShuttingDown
        return self._flow

    async def _count_pages(self, source: Path, password: str) -> int:
        try:
            await self._decoder.decode(source, replace(_BEYOND, password=password))
        except PageOutOfRange as refusal:
            if refusal.pages is not None:
                return refusal.pages
        raise InternalError

    def _write_results(self, task_id: str) -> int:
        return TaskFolder(self._data, task_id).write_results(self.store.pages(task_id))

    async def _task(self, task_id: str) -> Task | None:
        with contextlib.suppress(TaskNotFound):
            return await self._patient(self.store.get, task_id)
        return None

    @property
    def _working_pages(self) -> TaskPages:
        if self._pages is None:
            raise ShuttingDown
        return self._pages

    @property
    def _replica(self) -> Replicas:
        if self._replicas is None:
            raise ShuttingDown
        return self._replicas

    async def _run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._working_pages.blocking(function, *args, **kwargs)

    async def _patient(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._working_pages.patient(function, *args, **kwargs)


def _load_flow(store: Store, replica_id: str) -> Flow:
    from app.jobs.flow import Flow

    return Flow(store.url, replica_id)


def _copy(upload: BinaryIO, folder: TaskFolder) -> tuple[int, str]:
    """Write an upload into its folder; return its length and its SHA-256."""
    digest, length = hashlib.sha256(), 0
    try:
        folder.make()
        with folder.source.open("wb") as file:
            for piece in iter(functools.partial(upload.read, _COPY_BYTES), b""):
                file.write(piece)
                digest.update(piece)
                length += len(piece)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        log.error("upload_not_written", reason=error.strerror)
        raise StorageFull from None
    return length, digest.hexdigest()


def _asked(order: Order) -> str:
    """Return what makes two orders of one file the same."""
    return json.dumps({**order.to_json(), "idempotency_key": "", "name": ""}, sort_keys=True)


def _is_id(name: str) -> bool:
    with contextlib.suppress(ValueError):
        return str(uuid.UUID(name)) == name
    return False


def _checked(task_id: str) -> str:
    if not _is_id(task_id):
        raise TaskNotFound
    return task_id
