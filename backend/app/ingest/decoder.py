"""The pool of worker processes that turn uploads into pages."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from app.engine.base import CutPage
from app.errors import DecodeTimeout, EngineNotReady, ServiceError, ShuttingDown, UnreadableImage, UnreadablePdf
from app.exchange import Exchange
from app.ingest.choice import FIRST_PAGE, PageChoice
from app.ingest.decode import is_pdf
from app.ingest.limits import IngestLimits
from app.ingest.picture import BoxOfPixels
from app.ingest.sandbox import crop_confined, cut_confined, decode_confined, draw_confined, prepare_process
from app.page import Page
from app.vllm_models.views import ViewOptions, Views
from app.workers import WorkerCrashed, WorkerJobFailed, WorkerProcess, WorkerTimeout

log = structlog.get_logger()


@dataclass(frozen=True)
class _Seat:
    """One worker and the file through which uploads and pages pass."""

    worker: WorkerProcess
    exchange: Exchange


class Decoder:
    """Decodes in `workers` processes side by side; a file that crashes or stalls one costs only its own request."""

    def __init__(self, limits: IngestLimits, workers: int) -> None:
        self._limits = limits
        self._stopped = False
        # The fork server imports the decoder once, so that a killed worker is back in milliseconds. It
        # imports what it finds installed; elsewhere a worker takes the time to import for itself.
        multiprocessing.set_forkserver_preload(["__main__", "app.ingest.sandbox"])
        self._seats = [_new_seat(f"decoder-{number}") for number in range(workers)]
        # The seat used last is warm, in memory and in cache: it is the first to be taken again.
        self._idle: asyncio.LifoQueue[_Seat] = asyncio.LifoQueue()
        for seat in self._seats:
            self._idle.put_nowait(seat)

    async def start(self) -> None:
        """Start every worker; without it, each starts with its first job."""
        await asyncio.gather(*(seat.worker.start() for seat in self._seats))

    async def decode(self, source: bytes | Path, choice: PageChoice = FIRST_PAGE) -> Page:
        """Return the chosen page of a file, given as its bytes or its path, after waiting for a free worker.

        Raises the ServiceError that says what is wrong with the file. When cancelled, the worker is
        killed and the next job gets a fresh one.
        """
        return Page(*await self._run(decode_confined, source, choice))

    async def cut(self, source: bytes | Path, choice: PageChoice, options: ViewOptions) -> CutPage:
        """Return the chosen page cut into views; otherwise as `decode`."""
        views, *facts = await self._run(cut_confined, source, choice, options)
        return CutPage(Views.lie_in(*views), *facts)

    async def crop(self, source: bytes | Path, choice: PageChoice, boxes: Sequence[BoxOfPixels]) -> list[bytes]:
        """Return these parts of the chosen page as JPEG; otherwise as `decode`."""
        return list(await self._run(crop_confined, source, choice, boxes))

    async def draw(self, source: Path, choice: PageChoice, width: int) -> bytes:
        """Return the chosen page as JPEG, at most `width` pixels across; otherwise as `decode`."""
        return bytes(await self._run(draw_confined, source, choice, width))

    async def stop(self) -> None:
        """Kill the workers; decodings that run or wait raise ShuttingDown. Idempotent."""
        self._stopped = True
        await asyncio.gather(*(seat.worker.stop() for seat in self._seats))

    async def _run(self, function: Callable[..., Any], source: bytes | Path, choice: PageChoice, *args: Any) -> Any:
        seat = await self._idle.get()
        try:
            if not seat.worker.alive:
                await self._start(seat.worker)
            return await self._run_at(seat, function, source, choice, *args)
        finally:
            self._idle.put_nowait(seat)

    async def _run_at(
        self, seat: _Seat, function: Callable[..., Any], source: bytes | Path, choice: PageChoice, *args: Any
    ) -> Any:
        limit = self._limits.decode_timeout
        sent = seat.exchange.ship(source) if isinstance(source, bytes) else source
        try:
            return await seat.worker.call(function, sent, self._limits, choice, *args, timeout=limit)
        except WorkerTimeout:
            log.warning("decoder_killed", reason="timeout", seconds=limit, bytes=_size(source))
            raise _too_slow(source, choice, limit) from None
        except WorkerCrashed as crash:
            if self._stopped:
                raise ShuttingDown from None
            log.warning("decoder_killed", reason="crash", exitcode=crash.exitcode, bytes=_size(source))
            raise _crashing(source, choice) from None
        except WorkerJobFailed as failure:
            log.error("decoder_failed", kind=failure.kind, trace=str(failure), bytes=_size(source))
            raise (UnreadablePdf if is_pdf(source) else UnreadableImage) from None

    async def _start(self, worker: WorkerProcess) -> None:
        """Start `worker`; a failure here is the machine's, not the file's."""
        try:
            await worker.start()
        except (WorkerCrashed, WorkerTimeout, WorkerJobFailed, OSError) as error:
            if self._stopped:
                raise ShuttingDown from None
            log.error("decoder_not_started", kind=type(error).__name__, trace=str(error))
            raise EngineNotReady(
                "No decoder could be started for the picture. Send the request again after the time in Retry-After."
            ) from None


def _new_seat(name: str) -> _Seat:
    exchange = Exchange()
    return _Seat(WorkerProcess(name, prepare_process, (exchange,)), exchange)


def _size(source: bytes | Path) -> int:
    return len(source) if isinstance(source, bytes) else source.stat().st_size


def _too_slow(source: bytes | Path, choice: PageChoice, seconds: float) -> DecodeTimeout:
    if is_pdf(source):
        return DecodeTimeout(
            f"Rendering page {choice.number:,} of the PDF took longer than {seconds:g} s and was given up. "
            "Ask for a lower dpi, or print the page to a new PDF."
        )
    return DecodeTimeout(
        f"Decoding the picture took longer than {seconds:g} s and was given up. Save it again as JPEG or PNG, or smaller."
    )


def _crashing(source: bytes | Path, choice: PageChoice) -> ServiceError:
    if is_pdf(source):
        return UnreadablePdf(
            f"Page {choice.number:,} of the PDF is damaged, or takes more memory to render than the service allows. "
            "Ask for a lower dpi, or print the page to a new PDF."
        )
    return UnreadableImage("The picture crashed its decoder. Save it again as JPEG or PNG and send that.")
