"""Many uploads at once: every accepted one answered right, the others told when to come back, memory bounded.

    python -m benchmarks.burst --uploads 200

Starts the service in its own process (or takes --url), sends all uploads in the same moment, checks
every answer's text against the page that was sent, and samples the memory of the service and its
worker processes. Exits with 1 when an answer is wrong or has any status but 200, 429 and 503.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import platform
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil
from PIL import Image, ImageDraw, ImageFont

from benchmarks.service import served

NUMBER_STEP = 7919  # a prime: neighbouring pages carry numbers that look nothing alike


def render_page(number: int) -> bytes:
    """A small page whose only difference from its neighbours is its number."""
    picture = Image.new("RGB", (900, 320), "white")
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=40)
    draw.text((40, 40), "Delivery note", font=font, fill="black")
    draw.text((40, 130), f"Order {page_code(number)}", font=font, fill="black")
    draw.text((40, 220), "Please keep this page", font=font, fill="black")
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def page_code(number: int) -> str:
    return f"{100_000 + number * NUMBER_STEP % 900_000}"


async def send(client: httpx.AsyncClient, number: int, page: bytes) -> tuple[int, str, bool]:
    """Return the status, the error code and whether the answer is what it should be."""
    answer = await client.post("/api/ocr", files={"image": ("page.jpg", page)})
    if answer.status_code == 200:
        return 200, "", page_code(number) in answer.json()["text"]
    return (
        answer.status_code,
        answer.json()["code"],
        answer.status_code in (429, 503) and "retry-after" in answer.headers,
    )


def memory_mb(pid: int) -> float:
    """Proportional memory of a process and its children, in megabytes: shared pages count once."""
    service = psutil.Process(pid)
    total = 0
    for process in (service, *service.children(recursive=True)):
        try:
            total += process.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
    return total / 1e6


async def watch_memory(pid: int, samples: list[float]) -> None:
    while True:
        samples.append(memory_mb(pid))
        await asyncio.sleep(0.25)


async def burst(url: str, uploads: int, pid: int | None) -> dict[str, object]:
    """Send all uploads at once and return what happened."""
    limits = httpx.Limits(max_connections=None)
    pages = [render_page(number) for number in range(uploads)]
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits, trust_env=False) as client:
        await send(client, 0, render_page(0))  # the engine's first page pays for its own warm-up
        before = memory_mb(pid) if pid else None
        samples: list[float] = []
        watcher = asyncio.create_task(watch_memory(pid, samples)) if pid else None
        started = time.perf_counter()
        results = await asyncio.gather(*(send(client, number, page) for number, page in enumerate(pages)))
        seconds = time.perf_counter() - started
        if watcher:
            watcher.cancel()
    statuses = Counter(f"{status} {code}".strip() for status, code, _ in results)
    return {
        "uploads": uploads,
        "answers": dict(statuses),
        "wrong": sum(not right for _, _, right in results),
        "seconds": round(seconds, 1),
        "memory_before_mb": before and round(before),
        "memory_peak_mb": round(max(samples)) if samples else None,
        "machine": {"cpus": len(psutil.Process().cpu_affinity()), "python": platform.python_version()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="a running service; without it one is started")
    parser.add_argument("--uploads", type=int, default=200)
    parser.add_argument("--json", type=Path, help="also write the result here")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        pid, url = None, arguments.url
        if url is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            service = stack.enter_context(served(folder / "service.log", inference_engine="rapidocr"))
            pid, url = service.process.pid, service.url
        result = asyncio.run(burst(url, arguments.uploads, pid))
    for name, value in result.items():
        print(f"{name:18} {value}")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    sys.exit(1 if result["wrong"] else 0)


if __name__ == "__main__":
    main()
