"""Documents for the tests of tasks: pages that tell themselves apart, and an engine that says which it sees."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx

from app.engine.base import Chunk, Engine, Finish, GenerationRequest
from app.errors import EngineFailed, OutOfMemory, ServiceError
from tests.engines import ScriptedEngine
from tests.ingest.pdfs import Sheet, pdf
from tests.serving import serving

# One point is one pixel.
EXACT = {"dpi": "72"}


def book(pages: int) -> bytes:
    """A PDF whose page k is 200 + k points wide."""
    return pdf(*[Sheet(box=(0, 0, 200 + number, 100)) for number in range(1, pages + 1)])


def text_of(number: int) -> str:
    """What SizedEngine reads on page `number` of a book."""
    return f"This page is {200 + number} pixels wide."


class SizedEngine(ScriptedEngine):
    """Says how wide a page is, after `pause` seconds; `broken` are the pages of a book that it cannot read.

    A document's page is tried again, after 1 and 2 seconds, where `error` may be over by then: OutOfMemory.
    While `going` is cleared, no page is read to its end.
    """

    def __init__(
        self,
        pause: float = 0.0,
        concurrency: int = 1,
        broken: tuple[int, ...] = (),
        error: type[ServiceError] = OutOfMemory,
    ) -> None:
        super().__init__(concurrency)
        self.going = asyncio.Event()
        self.going.set()
        self.pause = pause
        self.broken = set(broken)
        self.error = error
        self.read: list[int] = []

    async def script(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        await asyncio.sleep(self.pause)
        await self.going.wait()
        number = request.page.width - 200
        self.read.append(number)
        if number in self.broken:
            raise self.error
        yield Chunk(f"This page is {request.page.width} pixels wide.")
        yield Chunk("", Finish("stop"))


class FallingEngine(SizedEngine):
    """Dies under its first page, and is started again."""

    async def script(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        if self.starts == 1:
            from app.engine.base import EngineState

            self.state = EngineState.FAILED
            raise EngineFailed
        async for chunk in super().script(request):
            yield chunk


@contextlib.asynccontextmanager
async def keeping(
    folder: Path, engine: Engine | None = None, anew: bool = False, **settings: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a service that keeps documents in `folder`.

    Unless `anew`, it was started there before: at its first start DBOS makes its tables, and finds its queue a second later.
    """
    database = folder / "tasks.sqlite"
    if not anew and not database.exists():
        database.write_bytes(await database_of_a_first_start())
    made = {"jobs_enabled": True, "data_dir": str(folder), **settings}
    async with serving(engine or SizedEngine(), **made) as client:
        yield client


_left: list[bytes] = []


async def database_of_a_first_start() -> bytes:
    """Start a service where there was none, once for all tests, and return the database that it leaves."""
    if not _left:
        with tempfile.TemporaryDirectory() as folder:
            async with keeping(Path(folder), anew=True) as client:
                task_id = (await send(client, book(1)))["task_id"]
                await ended(client, task_id)
                await client.delete(f"/api/tasks/{task_id}")
            _left.append((Path(folder) / "tasks.sqlite").read_bytes())
    return _left[0]


async def send(client: httpx.AsyncClient, document: bytes, headers: dict[str, str] | None = None, **fields: Any) -> Any:
    """Send a document and return the answer's JSON, which must be a task."""
    answer = await client.post(
        "/api/ocr/pdf", files={"pdf": ("book.pdf", document)}, data={**EXACT, **fields}, headers=headers
    )
    assert answer.status_code == 202, answer.text
    return answer.json()


async def ended(client: httpx.AsyncClient, task_id: str, seconds: float = 30) -> Any:
    """Wait until a task is over, and return its JSON."""
    for _ in range(int(seconds / 0.05)):
        task = (await client.get(f"/api/tasks/{task_id}")).json()
        if task["status"] not in ("pending", "running"):
            return task
        await asyncio.sleep(0.05)
    raise AssertionError(f"the task did not end in {seconds} s: {task}")


async def reached(client: httpx.AsyncClient, task_id: str, pages: int, seconds: float = 30) -> Any:
    """Wait until so many pages of a task are behind it, and return its JSON."""
    for _ in range(int(seconds / 0.02)):
        task = (await client.get(f"/api/tasks/{task_id}")).json()
        if task["progress"]["pages_completed"] >= pages:
            return task
        await asyncio.sleep(0.02)
    raise AssertionError(f"the task did not come that far in {seconds} s: {task}")
