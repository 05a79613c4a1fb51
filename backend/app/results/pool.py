"""The pool of worker processes that write documents."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import structlog

from app.errors import ResultFailed, ResultTimeout, ShuttingDown
from app.ingest.limits import IngestLimits
from app.ingest.sandbox import memory_allowance
from app.places import Places
from app.results.document import Document, Options, Pictures
from app.results.sandbox import prepare_process, write_confined
from app.workers import WorkerCrashed, WorkerJobFailed, WorkerProcess, WorkerTimeout

log = structlog.get_logger()

_WORKERS = 3
# A page takes up to 15 ms, and of a searchable PDF 130 ms, on two busy cores.
_SECONDS, _SECONDS_FOR_PAGE = 60.0, 2.0


class WriterPool:
    """Writes up to three documents side by side, two at most in the background; each process starts when it is needed.

    A document that crashes or stalls its process costs only its own files.
    """

    def __init__(self, limits: IngestLimits) -> None:
        self._limits = limits
        self._stopped = False
        self._places = Places(_WORKERS, reserved=1)
        self._workers = [WorkerProcess(f"writer-{number}", prepare_process) for number in range(_WORKERS)]
        # The one used last has everything imported: it is the first to be taken again.
        self._idle = list(self._workers)

    async def stop(self) -> None:
        """Kill every worker; what is being written raises ShuttingDown. Idempotent."""
        self._stopped = True
        await asyncio.gather(*(worker.stop() for worker in self._workers))

    async def write(
        self,
        document: Document,
        targets: Mapping[str, Path],
        pictures: Pictures,
        options: Options,
        *,
        pages: int,
        background: bool = False,
    ) -> int:
        """Write a document of `pages` pages as `write_all` does, and return the size of the files together.

        Raises ResultTimeout, ResultFailed, StorageFull and what is wrong with the upload. Cancelling it kills the worker.
        """
        options = replace(options, max_pixels=self._limits.max_pixels)
        upload = document.source.stat().st_size if document.source else 0
        allowance = memory_allowance(upload, self._limits)
        seconds = _SECONDS + _SECONDS_FOR_PAGE * pages
        async with self._places.held(background):
            worker = self._idle.pop()
            try:
                size = await worker.call(
                    write_confined, document, targets, pictures, options, allowance, timeout=seconds
                )
                return int(size)
            except WorkerTimeout:
                log.warning("writer_killed", reason="timeout", seconds=seconds, formats=list(targets))
                raise ResultTimeout from None
            except WorkerCrashed as crash:
                if self._stopped:
                    raise ShuttingDown from None
                log.warning("writer_killed", reason="crash", exitcode=crash.exitcode, formats=list(targets))
                raise ResultFailed from None
            except WorkerJobFailed as failure:
                log.error("writer_failed", kind=failure.kind, trace=str(failure), formats=list(targets))
                raise ResultFailed from None
            except OSError as error:
                log.error("writer_not_started", reason=error.strerror)
                raise ResultFailed from None
            finally:
                self._idle.append(worker)
