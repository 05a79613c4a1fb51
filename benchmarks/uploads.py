"""Drawn pages as JPEG, and clients in processes of their own that post them to a service."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import math
import multiprocessing
import random
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import BrokenBarrierError
from typing import Any

import httpx
import numpy as np

from benchmarks.pages import render_page

TIMEOUT = 900.0
_BARRIER_SECONDS = 120.0


@dataclass(frozen=True)
class Load:
    """`count` pages of a folder, each of at most `tokens` tokens of output.

    `at_once` of them are always under way, 0: all from the first moment on; with `rate`, they arrive at random, so many a
    second on average. `chat` is the model's name where they go to OpenAI's chat route instead of ours, and `extra` is
    what else its body holds.
    """

    folder: Path
    count: int
    tokens: int
    at_once: int = 0
    rate: float = 0.0
    stream: bool = False
    resolution: str = "gundam"
    chat: str = ""
    extra: tuple[tuple[str, Any], ...] = ()
    seed: int = 1


@dataclass(frozen=True)
class Answer:
    """One answer; times in seconds from the first byte sent. `began` and `ended` are on the machine's own clock."""

    status: int
    began: float
    ended: float
    first_s: float | None
    tokens: int
    prompt_tokens: int
    finish: str
    text: str
    looped: bool = False
    timing_ms: tuple[tuple[str, float], ...] = ()
    problem: str = ""

    @property
    def total_s(self) -> float:
        return self.ended - self.began


