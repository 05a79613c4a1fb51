"""Documents through a service and their results into files, a few documents at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from app.batch.arguments import FORMATS
from app.batch.documents import Document, Records, fingerprint
from deepseek_ocr import AsyncClient, OcrError, PageFailure, Task, TaskPage

_LINK = "](images/"


@dataclass(frozen=True)
class Outcome:
    """What became of a document: its files, the pages that were not read, or why all of it was not."""

    document: Document
    files: tuple[Path, ...] = ()
    pages: int = 0
    failed: tuple[PageFailure, ...] = ()
    error: str = ""
    skipped: bool = False

    @property
    def good(self) -> bool:
        return not self.failed and not self.error


@dataclass(frozen=True)
class Job:
    """A document, the digest of its bytes and of how it is read, how it is written, and the file of each format."""

    document: Document
    digest: str
    tidy: str
    files: Mapping[str, Path]

    @classmethod
    def of(
        cls,
        document: Document,
        out: Path,
        formats: Sequence[str],
        options: Mapping[str, Any],
        tidy: Mapping[str, bool],
    ) -> Job:
        """Return what is to be done; raises OSError when the document cannot be read.

        Two copies of one file are two documents: the name counts too.
        """
        digest = fingerprint(document.path, {**options, "document": str(document.name)})
        files = {name: out / document.name.with_name(f"{document.name.name}.{FORMATS[name]}") for name in formats}
        return cls(document, digest, " ".join(sorted(tidy)), files)

    def missing(self, records: Records) -> list[str]:
        """Return the formats that are still to be written."""
        written = records.written(self.document, self.digest)
        return [name for name, file in self.files.items() if written.get(name) != self.tidy or not file.is_file()]


class Report(Protocol):
    """Who is told how it goes."""

    def begun(self, document: Document, done: int, total: int) -> None:
        """Pages of a document are being read; `done` were before."""

    def page(self, document: Document, page: TaskPage) -> None:
        """One more page is behind it."""

    def ended(self, outcome: Outcome) -> None:
        """A document is done, or given up."""


@dataclass(frozen=True)
class Batch:
    """How documents are read and written; `options` are the fields of POST /api/ocr/pdf, `tidy` parameters of its files."""

    client: AsyncClient
    out: Path
    options: Mapping[str, Any]
    tidy: Mapping[str, bool]
    report: Report

    async def read(self, jobs: Sequence[Job], at_once: int) -> list[Outcome]:
        """Read documents, `at_once` side by side, and return what became of them, in order."""
        places = asyncio.Semaphore(at_once)
        return list(await asyncio.gather(*(self._read_in_turn(job, places) for job in jobs)))

    async def _read_in_turn(self, job: Job, places: asyncio.Semaphore) -> Outcome:
        async with places:
            try:
                outcome = await self._read(job)
            except OSError as error:
                outcome = Outcome(job.document, error=explain(error))
            except OcrError as error:
                outcome = Outcome(job.document, error=str(error))
        self.report.ended(outcome)
        return outcome

    async def _read(self, job: Job) -> Outcome:
        task = await self._finished(job)
        if task.status != "succeeded":
            return Outcome(job.document, failed=task.failed_pages, error=task.error or "The service gave it up.")
        await self._download(task, job)
        if not task.failed_pages:
            await self.client.delete(task)
        return Outcome(job.document, tuple(job.files.values()), task.progress.total, task.failed_pages)

    async def _finished(self, job: Job) -> Task:
        """Have a document read to its end: from the beginning, or from where it was left."""
        task = await self.client.submit(job.document.path, idempotency_key=job.digest, **self.options)
        if task.finished and (task.status == "failed" or task.failed_pages):
            task = await self.client.retry(task)
        self.report.begun(job.document, task.progress.done, task.progress.total)
        last = task
        async for part in self.client.follow(task):
            if isinstance(part, TaskPage):
                self.report.page(job.document, part)
            else:
                last = part
        return last

    async def _download(self, task: Task, job: Job) -> None:
        """Fetch the formats that are missing; each is noted at once, unless a page failed that the next run reads again."""
        records = Records(self.out)
        written = await asyncio.to_thread(records.written, job.document, job.digest)
        missing = await asyncio.to_thread(job.missing, records)
        # First, since what was read in another way is written over from here on.
        await asyncio.to_thread(records.keep, job.document, job.digest, written)
        for name in missing:
            file = job.files[name]
            file.parent.mkdir(parents=True, exist_ok=True)
            await self.client.download(task, name, file, **self.tidy)
            if name == "markdown":
                await self._download_figures(task, job.document, file)
            written[name] = job.tidy
            if not task.failed_pages:
                await asyncio.to_thread(records.keep, job.document, job.digest, written)

    async def _download_figures(self, task: Task, document: Document, markdown: Path) -> None:
        """Put figures into a folder of the document's own, and let its Markdown link to them there."""
        prefix = f"/api/tasks/{task.id}/download/"
        names = [url.removeprefix(prefix) for url in task.json["result"]["image_urls"]]
        if not names:
            return
        folder = self.out / document.name
        (folder / "images").mkdir(parents=True, exist_ok=True)
        for name in names:
            await self.client.download(task, name, folder / name)
        await asyncio.to_thread(_relink, markdown, document.name.name)


def _relink(markdown: Path, folder: str) -> None:
    """Let links to figures lead into `folder`."""
    text = markdown.read_text("utf-8")
    markdown.write_text(text.replace(_LINK, f"]({quote(folder)}/images/"), "utf-8")


def explain(error: OSError) -> str:
    """Return what a person is told of a file that cannot be read or written."""
    return f"{error.strerror or type(error).__name__}: {error.filename}"
