"""From an upload to a recognition, within bounds: pages in memory, engine places and time."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from app.engine.base import Engine
from app.errors import EngineFailed, RecognitionTimeout
from app.ingest.choice import PageChoice
from app.ingest.decoder import Decoder
from app.ocr.service import RecogniseOptions, Recognition, Restart, check_options, recognise_stream

Load = Callable[[], Awaitable[bytes]]
T = TypeVar("T")


@dataclass(frozen=True)
class ReadPage:
    """Page `number` of a file of `pages`, read, with the time in ms of every stage from upload to text.

    `dpi` is at how many dots per inch it was rendered; None for pictures.
    """

    recognition: Recognition
    number: int
    pages: int
    dpi: float | None
    timing_ms: dict[str, float]


class PageReader:
    """Decodes uploads and hands them to the engine, never holding more pages than it can use.

    `decode_ahead` pages wait decoded beside those the engine reads; other requests wait with their
    upload on disk. `timeout` is in seconds, from the end of the upload to the answer.
    """

    def __init__(self, engine: Engine, decoder: Decoder, *, decode_ahead: int, timeout: float) -> None:
        concurrency = engine.capabilities().concurrency
        self._engine = engine
        self._decoder = decoder
        self._timeout = timeout
        self._pages = asyncio.Semaphore(concurrency + decode_ahead)
        self._engine_places = asyncio.Semaphore(concurrency)

    async def read(self, load: Load, choice: PageChoice, options: RecogniseOptions, request_id: str) -> ReadPage:
        """Read one page of an upload; `load` gives its bytes when their turn has come.

        Raises RecognitionTimeout, and what decoding and the engine raise. Cancelling it aborts.
        """
        try:
            return await asyncio.wait_for(self._drain(load, choice, options, request_id), self._timeout)
        except asyncio.TimeoutError:
            raise RecognitionTimeout from None

    async def stream(
        self, load: Load, choice: PageChoice, options: RecogniseOptions, request_id: str
    ) -> AsyncGenerator[str | Restart | ReadPage, None]:
        """Yield the raw text as it is read (void up to a Restart), then the page; otherwise like `read`. Closing it aborts."""
        deadline = time.monotonic() + self._timeout
        async with contextlib.aclosing(self._read(load, choice, options, request_id)) as parts:
            while (part := await _ended(anext(parts, None), deadline - time.monotonic())) is not None:
                yield part

    async def _drain(self, load: Load, choice: PageChoice, options: RecogniseOptions, request_id: str) -> ReadPage:
        async with contextlib.aclosing(self._read(load, choice, options, request_id)) as parts:
            async for part in parts:
                if isinstance(part, ReadPage):
                    return part
        raise EngineFailed

    async def _read(
        self, load: Load, choice: PageChoice, options: RecogniseOptions, request_id: str
    ) -> AsyncGenerator[str | Restart | ReadPage, None]:
        check_options(self._engine, options)
        accepted = time.perf_counter()
        async with self._pages:
            waited_for_page = time.perf_counter()
            page = await self._decoder.decode(await load(), choice)
            decoded = time.perf_counter()
            async with self._engine_places:
                waited_for_engine = time.perf_counter()
                async with contextlib.aclosing(recognise_stream(self._engine, page, options, request_id)) as parts:
                    async for part in parts:
                        if not isinstance(part, Recognition):
                            yield part
                            continue
                        queue_seconds = (waited_for_page - accepted) + (waited_for_engine - decoded)
                        timing = {
                            "queue": queue_seconds * 1000,
                            "decode": (decoded - waited_for_page) * 1000,
                            **part.timing_ms,
                            "total": (time.perf_counter() - accepted) * 1000,
                        }
                        yield ReadPage(part, page.number, page.pages, page.dpi, timing)


async def _ended(work: Awaitable[T], timeout: float) -> T:
    """Return the result of `work`, which has ended whenever this has; raises RecognitionTimeout after `timeout` seconds.

    asyncio.wait_for leaves what it aborts, or cuts it short, when it is cancelled again. anyio, which streams the
    answer, cancels a task until it ends.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task}, timeout=timeout)
        if task.done():
            return task.result()
        raise RecognitionTimeout
    finally:
        task.cancel()
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # asked for, or asyncio logs it as forgotten