def draw_page(number: int) -> bytes:
    """Draw one page, every fourth in Chinese, as the JPEG a client would upload."""
    page = render_page("chinese" if number % 4 == 3 else "latin", 9000 + number)
    buffer = io.BytesIO()
    page.image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def draw_pages(folder: Path, count: int) -> list[Path]:
    """Draw pages into a folder, on all cores, but for those it has; returns all `count` files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{number:04}.jpg" for number in range(count)]
    missing = [number for number, file in enumerate(files) if not file.exists()]
    if missing:
        with ProcessPoolExecutor() as pool:
            for number, page in zip(missing, pool.map(draw_page, missing, chunksize=4), strict=True):
                files[number].write_bytes(page)
    return files


def run_load(url: str, load: Load, clients: int = 1) -> tuple[list[Answer], float]:
    """Send a load from `clients` processes, which begin together.

    Returns the answers, in the order of the pages, and the share of a core that the busiest client took.
    """
    context = multiprocessing.get_context("spawn")
    clients = max(1, min(clients, load.count, load.at_once or load.count))
    barrier = context.Barrier(clients)
    with ProcessPoolExecutor(clients, mp_context=context, initializer=_keep, initargs=(barrier,)) as pool:
        parts = list(pool.map(_send_share, *zip(*((url, load, part, clients) for part in range(clients)), strict=True)))
    answers = dict(answer for part, _ in parts for answer in part)
    return [answers[number] for number in sorted(answers)], max(busy for _, busy in parts)


_barrier: Any = None


def _keep(barrier: Any) -> None:
    global _barrier
    _barrier = barrier


def _send_share(url: str, load: Load, part: int, parts: int) -> tuple[list[tuple[int, Answer]], float]:
    """Send every `parts`-th page, in a client process."""
    files = sorted(load.folder.glob("*.jpg"))
    numbers = range(part, load.count, parts)
    pages = {number: files[number % len(files)].read_bytes() for number in numbers}
    try:
        _barrier.wait(_BARRIER_SECONDS)
    except BrokenBarrierError:
        raise RuntimeError("the clients did not start together") from None
    wall, cpu = time.perf_counter(), time.process_time()
    answers = asyncio.run(_send(url, load, pages, part, parts))
    return answers, (time.process_time() - cpu) / (time.perf_counter() - wall)


async def _send(url: str, load: Load, pages: dict[int, bytes], part: int, parts: int) -> list[tuple[int, Answer]]:
    arrivals = arrival_times(load)
    at_once = len(range(part, load.at_once, parts)) if load.at_once else load.count
    places = asyncio.Semaphore(at_once)
    started = time.perf_counter()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT, limits=limits, trust_env=False) as client:

        async def one(number: int) -> tuple[int, Answer]:
            await asyncio.sleep(max(0.0, started + arrivals[number] - time.perf_counter()))
            async with places:
                send = chat if load.chat else upload
                return number, await send(client, pages[number], load)

        return await asyncio.gather(*(one(number) for number in pages))


def arrival_times(load: Load) -> list[float]:
    """Return when each page arrives, in seconds: a Poisson process where the load has a rate, else at once."""
    draws, now, times = random.Random(load.seed), 0.0, []
    for _ in range(load.count):
        times.append(now)
        now += draws.expovariate(load.rate) if load.rate else 0.0
    return times


async def upload(client: httpx.AsyncClient, page: bytes, load: Load) -> Answer:
    """Post one page to our route and read its whole answer."""
    form = {"mode": "plain_ocr", "resolution": load.resolution, "max_tokens": str(load.tokens)}
    files = {"image": ("page.jpg", page, "image/jpeg")}
    began, first, event, data = time.perf_counter(), None, "", ""
    request = {"files": files, "data": {**form, "stream": str(load.stream).lower()}}
    async with client.stream("POST", "/api/ocr", **request) as response:  # type: ignore[arg-type]
        status = response.status_code
        if not load.stream or status != 200:
            data = (await response.aread()).decode()
        else:
            async for line in response.aiter_lines():
                if line.startswith("event:"):
                    event = line.removeprefix("event:").strip()
                    first = first or time.perf_counter() - began
                elif line.startswith("data:") and event in ("result", "error"):
                    data = line.removeprefix("data:")
            status = 200 if event == "result" else 500
    ended = time.perf_counter()
    if status != 200:
        return Answer(status, began, ended, None, 0, 0, "", "", problem=data[:1000])
    body = json.loads(data)
    usage = body["usage"]
    return Answer(
        status,
        began,
        ended,
        first,
        usage["output_tokens"],
        usage["prompt_tokens"],
        body["finish_reason"],
        body["raw_text"],
        body["looped"],
        tuple(body["timing"].items()),
    )


async def chat(client: httpx.AsyncClient, page: bytes, load: Load) -> Answer:
    """Post one page to OpenAI's chat route; it answers whole."""
    picture = f"data:image/jpeg;base64,{base64.b64encode(page).decode()}"
    content = [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": "Free OCR."}]
    body = {
        "model": load.chat,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": load.tokens,
        "temperature": 0.0,
        "skip_special_tokens": False,
        **dict(load.extra),
    }
    began = time.perf_counter()
    response = await client.post("/v1/chat/completions", json=body)
    ended = time.perf_counter()
    if response.status_code != 200:
        return Answer(response.status_code, began, ended, None, 0, 0, "", "", problem=response.text[:1000])
    answer = response.json()
    choice, usage = answer["choices"][0], answer["usage"]
    text, finish = choice["message"]["content"] or "", choice["finish_reason"]
    return Answer(200, began, ended, None, usage["completion_tokens"], usage["prompt_tokens"], finish, text)


def summarise(answers: Sequence[Answer]) -> dict[str, Any]:
    """Return the figures of a load; times in seconds, stages in milliseconds."""
    good = [answer for answer in answers if answer.status == 200]
    seconds = max(answer.ended for answer in answers) - min(answer.began for answer in answers)
    stages = [dict(answer.timing_ms) for answer in good]
    return {
        "pages": len(answers),
        "statuses": dict(Counter(str(answer.status) for answer in answers)),
        "problem": next((answer.problem for answer in answers if answer.problem), None),
        "seconds": round(seconds, 2),
        "looped": sum(answer.looped for answer in good),
        **rates([answer.tokens for answer in good], seconds),
        "prompt_tokens": dict(Counter(answer.prompt_tokens for answer in good).most_common(4)),
        "finish": dict(Counter(answer.finish for answer in good)),
        "latency_s": percentiles([answer.total_s for answer in good]),
        "first_text_s": percentiles([answer.first_s for answer in good if answer.first_s is not None]),
        "stages_ms": {name: percentiles([it[name] for it in stages]) for name in (stages[0] if stages else ())},
    }


def rates(tokens: Sequence[int], seconds: float) -> dict[str, Any]:
    """Return pages and tokens a second, and how many pages wrote how many tokens, commonest first."""
    return {
        "pages_per_s": round(len(tokens) / seconds, 2),
        "tokens_per_s": round(sum(tokens) / seconds),
        "output_tokens": sum(tokens),
        "tokens_a_page": dict(Counter(tokens).most_common(4)),
    }


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Return the median and the 99th percentile, rounded to four digits or so."""
    if not values:
        return {}
    digits = max(0, 3 - math.floor(math.log10(max(1e-3, max(values)))))
    return {f"p{which}": round(float(np.percentile(values, which)), digits) for which in (50, 99)}
