"""The engine of the browser tests: what it does is told by the page, so that no test waits for a clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from app.engine.base import Chunk, Finish, GenerationRequest
from app.errors import ContextTooLong, EngineNotReady
from tests.engines import ScriptedEngine
from tests.ingest.pdfs import Sheet, pdf
from tests.serving import png

READABLE, BREAKING, LOADING, HANGING = 100, 101, 102, 110
"""Heights of sheets in points. The first reading of a page breaks, finds the engine not ready, or never ends, where it is
HANGING points or a little more: each test adds a number of its own, since a page is known by its size."""

_POINT = 2  # pixels, at 144 dpi


def book(*heights: int) -> bytes:
    """A PDF whose page k is 200 + k points wide."""
    return pdf(*[Sheet(box=(0, 0, 200 + number, height)) for number, height in enumerate(heights, 1)])


def picture(number: int, height: int) -> bytes:
    """Page `number` of such a book as a PNG."""
    return png(_POINT * (200 + number), _POINT * height)


def tag(label: str, *box: int) -> str:
    """A grounding tag, its box in thousandths of the page."""
    return f"<|ref|>{label}<|/ref|><|det|>[{list(box)}]<|/det|>\n"


LAYOUT = (
    f"{tag('title', 50, 60, 600, 120)}# Harbour Paper Company\n\n"
    f"{tag('text', 50, 240, 600, 300)}Invoice 2026-1147\n\n"
    f"{tag('table', 50, 340, 950, 640)}<table><tr><td>Delivery</td><td>6.50</td></tr><tr><td>Total</td><td>80.30</td></tr></table>"
)
LINES = "".join(
    tag(line, 50, top, 600, top + 50) for line, top in (("Harbour Paper Company", 60), ("Invoice 2026-1147", 240))
)


class ShelfEngine(ScriptedEngine):
    """Tells a book's pages by their size; reads any other picture as LAYOUT or LINES."""

    def __init__(self) -> None:
        super().__init__(concurrency=4)
        self.seen: set[tuple[int, int]] = set()

    async def script(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        number, height = request.page.width // _POINT - 200, request.page.height // _POINT
        first = (number, height) not in self.seen
        self.seen.add((number, height))
        if height == BREAKING and first:
            raise ContextTooLong
        if height == LOADING and first:
            raise EngineNotReady
        if height in range(HANGING, HANGING + 10) and first:
            yield Chunk("The first words")
            await asyncio.Event().wait()
        if height in range(READABLE, HANGING + 10):
            yield Chunk(tag(f"This is page {number}.", 100, 100, 900, 400))
        else:
            text = LAYOUT if "markdown" in request.prompt else LINES
            for start in range(0, len(text), 10):
                yield Chunk(text[start : start + 10])
        yield Chunk("", Finish("stop"))
