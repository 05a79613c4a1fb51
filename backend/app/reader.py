"""From an upload to a recognition, within bounds: pages in memory, engine places and time."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import structlog

from app.engine.base import CutPage, Engine, as_view_engine
from app.errors import EngineFailed, QueueFull, RecognitionTimeout
from app.ingest.choice import PageChoice
from app.ingest.decoder import Decoder
from app.ocr.render import Figure
from app.ocr.service import RecogniseOptions, Recognition, Restart, check_options, recognise_stream
from app.page import Page
from app.places import Places

Load = Callable[[], Awaitable[bytes | Path]]
T = TypeVar("T")

log = structlog.get_logger()

# Waiting to be drawn; a browser asks for a few at once, or through HTTP/2 for a hundred.
MOST_PICTURES = 200


@dataclass(frozen=True)
class Picture:
    """A figure cut out of its page, under the name that the text links to."""

    name: str
    jpeg: bytes


@dataclass(frozen=True)
class ReadPage:
    """Page `number` of a file of `pages`, read, with the time in ms of every stage from upload to text.

    `dpi` is at how many dots per inch it was rendered; None for pictures. `pictures` are the page's figures, where
    they were asked for.
    """

    recognition: Recognition
    number: int
    pages: int
    dpi: float | None
    timing_ms: dict[str, float]
    pictures: tuple[Picture, ...] = ()


class PageReader:
    """Decodes uploads and hands them to the engine, never holding more pages than it can use.

    `decode_ahead` pages wait decoded beside those the engine reads; other requests wait with their
    upload on disk. `timeout` is in seconds, from the end of the upload to the answer.

    Pages of documents are read in the background: a request that someone waits for goes before them wherever there
    is a queue. With an engine that reads one page at a time it waits for at most the page being read.
    """

    def __init__(self, engine: Engine, decoder: Decoder, *, decode_ahead: int, timeout: float) -> None:
        concurrency = engine.capabilities().concurrency
        self._engine = engine
        self._decoder = decoder
        self._timeout = timeout
        # The last page in memory and, where the engine reads many side by side, some of its places are kept for requests.
        self._pages = Places(concurrency + decode_ahead + 1, reserved=1)
        self._decoders = Places(max(1, decode_ahead))
        self._pictures = Places(1)
        self._picture_queue = 0
        self._engine_places = Places(concurrency, reserved=(concurrency + 7) // 8 if concurrency > 1 else 0)
        self.background_pages = concurrency + decode_ahead

    async def read(
        self, load: Load, choice: PageChoice, options: RecogniseOptions, request_id: str, *, pictures: bool = False
    ) -> ReadPage:
        """Read one page of an upload, with its figures where `pictures`; `load` gives it whole when its turn has come.

        Raises RecognitionTimeout, and what decoding and the engine raise. Cancelling it aborts.
        """
        return await _ended(self._drain(load, choice, options, request_id, pictures), self._timeout)

    async def read_in_background(
        self, file: Path, choice: PageChoice, options: RecogniseOptions, request_id: str
    ) -> ReadPage:
        """Read one page of a document, with its figures, whenever the engine has nothing more urgent to do.

        `timeout` counts from when the engine takes the page, since until then it may wait for long. Otherwise like
        `read`. Call it for up to `background_pages` pages at once, and pages are rendered ahead of the engine.
        """

        async def load() -> Path:
            return file

        check_options(self._engine, options)
        accepted = time.perf_counter()
        async with self._pages.held(background=True):
            waited_for_page = time.perf_counter()
            async with self._decoders.held(background=True):
                page = await self._decode(file, choice, options)
            decoded = time.perf_counter()
            async with self._engine_places.held(background=True):
                queue_seconds = (waited_for_page - accepted) + (time.perf_counter() - decoded)
                whole = self._whole(page, options, request_id)
                recognition = await _ended(whole, self._timeout)
        pictures = await self._crop(load, choice, recognition.figures, background=True)
        timing = _timing(recognition, queue_seconds, decoded - waited_for_page, accepted)
        return ReadPage(recognition, page.number, page.pages, page.dpi, timing, pictures)

    async def draw(self, file: Path, choice: PageChoice, width: int) -> bytes:
        """Return a page of a document as JPEG to look at, at most `width` pixels across.

        One is drawn at a time, and behind the pages that requests wait for. Raises QueueFull past MOST_PICTURES that
        wait, and what decoding raises. Cancelling it aborts.
        """
        if self._picture_queue >= MOST_PICTURES:
            raise QueueFull(retry_after=1)
        self._picture_queue += 1
        try:
            async with self._pictures.held(), self._decoders.held(background=True):
                return await self._decoder.draw(file, choice, width)
        finally:
            self._picture_queue -= 1

    async def _whole(self, page: Page | CutPage, options: RecogniseOptions, request_id: str) -> Recognition:
        async with contextlib.aclosing(recognise_stream(self._engine, page, options, request_id)) as parts:
            async for part in parts:
                if isinstance(part, Recognition):
                    return part
        raise EngineFailed

    async def stream(
        self, load: Load, choice: PageChoice, options: RecogniseOptions, request_id: str, *, pictures: bool = False
    ) -> AsyncGenerator[str | Restart | ReadPage, None]:
        """Yield the raw text as it is read (void up to a Restart), then the page; otherwise like `read`. Closing it aborts."""
        deadline = time.monotonic() + self._timeout
        async with contextlib.aclosing(self._read(load, choice, options, request_id, pictures)) as parts:
            while (part := await _ended(anext(parts, None), deadline - time.monotonic())) is not None:
                yield part

    async def _drain(
        self, load: Load, choice: PageChoice, options: RecogniseOptions, request_id: str, pictures: bool
    ) -> ReadPage:
        async with contextlib.aclosing(self._read(load, choice, options, request_id, pictures)) as parts:
            async for part in parts:
                if isinstance(part, ReadPage):
                    return part
        raise EngineFailed

    async def _read(
        self, load: Load, choice: PageChoice, options: RecogniseOptions, request_id: str, pictures: bool
    ) -> AsyncGenerator[str | Restart | ReadPage, None]:
        check_options(self._engine, options)
        accepted = time.perf_counter()
        async with self._pages.held():
            waited_for_page = time.perf_counter()
            async with self._decoders.held():
                page = await self._decode(await load(), choice, options)
            decoded = time.perf_counter()
            async with self._engine_places.held():
                waited_for_engine = time.perf_counter()
                async with contextlib.aclosing(recognise_stream(self._engine, page, options, request_id)) as parts:
                    async for part in parts:
                        if not isinstance(part, Recognition):
                            yield part
                            continue
                        recognition = part
        cut = await self._crop(load, choice, recognition.figures if pictures else ())
        queue_seconds = (waited_for_page - accepted) + (waited_for_engine - decoded)
        timing = _timing(recognition, queue_seconds, decoded - waited_for_page, accepted)
        yield ReadPage(recognition, page.number, page.pages, page.dpi, timing, cut)

    async def _decode(self, source: bytes | Path, choice: PageChoice, options: RecogniseOptions) -> Page | CutPage:
        """Decode a page, to what the engine reads of it."""
        if (engine := as_view_engine(self._engine)) is not None:
            return await self._decoder.cut(source, choice, engine.view_options(options.resolution))
        return await self._decoder.decode(source, choice)

    async def _crop(
        self, load: Load, choice: PageChoice, figures: tuple[Figure, ...], background: bool = False
    ) -> tuple[Picture, ...]:
        """Return the figures of a page, decoded anew: few pages have any, and none is kept while it is being read."""
        if not figures:
            return ()
        boxes = [(figure.box.x1, figure.box.y1, figure.box.x2, figure.box.y2) for figure in figures]
        async with self._decoders.held(background):
            cut = await self._decoder.crop(await load(), choice, boxes)
        return tuple(Picture(figure.name, jpeg) for figure, jpeg in zip(figures, cut, strict=True))


def log_page(page: ReadPage) -> None:
    """Log that a page was read, and how that ended."""
    recognition = page.recognition
    log.info(
        "page_recognised",
        page=page.number,
        mode=recognition.mode,
        characters=len(recognition.text),
        boxes=len(recognition.boxes),
        finish=recognition.finish.reason,
        looped=recognition.looped,
        attempts=recognition.attempts,
        ms=round(page.timing_ms["total"], 1),
    )


def _timing(recognition: Recognition, queue_s: float, decode_s: float, accepted: float) -> dict[str, float]:
    return {
        "queue": queue_s * 1000,
        "decode": decode_s * 1000,
        **recognition.timing_ms,
        "total": (time.perf_counter() - accepted) * 1000,
    }


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
