"""From an upload to a recognition, within bounds: pages in memory, engine places and time."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass

from app.engine.base import Engine
from app.errors import EngineFailed, RecognitionTimeout
from app.ingest.decoder import Decoder
from app.ocr.service import RecogniseOptions, Recognition, Restart, check_options, recognise_stream

Load = Callable[[], Awaitable[bytes]]


@dataclass(frozen=True)
class ReadPage:
    """A page read, with the time in ms of every stage from upload to text."""

    recognition: Recognition
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

    async def read(self, load: Load, options: RecogniseOptions, request_id: str) -> ReadPage:
        """Read one upload; `load` gives its bytes when their turn has come.

        Raises RecognitionTimeout, and what decoding and the engine raise. Cancelling it aborts.
        """
        try:
            return await asyncio.wait_for(self._drain(load, options, request_id), self._timeout)
        except asyncio.TimeoutError:
            raise RecognitionTimeout from None

    async def stream(
        self, load: Load, options: RecogniseOptions, request_id: str
    ) -> AsyncGenerator[str | Restart | ReadPage, None]:
        """Yield the raw text as it is read (void up to a Restart), then the page; otherwise like `read`. Closing it aborts."""
        deadline = time.monotonic() + self._timeout
        async with contextlib.aclosing(self._read(load, options, request_id)) as parts:
            while True:
                try:
                    yield await asyncio.wait_for(anext(parts), deadline - time.monotonic())
                except StopAsyncIteration:
                    return
                except asyncio.TimeoutError:
                    raise RecognitionTimeout from None

    async def _drain(self, load: Load, options: RecogniseOptions, request_id: str) -> ReadPage:
        async with contextlib.aclosing(self._read(load, options, request_id)) as parts:
            async for part in parts:
                if isinstance(part, ReadPage):
                    return part
        raise EngineFailed

    async def _read(
        self, load: Load, options: RecogniseOptions, request_id: str
    ) -> AsyncGenerator[str | Restart | ReadPage, None]:
        check_options(self._engine, options)
        accepted = time.perf_counter()
        async with self._pages:
            waited_for_page = time.perf_counter()
            page = await self._decoder.decode(await load())
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
                        yield ReadPage(part, timing)
