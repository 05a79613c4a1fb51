"""The files of finished tasks, written when they are first asked for and kept with the task."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping
from pathlib import Path

import structlog

from app.errors import QueueFull, ResultNotReady, ServiceError, StorageFull, TaskFileNotFound
from app.jobs.files import TaskFolder, archive_name, check_path, keep
from app.jobs.page_store import PageStore
from app.jobs.passwords import recall_password
from app.jobs.task import Task
from app.jobs.task_store import TaskStore
from app.jobs.threads import Threads
from app.results.document import Document, FolderPictures, Options, StoredPages
from app.results.pool import WriterPool
from app.results.writers import FORMATS

log = structlog.get_logger()

READY = ("markdown", "json", "archive")
"""The formats that are there when a task ends: old front ends offer nothing else, however long the document is."""

_FORMAT_OF = {found.file_name: found.name for found in FORMATS.values()}
_MOST_WAITING = 64


class Downloads:
    """Writes files of tasks; whoever asks for one that is being written waits for it.

    A file that was begun is finished although nobody waits any more: who asks again, after `patience` seconds
    without an answer, finds it. `room` is how many bytes all tasks may take.
    """

    def __init__(
        self,
        threads: Threads,
        tasks: TaskStore,
        pages: PageStore,
        pool: WriterPool,
        data: Path,
        *,
        room: int,
        patience: float,
    ) -> None:
        self._run = threads.run
        self._tasks = tasks
        self._pages = pages
        self._pool = pool
        self._data = data
        self._room = room
        self._patience = patience
        self._writing: dict[tuple[str, Path], asyncio.Task[None]] = {}

    async def file(self, task: Task, name: str, options: Options) -> Path:
        """Return a file of a task by its address within it.

        Raises InvalidPath, TaskFileNotFound, ResultNotReady, QueueFull, and what writing it raises.
        """
        check_path(name)
        folder = TaskFolder(self._data, task.id)
        format_name = "archive" if name == archive_name(task.order.name) else _FORMAT_OF.get(name)
        if not task.has_result:
            raise TaskFileNotFound
        if format_name is None:
            return await self._run(folder.picture, name)
        target = folder.made(task.run, options, FORMATS[format_name].file_name)
        if not await self._run(target.is_file):
            await self._written(task, format_name, options, target)
        return target

    async def finish(self, task: Task) -> int:
        """Write what is to be there when a task ends, and return how many bytes its folder has.

        What cannot be written now is tried again when it is asked for: the pages are safe.
        """
        folder = TaskFolder(self._data, task.id)
        await self._run(folder.remove_made, task.run)
        try:
            if task.done > task.failed:
                await self._write(task, READY, Options(), background=False)
        except (ServiceError, OSError) as error:
            log.warning("result_not_written", job=task.id, kind=type(error).__name__)
        return await self._run(folder.size)

    async def forget(self, task_id: str) -> None:
        """Stop writing files of a task."""
        writing = [job for (of, _), job in self._writing.items() if of == task_id]
        for job in writing:
            job.cancel()
        await asyncio.gather(*writing, return_exceptions=True)

    async def stop(self) -> None:
        """Stop writing."""
        for task_id in {task_id for task_id, _ in self._writing}:
            await self.forget(task_id)

    async def _written(self, task: Task, format_name: str, options: Options, target: Path) -> None:
        """Wait for a file that is being written, or is now."""
        key = (task.id, target)
        job = self._writing.get(key)
        if job is None:
            if len(self._writing) >= _MOST_WAITING:
                raise QueueFull
            job = asyncio.create_task(self._add(task, format_name, options))
            self._writing[key] = job
            job.add_done_callback(lambda ended: self._ended(key, ended))
        await asyncio.wait({job}, timeout=self._patience)
        if not job.done():
            raise ResultNotReady
        if job.cancelled():
            raise TaskFileNotFound
        job.result()

    def _ended(self, key: tuple[str, Path], job: asyncio.Task[None]) -> None:
        del self._writing[key]
        if not job.cancelled():
            job.exception()  # asked for, or asyncio logs it as forgotten where nobody waits any more

    async def _add(self, task: Task, format_name: str, options: Options) -> None:
        if await self._run(self._tasks.total_bytes) > self._room:
            raise StorageFull
        try:
            size = await self._write(task, (format_name,), options, background=True)
        except FileNotFoundError:  # the task was deleted, here or by another replica
            raise TaskFileNotFound from None
        except OSError as error:
            log.error("result_not_written", job=task.id, format=format_name, reason=error.strerror)
            raise StorageFull from None
        await self._run(self._tasks.add_bytes, task.id, size)
        log.info("result_written", job=task.id, format=format_name, bytes=size)

    async def _write(self, task: Task, formats: tuple[str, ...], options: Options, *, background: bool) -> int:
        """Write files where nobody sees them, then put them in their places; return their size."""
        folder = TaskFolder(self._data, task.id)
        scratch = await self._run(folder.make_scratch)
        try:
            pages = await self._run(_store_pages, scratch, self._pages, task.id)
            password = await self._run(recall_password, folder, task.order.password_half)
            document = Document(task.order.name or "Document", pages, folder.source, password)
            targets = {name: scratch / FORMATS[name].file_name for name in formats}
            size = await self._pool.write(
                document, targets, FolderPictures(folder.path), options, pages=task.done, background=background
            )
            places = {file: folder.made(task.run, options, file.name) for file in targets.values()}
            await self._run(_keep_all, places)
            return size
        finally:
            await asyncio.shield(self._run(shutil.rmtree, scratch, True))


def _store_pages(scratch: Path, store: PageStore, task_id: str) -> StoredPages:
    return StoredPages.store(scratch / "pages.jsonl", store.all(task_id))


def _keep_all(places: Mapping[Path, Path]) -> None:
    for file, target in places.items():
        keep(file, target)
