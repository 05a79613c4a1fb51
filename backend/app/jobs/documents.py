"""Documents from upload to result: what the routes call."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, ParamSpec, TypeVar

import structlog

from app.engine.base import Engine
from app.errors import (
    DatabaseUnavailable,
    ServiceError,
    ShuttingDown,
    StorageFull,
    TaskFileNotFound,
    TaskNotFound,
    TaskPageNotFound,
)
from app.ingest.choice import PageChoice
from app.ingest.decoder import Decoder
from app.jobs import ranges
from app.jobs.database import Database
from app.jobs.downloads import Downloads
from app.jobs.files import TaskFolder, rename_figures
from app.jobs.keeper import SPOOL, Keeper
from app.jobs.page_store import PageStore
from app.jobs.pages import TaskPages
from app.jobs.passwords import keep_password, recall_password
from app.jobs.steps import Steps
from app.jobs.task import CANCELLED, Order, Task, TaskState, is_id
from app.jobs.task_store import TaskStore
from app.jobs.threads import Threads
from app.jobs.upload import fingerprint, open_upload, store_upload
from app.jobs.webhooks import Webhooks
from app.ocr.service import check_options
from app.reader import PageReader, ReadPage
from app.results.document import FolderPictures, Options, Pictures
from app.results.pages import PageResult
from app.results.pool import WriterPool

log = structlog.get_logger()
P = ParamSpec("P")
T = TypeVar("T")

_DATABASE = "tasks.sqlite"


@dataclass(frozen=True)
class DocumentLimits:
    """How much is kept: unfinished tasks, bytes on disk, days after the end (0: for ever)."""

    tasks: int
    bytes: int
    days: float


@dataclass(frozen=True)
class _Running:
    """What there is from `start` to `stop`."""

    threads: Threads
    tasks: TaskStore
    pages: PageStore
    downloads: Downloads
    keeper: Keeper


class Documents:
    """Tasks, durable from when `accept` has returned. `prepare`, then `start`; `stop` leaves unfinished ones for later.

    `database_url` empty means SQLite in `data`. `patience` is how many seconds a download waits for its file. `refusal`
    says why the engine reads nothing now. `observe` gets every page read and None for each that failed, `count` the
    number of tasks by state from time to time.
    """

    def __init__(
        self,
        engine: Engine,
        decoder: Decoder,
        reader: PageReader,
        writers: WriterPool,
        *,
        data: Path,
        database_url: str,
        limits: DocumentLimits,
        patience: float,
        webhooks: Webhooks,
        refusal: Callable[[], ServiceError | None],
        observe: Callable[[ReadPage | None], None],
        count: Callable[[dict[str, int]], None],
    ) -> None:
        self._engine = engine
        self._decoder = decoder
        self._reader = reader
        self._writers = writers
        self._data = data.absolute()
        self.spool = self._data / SPOOL
        self._database_url = database_url
        self._limits = limits
        self._patience = patience
        self._webhooks = webhooks
        self._refusal = refusal
        self._observe = observe
        self._count = count
        self._database: Database | None = None
        self._running: _Running | None = None

    def prepare(self) -> Database:
        """Open the folder and the database. Blocks; idempotent. Raises DatabaseUnavailable with a sentence."""
        if self._database is not None:
            return self._database
        try:
            self._data.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.spool.mkdir(mode=0o700, exist_ok=True)
            probe = self._data / f".{uuid.uuid4().hex}"
            probe.touch()
            probe.unlink()
        except OSError:
            raise DatabaseUnavailable(
                f"The folder {self._data} cannot be written. Set DATA_DIR to a folder that this user may write, "
                "or JOBS_ENABLED=false."
            ) from None
        self._database = Database(self._database_url, self._data / _DATABASE)
        return self._database

    async def start(self) -> None:
        """Go on with the tasks there are, and take new ones. Returns before DBOS is loaded."""
        database = await asyncio.to_thread(self.prepare)
        threads, tasks, pages = Threads(), TaskStore(database), PageStore(database)
        reading = TaskPages(threads, pages, self._reader, self._refusal, self._data, self._observe)
        downloads = Downloads(
            threads, tasks, pages, self._writers, self._data, room=self._limits.bytes, patience=self._patience
        )
        steps = Steps(threads, tasks, pages, reading, downloads, self._webhooks)
        keeper = Keeper(threads, database, tasks, reading, downloads, steps, self._data, self._limits.days, self._count)
        self._running = _Running(threads, tasks, pages, downloads, keeper)
        await keeper.start()

    async def stop(self) -> None:
        """Leave what is under way to the next start or to another replica. Idempotent."""
        running, self._running = self._running, None
        if running is not None:
            await running.keeper.stop()
            await running.downloads.stop()
            running.threads.close()
        if self._database is not None:
            self._database.close()
            self._database = None

    async def accept(self, order: Order, upload: BinaryIO, size: int | None) -> Task:
        """Write down a new document and return its task, or the task that has the same idempotency key.

        The upload is on disk and the task in the database when this returns. Raises what is wrong with the file, the
        options or the pages, and TooManyTasks, StorageFull or IdempotencyConflict.
        """
        check_options(self._engine, order.options)
        if order.webhook_url:
            await self._do(self._webhooks.check, order.webhook_url)
        if await self._do(self._live.tasks.total_bytes) + (size or 0) > self._limits.bytes:
            raise StorageFull
        task_id = str(uuid.uuid4())
        folder = TaskFolder(self._data, task_id)
        task: Task | None = None
        try:
            length, digest = await self._do(store_upload, upload, folder)
            pages, password = await open_upload(self._decoder, folder.source, order.password)
            numbers = ranges.parse(order.pages, pages)
            kept = await self._with_password(order, folder, password)
            task = await self._add(task_id, kept, numbers, length, fingerprint(digest, order))
        finally:
            if task is None or task.id != task_id:
                await asyncio.shield(self._do(folder.remove))
        if task.id == task_id:
            log.info("task_accepted", job=task_id, pages=len(numbers), bytes=length, priority=order.priority)
            await self._live.keeper.enqueue(task)
        return task

    async def keep(self, order: Order, upload: BinaryIO, read: ReadPage, queued: datetime) -> Task:
        """Write down a document of which one page was wanted and has been read, as a finished task."""
        if await self._do(self._live.tasks.total_bytes) > self._limits.bytes:
            raise StorageFull
        task_id = str(uuid.uuid4())
        folder = TaskFolder(self._data, task_id)
        page, pictures = rename_figures(PageResult.of(read.number, read.recognition, read.dpi), read.pictures)
        written = False
        try:
            length, _ = await self._do(store_upload, upload, folder)
            if order.password:
                _, password = await open_upload(self._decoder, folder.source, order.password)
                order = await self._with_password(order, folder, password)
            await self._do(folder.save_pictures, pictures)
            written = True
        except OSError as error:
            log.error("upload_not_written", reason=error.strerror)
            raise StorageFull from None
        finally:
            if not written:
                await asyncio.shield(self._do(folder.remove))
        # Should this break off after the first line, the keeper has the page read once more.
        await self._do(self._live.tasks.add, task_id, order, (read.number,), length, "", most=10**9, queued=queued)
        await self._do(self._live.tasks.start, task_id, 1)
        await self._do(self._live.pages.add, task_id, 1, page)
        added = sum(len(picture.jpeg) for picture in pictures)
        await self._do(self._live.tasks.end, task_id, 1, TaskState.SUCCEEDED, None, added)
        return await self.get(task_id)

    async def get(self, task_id: str) -> Task:
        """Return a task; raises TaskNotFound."""
        return await self._do(self._live.tasks.get, _checked(task_id))

    async def newest(self, limit: int, before: tuple[datetime, str] | None, state: TaskState | None) -> list[Task]:
        """Return tasks, newest first."""
        return await self._do(self._live.tasks.newest, limit, before, state)

    async def pages(self, task_id: str) -> list[PageResult]:
        """Return every page of a task that was written down, in order."""
        return await self._do(lambda: list(self._live.pages.all(task_id)))

    async def page(self, task: Task, number: int) -> tuple[PageResult | None, Pictures]:
        """Return a page of a task, None while it has not been read, and its figures; raises TaskPageNotFound."""
        if not ranges.holds(task.numbers, number):
            raise TaskPageNotFound
        page = await self._do(self._live.pages.get, task.id, number)
        return page, FolderPictures(TaskFolder(self._data, task.id).path)

    async def failed_pages(self, task_id: str) -> list[PageResult]:
        """Return the pages that were not read."""
        return await self._do(self._live.pages.failed, task_id)

    async def pages_since(self, task_id: str, sequence: int, limit: int) -> list[tuple[int, PageResult]]:
        """Return the pages written down after number `sequence` in the order of that, with their numbers."""
        return await self._do(self._live.pages.since, task_id, sequence, limit)

    async def pictures(self, task_id: str) -> list[str]:
        """Return the names of the figures of a task."""
        return await self._do(TaskFolder(self._data, task_id).pictures)

    async def file(self, task: Task, name: str, options: Options) -> Path:
        """Return a file of a task, written as `options` say; otherwise like `Downloads.file`."""
        return await self._live.downloads.file(task, name, options)

    async def draw_page(self, task: Task, number: int, width: int) -> bytes:
        """Return a page of a task as JPEG, at most `width` pixels across; raises TaskPageNotFound or TaskFileNotFound."""
        if not ranges.holds(task.numbers, number):
            raise TaskPageNotFound
        folder = TaskFolder(self._data, task.id)
        password = await self._do(recall_password, folder, task.order.password_half)
        try:
            return await self._reader.draw(folder.source, PageChoice(number, task.order.dpi, password), width)
        except FileNotFoundError:
            raise TaskFileNotFound("The document of this task is no longer there.") from None

    async def cancel(self, task_id: str) -> Task:
        """End a task with what it has; one that is finished stays as it is. Pages being read are aborted."""
        reason = (CANCELLED, "The task was cancelled by request.")
        ended = await self._do(self._live.tasks.end, _checked(task_id), None, TaskState.CANCELLED, reason)
        task = await self.get(task_id)
        if ended:
            self._live.keeper.stop_reading(task)
            log.info("task_cancelled", job=task.id, pages=task.done)
        return task

    async def retry(self, task_id: str) -> Task:
        """Read the pages again that failed or were never reached; raises TaskConflict where there are none."""
        task = await self._do(self._live.tasks.restart, _checked(task_id), self._limits.tasks)
        log.info("task_retried", job=task.id, run=task.run, pages=task.total - task.done)
        await self._live.keeper.enqueue(task)
        return task

    async def delete(self, task_id: str) -> None:
        """Forget a task, its pages and its files; one that is not finished is cancelled first."""
        await self._live.keeper.forget(await self.cancel(task_id))

    async def _add(self, task_id: str, order: Order, numbers: Sequence[int], length: int, found: str) -> Task:
        """Write down a task; when this is cancelled, it is not there."""
        adding = asyncio.ensure_future(
            self._do(self._live.tasks.add, task_id, order, numbers, length, found, self._limits.tasks)
        )
        try:
            return await asyncio.shield(adding)
        except asyncio.CancelledError:
            await asyncio.wait({adding})
            with contextlib.suppress(ServiceError):
                await self._do(self._live.tasks.remove, task_id)
            raise

    async def _with_password(self, order: Order, folder: TaskFolder, password: str) -> Order:
        """Return an order as it is kept, the password its document needs put away."""
        half = await self._do(keep_password, folder, password) if password else ""
        return replace(order, password="", password_half=half)

    @property
    def _live(self) -> _Running:
        if self._running is None:
            raise ShuttingDown
        return self._running

    async def _do(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._live.threads.run(function, *args, **kwargs)


def _checked(task_id: str) -> str:
    if not is_id(task_id):
        raise TaskNotFound
    return task_id
