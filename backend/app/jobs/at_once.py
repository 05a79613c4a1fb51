"""Documents that are read while their clients wait: nothing of them is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

import structlog

from app.engine.base import Engine
from app.errors import InternalError, RecognitionTimeout, ServiceError, ShuttingDown, TooManyPages
from app.ingest.choice import PageChoice
from app.ingest.decoder import Decoder
from app.jobs import ranges
from app.jobs.files import TaskFolder, rename_figures
from app.jobs.task import Order
from app.jobs.upload import count_pages, store_upload
from app.ocr.service import check_options
from app.reader import PageReader, ReadPage, log_page
from app.results.pages import PageFailure, PageResult

log = structlog.get_logger()

_TOO_LATE = (
    "The document was not read in the time that this service allows one request. Send it to POST /api/ocr/pdf, which reads "
    "it in the background, or name fewer pages in 'pages'."
)


@dataclass(frozen=True)
class AtOnce:
    """Reads documents of up to `most_pages` pages within `timeout` seconds.

    Their pages take turns with those of tasks; single pages go before them. `observe` gets every page read and None
    for each that failed.
    """

    engine: Engine
    decoder: Decoder
    reader: PageReader
    most_pages: int
    timeout: float
    observe: Callable[[ReadPage | None], None]

    async def read(
        self, order: Order, upload: BinaryIO, folder: TaskFolder, request_id: str
    ) -> tuple[list[PageResult], int]:
        """Read the pages that an order names, figures into `folder`; return them and how many the document has.

        A page that fails is marked. Raises what is wrong with the document or the order, TooManyPages,
        RecognitionTimeout, and where no page could be read what was wrong with the first. Cancelling it aborts all.
        """
        check_options(self.engine, order.options)
        await asyncio.to_thread(store_upload, upload, folder)
        total = await count_pages(self.decoder, folder.source, order.password)
        numbers = ranges.parse(order.pages, total)
        if len(numbers) > self.most_pages:
            raise TooManyPages(
                f"{len(numbers):,} pages are to be read, and this address reads at most {self.most_pages:,} while you wait. "
                "Send the document to POST /api/ocr/pdf, which reads any number in the background, "
                "or name fewer pages in 'pages'."
            )
        places = asyncio.Semaphore(self.reader.background_pages)
        reading = [asyncio.ensure_future(self._read(order, n, folder, request_id, places)) for n in numbers]
        try:
            done, late = await asyncio.wait(reading, timeout=self.timeout, return_when=asyncio.FIRST_EXCEPTION)
            for page in done:
                page.result()
            if late:
                raise RecognitionTimeout(_TOO_LATE)
        finally:
            for page in reading:
                page.cancel()
            await asyncio.gather(*reading, return_exceptions=True)
        outcomes = [page.result() for page in reading]
        errors = [error for _, error in outcomes if error is not None]
        if len(errors) == len(outcomes):
            raise errors[0]
        return [page for page, _ in outcomes], total

    async def _read(
        self, order: Order, number: int, folder: TaskFolder, request_id: str, places: asyncio.Semaphore
    ) -> tuple[PageResult, ServiceError | None]:
        """Return a page, or why it was not read."""
        choice = PageChoice(number, order.dpi, order.password)
        async with places:
            try:
                read = await self.reader.read_in_background(
                    folder.source, choice, order.options, f"{request_id}-{number}"
                )
            except ShuttingDown:
                raise
            except ServiceError as failure:
                log.warning("page_failed", page=number, code=failure.code)
                error = failure
            except Exception:
                log.exception("page_failed", page=number, code=InternalError.code)
                error = InternalError()
            else:
                self.observe(read)
                log_page(read)
                page, pictures = rename_figures(PageResult.of(number, read.recognition, read.dpi), read.pictures)
                await asyncio.to_thread(folder.save_pictures, pictures)
                return page, None
        self.observe(None)
        return PageResult(number, failure=PageFailure(error.code, error.detail)), error
