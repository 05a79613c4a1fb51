"""Files of tasks: written once, kept, counted, and gone with the task; a writer that dies costs its own file."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import structlog

from app.errors import (
    InvalidPath,
    ResultFailed,
    ResultNotReady,
    ResultTimeout,
    ServiceError,
    StorageFull,
    TaskFileNotFound,
)
from app.ingest.limits import IngestLimits
from app.jobs.database import Database
from app.jobs.downloads import READY, Downloads
from app.jobs.files import TaskFolder, archive_name, stem
from app.jobs.page_store import PageStore
from app.jobs.task import Order, Task, TaskState
from app.jobs.task_store import TaskStore
from app.jobs.threads import Threads
from app.ocr.service import RecogniseOptions
from app.results.document import Document, NoPictures, Options
from app.results.pages import PageFailure, PageResult
from app.results.pool import WriterPool
from app.results.writers import FORMATS
from tests.serving import png

LIMITS = IngestLimits(1_000_000, 10, 20)
PLAIN = Options()


def page(number: int, text: str = "A har-\nbour.", **values: Any) -> PageResult:
    return PageResult(number, text=text, raw_text=text, mode="markdown", width=40, height=20, **values)


class Kept:
    """A task in a database of its own, and what writes its files."""

    def __init__(self, folder: Path, room: int = 10**9, patience: float = 60.0) -> None:
        self.data = folder
        self.database = Database("", folder / "tasks.sqlite")
        self.threads = Threads()
        self.tasks, self.pages = TaskStore(self.database), PageStore(self.database)
        self.pool = WriterPool(LIMITS)
        self.downloads = Downloads(
            self.threads, self.tasks, self.pages, self.pool, folder, room=room, patience=patience
        )

    def task(self, *pages: PageResult, name: str = "book.png", end: TaskState = TaskState.SUCCEEDED) -> Task:
        task_id = str(uuid.uuid4())
        folder = TaskFolder(self.data, task_id)
        folder.make()
        folder.source.write_bytes(png())
        numbers = range(1, len(pages) + 1)
        self.tasks.add(task_id, Order("pdf", name, RecogniseOptions()), numbers, len(png()), "", 100)
        for one in pages:
            self.pages.add(task_id, 1, one)
        if end not in (TaskState.PENDING, TaskState.RUNNING):
            self.tasks.end(task_id, 1, end, None)
        return self.tasks.get(task_id)


@contextlib.asynccontextmanager
async def keeping(folder: Path, **values: Any) -> AsyncIterator[Kept]:
    kept = Kept(folder, **values)
    try:
        yield kept
    finally:
        await kept.downloads.stop()
        await kept.pool.stop()
        kept.threads.close()
        kept.database.close()


def files(kept: Kept, task: Task) -> list[str]:
    folder = TaskFolder(kept.data, task.id).path
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


async def test_a_file_is_written_once_for_all_who_ask_at_the_same_time(tmp_path: Path) -> None:
    """And counted; the next one finds it."""
    async with keeping(tmp_path) as kept:
        task = kept.task(page(1))
        with structlog.testing.capture_logs() as logged:
            found = await asyncio.gather(*(kept.downloads.file(task, "result.txt", PLAIN) for _ in range(5)))
            found.append(await kept.downloads.file(task, "result.txt", PLAIN))
        assert [entry["event"] for entry in logged] == ["result_written"]
        assert {path.read_text() for path in found} == {"A har-\nbour.\n"}
        assert files(kept, task) == ["made/1/plain/result.txt", "source"]
        assert kept.tasks.get(task.id).bytes == task.bytes + found[0].stat().st_size


async def test_files_of_other_options_are_other_files(tmp_path: Path) -> None:
    async with keeping(tmp_path) as kept:
        task = kept.task(page(1))
        joined = await kept.downloads.file(task, "result.md", replace(PLAIN, join_hyphens=True))
        plain = await kept.downloads.file(task, "result.md", PLAIN)
        assert joined.read_text() == "<!-- Page 1 -->\n\nA harbour.\n"
        assert plain.read_text() == "<!-- Page 1 -->\n\nA har-\nbour.\n"


async def test_what_old_front_ends_offer_is_there_at_the_end(tmp_path: Path) -> None:
    """What was written before a retry is not."""
    async with keeping(tmp_path) as kept:
        task = kept.task(page(1))
        old = TaskFolder(tmp_path, task.id).made(0, PLAIN, "result.docx")
        old.parent.mkdir(parents=True)
        old.touch()
        size = await kept.downloads.finish(task)
        assert files(kept, task) == [
            *(f"made/1/plain/{name}" for name in ("raw.json", "result.md", "result.zip")),
            "source",
        ]
        assert size == sum((TaskFolder(tmp_path, task.id).path / name).stat().st_size for name in files(kept, task))
        assert {FORMATS[name].file_name for name in READY} == {"raw.json", "result.md", "result.zip"}


async def test_tasks_of_which_no_page_was_read_have_no_files(tmp_path: Path) -> None:
    """A cancelled one has those of the pages it came to."""
    failed = PageResult(1, failure=PageFailure("out_of_memory", "No memory."))
    async with keeping(tmp_path) as kept:
        for task in (
            kept.task(page(1), end=TaskState.RUNNING),
            kept.task(end=TaskState.CANCELLED),
            kept.task(failed, end=TaskState.FAILED),
        ):
            with pytest.raises(TaskFileNotFound):
                await kept.downloads.file(task, "result.md", PLAIN)
            assert files(kept, task) == ["source"]
        cancelled = kept.task(page(1), end=TaskState.CANCELLED)
        assert "A har-" in (await kept.downloads.file(cancelled, "result.txt", PLAIN)).read_text()


async def test_past_the_limit_of_the_disk_no_file_is_written(tmp_path: Path) -> None:
    async with keeping(tmp_path, room=100) as kept:
        task = kept.task(page(1))
        await kept.downloads.file(task, "result.txt", PLAIN)
        big = kept.task(page(1))
        kept.tasks.add_bytes(big.id, 200)
        with pytest.raises(StorageFull):
            await kept.downloads.file(task, "result.html", PLAIN)


async def test_who_does_not_wait_long_enough_finds_the_file_later(tmp_path: Path) -> None:
    async with keeping(tmp_path, patience=0.0) as kept:
        task = kept.task(page(1))
        with pytest.raises(ResultNotReady):
            await kept.downloads.file(task, "result.docx", PLAIN)
        deadline = time.monotonic() + 60
        while "made/1/plain/result.docx" not in files(kept, task) and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        assert (await kept.downloads.file(task, "result.docx", PLAIN)).read_bytes()[:2] == b"PK"


async def test_a_task_that_goes_takes_what_is_being_written_with_it(tmp_path: Path) -> None:
    async with keeping(tmp_path) as kept:
        task = kept.task(page(1))
        folder = TaskFolder(tmp_path, task.id)
        asking = asyncio.ensure_future(kept.downloads.file(task, "all.zip", PLAIN))
        while not (asking.done() or any(path.is_dir() for path in folder.path.iterdir())):  # one, until it is written
            await asyncio.sleep(0)
        await kept.downloads.forget(task.id)
        folder.remove()
        with pytest.raises(TaskFileNotFound):
            await asking
        assert not folder.path.exists()
        with pytest.raises(TaskFileNotFound):  # by a replica that does not know yet
            await kept.downloads.file(task, "result.txt", PLAIN)


@pytest.mark.parametrize(
    "name", ["made/1/plain/result.md", "source", "images", "images/page-01-img-1.jpg", "pages.jsonl", "résumé.md"]
)
async def test_only_formats_and_figures_have_an_address(tmp_path: Path, name: str) -> None:
    async with keeping(tmp_path) as kept:
        task = kept.task(page(1))
        await kept.downloads.file(task, "result.md", PLAIN)
        with pytest.raises(TaskFileNotFound):
            await kept.downloads.file(task, name, PLAIN)


@pytest.mark.parametrize(
    "name", ["../tasks.sqlite", "images/../source", "result.md\0", "..\\source", "", "/etc/passwd", "./result.md"]
)
async def test_an_address_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    async with keeping(tmp_path) as kept:
        with pytest.raises(InvalidPath):
            await kept.downloads.file(kept.task(page(1)), name, PLAIN)


@dataclass(frozen=True)
class BadPages:
    """Pages under which a writer dies, hangs, or fails; `how` says which."""

    how: str

    def __iter__(self) -> Iterator[PageResult]:
        yield page(1)
        if self.how == "dies":
            os._exit(3)
        if self.how == "hangs":
            time.sleep(600)
        if self.how == "takes all memory":
            held = [bytearray(2**28) for _ in range(1000)]
            yield page(len(held))
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("how", "error"),
    [("dies", ResultFailed), ("hangs", ResultTimeout), ("takes all memory", ResultFailed), ("no room", StorageFull)],
)
async def test_a_writer_that_fails_costs_its_own_file(
    tmp_path: Path, how: str, error: type[ServiceError], monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "hangs":
        monkeypatch.setattr("app.results.pool._SECONDS", 3.0)
    pool = WriterPool(LIMITS)
    try:
        other = pool.write(
            Document("t", (page(1),)), {"text": tmp_path / "good.txt"}, NoPictures(), PLAIN, pages=1, background=True
        )
        bad = pool.write(Document("t", BadPages(how)), {"text": tmp_path / "bad.txt"}, NoPictures(), PLAIN, pages=1)
        outcomes = await asyncio.gather(bad, other, return_exceptions=True)
        assert (type(outcomes[0]), outcomes[1]) == (error, len("A har-\nbour.\n"))
        assert await pool.write(
            Document("t", (page(1),)), {"text": tmp_path / "again.txt"}, NoPictures(), PLAIN, pages=1
        ) == len("A har-\nbour.\n")
    finally:
        await pool.stop()


@pytest.mark.parametrize(
    ("upload", "name", "archive"),
    [
        ("book.pdf", "book", "book_PDF_OCR_Result.zip"),
        ("", "", "result.zip"),
        ("../../etc/passwd", "passwd", "passwd_PDF_OCR_Result.zip"),
        ("..\\..\\boot.ini", "boot", "boot_PDF_OCR_Result.zip"),
        ("..", "", "result.zip"),
        (".pdf", "pdf", "pdf_PDF_OCR_Result.zip"),
        ("a\0b\r\nc.pdf", "a_b__c", "a_b__c_PDF_OCR_Result.zip"),
        ("港口 2026.pdf", "港口 2026", "港口 2026_PDF_OCR_Result.zip"),
        ("gpj\u202egnp.pdf", "gpj_gnp", "gpj_gnp_PDF_OCR_Result.zip"),
        ('"quoted"; filename=x.pdf', "_quoted_; filename=x", "_quoted_; filename=x_PDF_OCR_Result.zip"),
        ("half \ud83d.pdf", "half _", "half __PDF_OCR_Result.zip"),
        ("x" * 300 + ".pdf", "x" * 100, "x" * 100 + "_PDF_OCR_Result.zip"),
    ],
)
def test_names_of_uploads_become_names_of_files(upload: str, name: str, archive: str) -> None:
    assert (stem(upload), archive_name(upload)) == (name, archive)
