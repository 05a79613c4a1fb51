"""The RapidOCR engine: the Engine Protocol on the service's side of the worker process."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from importlib.metadata import PackageNotFoundError, version

import structlog

from app.engine.base import Capabilities, Chunk, EngineState, Finish, GenerationRequest, Health
from app.engine.rapidocr import worker
from app.errors import EngineFailed, EngineNotReady, EngineStartError, OutOfMemory
from app.exchange import Exchange
from app.page import Page
from app.workers import WorkerCrashed, WorkerJobFailed, WorkerProcess, WorkerTimeout

log = structlog.get_logger()

MODES = frozenset({"plain_ocr", "multilingual", "markdown", "find_ref", "layout_map", "pii_redact"})

_START_TIMEOUT = 120.0

# Finding the lines of the largest page, or reading one batch of them, takes a few seconds on a slow machine. Well
# below a request's own timeout, or a hung process would outlive the requests that wait for it.
_STALL_TIMEOUT = 60.0


class RapidOcrEngine:
    """Reads pages on the CPU with RapidOCR in one worker process, one page at a time.

    `threads` 0 means all cores this process may use. A page that shows no progress for
    `stall_timeout` seconds fails and its process is killed. The engine has no tokens: it ignores
    a request's `max_tokens`, and its `usage` is empty.
    """

    name = "rapidocr"

    def __init__(self, threads: int = 0, stall_timeout: float = _STALL_TIMEOUT) -> None:
        self.model = f"PP-OCRv6 small ({_rapidocr_version()}, openvino)"
        self._threads = threads
        self._stall_timeout = stall_timeout
        self._exchange = Exchange()
        self._worker: WorkerProcess | None = None

    def capabilities(self) -> Capabilities:
        return Capabilities(modes=MODES, prompted=False, concurrency=1)

    def health(self) -> Health:
        if self._worker is None:
            return Health(EngineState.STARTING)
        if not self._worker.alive:
            return Health(EngineState.FAILED, "The OCR engine stopped and is being restarted.")
        return Health(EngineState.READY)

    async def start(self) -> None:
        process = WorkerProcess("rapidocr", worker.load, (self._threads, self._exchange), _START_TIMEOUT)
        try:
            await process.start()
            self._worker = process
        except (WorkerCrashed, WorkerTimeout, WorkerJobFailed) as error:
            log.error("engine_load_failed", kind=type(error).__name__, trace=str(error))
            raise EngineStartError from None
        finally:
            if self._worker is not process:
                await process.stop()

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        process = self._worker
        if process is None or not process.alive:
            raise EngineNotReady
        assert isinstance(request.page, Page), "only a ViewEngine gets views"
        pixels = self._exchange.ship(request.page.pixels)
        job = worker.Job(request.mode, request.grounding, request.find_term or "")
        try:
            async with contextlib.aclosing(
                process.stream(worker.read_page, pixels, job, timeout=self._stall_timeout)
            ) as items:
                async for item in items:
                    if isinstance(item, Finish):
                        yield Chunk("", item)
                    elif item:
                        yield Chunk(item)
        except (WorkerCrashed, WorkerTimeout) as error:
            log.error("engine_worker_lost", kind=type(error).__name__, reason=str(error))
            raise EngineFailed from None
        except (OutOfMemory, WorkerJobFailed) as failure:
            # What failed halfway is not to be used again: after it had run out of memory, OpenVINO was seen to
            # return other text for the pages that followed. The supervisor starts a new process.
            await process.stop()
            if isinstance(failure, OutOfMemory) or failure.kind == "MemoryError":
                raise OutOfMemory from None
            log.error("engine_job_failed", kind=failure.kind, trace=str(failure))
            raise EngineFailed("The OCR engine failed on this page. Send it again, or as another format.") from None

    async def stop(self) -> None:
        stopping, self._worker = self._worker, None
        if stopping is not None:
            await stopping.stop()


def _rapidocr_version() -> str:
    try:
        return f"rapidocr {version('rapidocr')}"
    except PackageNotFoundError:
        return "rapidocr"
