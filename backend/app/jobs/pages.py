"""Reads the pages of tasks, one call a page, and writes each down before it counts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

import structlog

from app.errors import (
    EngineFailed,
    EngineNotReady,
    InternalError,
    OutOfMemory,
    ServiceError,
    ShuttingDown,
    StorageFull,
)
from app.ingest.choice import PageChoice
from app.jobs.files import TaskFolder, rename_figures
from app.jobs.page_store import PageStore
from app.jobs.passwords import recall_password
from app.jobs.task import Run, Task
from app.jobs.threads import Threads
from app.jobs.turns import Turns
from app.reader import PageReader, Picture, ReadPage, log_page
from app.results.pages import PageFailure, PageResult

log = structlog.get_logger()

# A page under which the engine dies this many times is taken for the cause.
MOST_ENGINE_FAILURES = 3
_ENGINE_POLL_SECONDS = 0.25


class TaskPages:
    """Reads pages in turns; `refusal` says why the engine reads nothing now, None while it does."""

    def __init__(
        self,
        threads: Threads,
        pages: PageStore,
        reader: PageReader,
        refusal: Callable[[], ServiceError | None],
        data: Path,
        observe: Callable[[ReadPage | None], None],
    ) -> None:
        self._threads = threads
        self._pages = pages
        self._reader = reader
        self._refusal = refusal
        self._data = data
        self._observe = observe
        self._reading: dict[Run, set[asyncio.Task[object]]] = {}
        self.turns = Turns(reader.background_pages)

    async def read(self, task: Task, number: int) -> bool:
        """Read a page, write it down, and say whether its task still wants pages.

        What is wrong with the page is written down in its place. Cancelling this, or `stop`, leaves no trace of it.
        """
        reading: asyncio.Task[object] = asyncio.ensure_future(self._read(task, number))
        run = (task.id, task.run)
        of_run = self._reading.setdefault(run, set())
        of_run.add(reading)
        try:
            await asyncio.wait({reading})
            return bool(reading.result()) if not reading.cancelled() else False
        finally:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({reading})
            of_run.discard(reading)
            if not of_run:
                self._reading.pop(run, None)

    def stop(self, run: Run) -> None:
        """Abort the pages of a run that are being read, and have it wait for no more."""
        self.turns.hurry(run)
        for reading in self._reading.get(run, ()):
            reading.cancel()

    @property
    def active(self) -> list[Run]:
        """The runs of which pages are being read, or wait for it."""
        return list(self._reading.keys() | self.turns.waiting)

    async def _read(self, task: Task, number: int) -> bool:
        folder = TaskFolder(self._data, task.id)
        with structlog.contextvars.bound_contextvars(job=task.id, page=number):
            try:
                read = await self._recognise(task, number, folder)
            except ShuttingDown:
                await asyncio.Event().wait()  # until this is cancelled: the page is read after the next start
                raise
            except ServiceError as error:
                log.warning("page_failed", code=error.code)
                self._observe(None)
                result = PageResult(number, failure=PageFailure(error.code, error.detail))
            except Exception:
                log.exception("page_failed", code=InternalError.code)
                self._observe(None)
                result = PageResult(number, failure=PageFailure(InternalError.code, InternalError.default_detail))
            else:
                result = PageResult.of(number, read.recognition, read.dpi)
                result, pictures = rename_figures(result, read.pictures)
                result = await self._with_pictures(folder, result, pictures)
                self._observe(None if result.failure else read)
                log_page(read)
            return await self._threads.insist(self._pages.add, task.id, task.run, result)

    async def _with_pictures(self, folder: TaskFolder, page: PageResult, pictures: tuple[Picture, ...]) -> PageResult:
        """Write the figures of a page, and return the page, or why it cannot be kept."""
        try:
            if pictures:
                await self._threads.run(folder.save_pictures, pictures)
        except OSError as error:
            log.error("page_failed", code=StorageFull.code, reason=error.strerror)
            return PageResult(page.number, failure=PageFailure(StorageFull.code, StorageFull.default_detail))
        return page

    async def _recognise(self, task: Task, number: int, folder: TaskFolder) -> ReadPage:
        """Read a page, waiting while the engine is away."""
        order, failures = task.order, 0
        password = await self._threads.run(recall_password, folder, order.password_half)
        choice = PageChoice(number, order.dpi, password)
        while True:
            while self._refusal() is not None:  # noqa: ASYNC110 - engines are only asked
                await asyncio.sleep(_ENGINE_POLL_SECONDS)
            try:
                return await self._reader.read_in_background(
                    folder.source, choice, order.options, f"{task.id}-{number}"
                )
            except EngineNotReady:
                await asyncio.sleep(_ENGINE_POLL_SECONDS)
            except (EngineFailed, OutOfMemory):
                failures += 1
                if failures == MOST_ENGINE_FAILURES:
                    raise
                await asyncio.sleep(failures)
