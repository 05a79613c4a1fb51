"""Character error rate over rendered pages, through the HTTP API or through the engine alone.

python -m benchmarks.accuracy --pages 20
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import numpy as np

from benchmarks.pages import FontsMissing, RenderedPage, character_errors, render_pages
from benchmarks.service import served

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from PIL import Image

LIMIT = 0.02
Read = Callable[["Image.Image"], Awaitable[str]]


@dataclass(frozen=True)
class Result:
    """Errors and length in characters of one page."""

    page: str
    script: str
    errors: int
    characters: int


async def measure(pages: list[RenderedPage], rotate: int, read: Read) -> list[Result]:
    """Read every page, turned by `rotate` degrees, and count the wrong characters."""
    results = []
    for page in pages:
        text = await read(page.image.rotate(rotate, expand=True))
        results.append(Result(page.name, page.script, *character_errors(text, page.text)))
    return results


def summarise(results: list[Result]) -> dict[str, float]:
    """Return the character error rate of each script, and over all pages as "total"."""
    groups = {script: [result for result in results if result.script == script] for script in ("latin", "chinese")}
    groups["total"] = results
    return {
        name: sum(result.errors for result in group) / max(1, sum(result.characters for result in group))
        for name, group in groups.items()
    }


@asynccontextmanager
async def over_http(url: str | None) -> AsyncIterator[Read]:
    """Give a reader that posts each page to the service at `url`, or to one started for it."""
    async with AsyncExitStack() as stack:
        if url is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            url = stack.enter_context(served(folder / "service.log", inference_engine="rapidocr")).url
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=300, trust_env=False))

        async def read(image: Image.Image) -> str:
            file = io.BytesIO()
            image.save(file, "PNG")
            response = await client.post(
                "/api/ocr", files={"image": ("page.png", file.getvalue(), "image/png")}, data={"mode": "plain_ocr"}
            )
            response.raise_for_status()
            text: str = response.json()["text"]
            return text

        yield read


@asynccontextmanager
async def in_process() -> AsyncIterator[Read]:
    """Give a reader that runs the RapidOCR engine without the service around it."""
    from app.engine.base import GenerationRequest, Resolution
    from app.engine.rapidocr.engine import RapidOcrEngine
    from app.page import Page

    engine = RapidOcrEngine()
    await engine.start()

    async def read(image: Image.Image) -> str:
        page = Page(np.ascontiguousarray(image.convert("RGB")), "PNG")
        request = GenerationRequest("benchmark", page, "plain_ocr", "", False, Resolution(1024, 640, True))
        return "".join([chunk.text async for chunk in engine.generate(request)])

    try:
        yield read
    finally:
        await engine.stop()


async def run(arguments: argparse.Namespace) -> int:
    latin = arguments.pages - arguments.pages // 2
    pages = [
        *render_pages(latin, "latin", arguments.seed),
        *render_pages(arguments.pages // 2, "chinese", arguments.seed),
    ]
    async with in_process() if arguments.engine else over_http(arguments.url) as read:
        results = await measure(pages, arguments.rotate, read)
    rates = summarise(results)
    for result in results:
        print(f"{result.page:<16} {result.characters:>6} characters {result.errors:>4} wrong")
    for name, rate in rates.items():
        print(f"{name:<16} {rate:8.3%}")
    if arguments.json:
        report = {
            "seed": arguments.seed,
            "rotate": arguments.rotate,
            "cer": rates,
            "pages": [asdict(r) for r in results],
        }
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if rates["total"] <= LIMIT else 1


def main() -> int:
    parser = argparse.ArgumentParser(description="Character error rate over rendered pages; exit status 1 above 2 %.")
    parser.add_argument("--url", help="a running service (default: start one)")
    parser.add_argument("--engine", action="store_true", help="run the RapidOCR engine in process instead")
    parser.add_argument("--pages", type=int, default=20, help="half of them Latin, half Chinese")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rotate", type=int, choices=(0, 90, 180, 270), default=0, help="degrees counter-clockwise")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    try:
        return asyncio.run(run(parser.parse_args()))
    except FontsMissing as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
