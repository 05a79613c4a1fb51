"""The part `engine` of benchmarks.gpu_rate: JPEG bytes to text with the service's own objects, without HTTP."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import psutil
from fastapi import FastAPI

from benchmarks.busy import watched
from benchmarks.report import Report
from benchmarks.uploads import Answer, summarise

# Pages of the load that writes one token each, and of those read one after another.
MOST_PREFILLED, ALONE = 256, 4


def run(options: argparse.Namespace, settings: dict[str, Any], report: Report) -> None:
    """Start the engine in this process and put it through every load."""
    asyncio.run(measure(options, settings, report))


@contextlib.asynccontextmanager
async def started(settings: dict[str, Any]) -> AsyncIterator[FastAPI]:
    """Give the service with these settings, without a server, its engine ready; raises RuntimeError where it cannot start."""
    from app.main import create_app
    from app.settings import Settings

    app = create_app(Settings(_env_file=None, **settings))
    async with app.router.lifespan_context(app):
        while (refusal := app.state.supervisor.refusal()) is not None:
            if refusal.code == "engine_start_failed":
                raise RuntimeError(refusal.detail)
            await asyncio.sleep(0.05)
        yield app


async def measure(options: argparse.Namespace, settings: dict[str, Any], report: Report) -> None:
    """Build the service without a server, read, and report."""
    async with started(settings) as app:
        report.add("start", {"ready_s": round(time.time() - psutil.Process().create_time(), 1)})
        files = sorted(options.folder.glob("*.jpg"))[: options.pages]
        pages = await asyncio.to_thread(lambda: [file.read_bytes() for file in files])
        await read_all(app.state.reader, pages[:2], "gundam", options.tokens, 0)  # whatever the first page compiles
        for resolution in options.resolutions:
            loads = {
                "prefill": ("1 token", pages[:MOST_PREFILLED], 1, 0),
                "burst": ("all at once", pages, options.tokens, 0),
                "full": (f"{options.side_by_side} side by side", pages, options.tokens, options.side_by_side),
                "alone": ("one alone", pages[:ALONE], options.tokens, 1),
            }
            for name, some, tokens, at_once in (load for kind, load in loads.items() if kind in options.loads):
                with watched() as figures:
                    answers = await read_all(app.state.reader, some, resolution, tokens, at_once)
                report.add(f"{resolution}, {name}", summarise(answers) | figures)


async def read_all(reader: Any, pages: Sequence[bytes], resolution: str, tokens: int, at_once: int) -> list[Answer]:
    """Read pages, `at_once` side by side, 0: all from the first moment on."""
    places = asyncio.Semaphore(at_once or len(pages))

    async def one(number: int, page: bytes) -> Answer:
        async with places:
            return await read_page(reader, page, resolution, tokens, f"rate-{number}")

    return await asyncio.gather(*(one(number, page) for number, page in enumerate(pages)))


async def read_page(reader: Any, page: bytes, resolution: str, tokens: int, name: str) -> Answer:
    """Read one page as a stream, as a request that someone waits for."""
    from app.ingest.choice import FIRST_PAGE
    from app.ocr.resolution import RESOLUTIONS
    from app.ocr.service import RecogniseOptions

    async def load() -> bytes | Path:
        return page

    began, first = time.perf_counter(), None
    asked = RecogniseOptions(resolution=RESOLUTIONS[resolution], max_tokens=tokens)
    async with contextlib.aclosing(reader.stream(load, FIRST_PAGE, asked, name)) as parts:
        async for part in parts:
            first = first or time.perf_counter() - began
            last = part
    ended, read = time.perf_counter(), last.recognition
    return Answer(
        200,
        began,
        ended,
        first,
        read.usage.output_tokens,
        read.usage.prompt_tokens,
        read.finish.reason,
        read.raw_text,
        read.looped,
        tuple(last.timing_ms.items()),
    )
