"""The service with DeepSeek-OCR in the real vLLM on the CPU: one process, started as a person starts it."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import re
import signal
import time
from collections.abc import AsyncIterator
from functools import lru_cache
from typing import Any

import httpx
import httpx_sse
import numpy as np
import psutil
import pytest

from app.engine.vllm_loading import CREATING, LOADED, REGISTERING
from app.ocr.resolution import RESOLUTIONS
from tests.process import Served
from tests.with_vllm.tiny_service import LOADING_SECONDS, SETTINGS, STALL
from tools.tiny_reader import fonts
from tools.tiny_reader.faces import Faces, load_faces
from tools.tiny_reader.page import Page, plan_page
from tools.tiny_reader.paint import paint
from tools.tiny_reader.serve import FOLDER

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

CONTEXT = int(SETTINGS["MAX_MODEL_LEN"])


@pytest.fixture
def service(tiny_service: Served) -> Served:
    return tiny_service


@pytest.fixture
async def client(service: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=service.url, timeout=120) as found:
        yield found


@lru_cache
def dejavu() -> Faces:
    return load_faces([font for font in fonts.TRAINING if font.file_name == "DejaVuSans.ttf"])


def plan(seed: int) -> Page:
    return plan_page(np.random.default_rng(seed), 640, kind="lines", max_lines=8, fonts=dejavu())


@lru_cache
def page_file(seed: int) -> bytes:
    """A page of up to eight lines of text, another for each seed, as PNG."""
    picture, _ = paint(plan(seed), seed)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def upload(seed: int) -> dict[str, tuple[str, bytes]]:
    """A page as a client uploads it."""
    return {"image": (f"{seed}.png", page_file(seed))}


def form(seed: int, **fields: Any) -> dict[str, Any]:
    """A request of 24 tokens; its seed chooses the page, and one of five resolutions."""
    names = list(RESOLUTIONS)
    return {"files": upload(seed), "data": {"resolution": names[seed % len(names)], "max_tokens": 24, **fields}}


@pytest.fixture(scope="module")
def long_page_and_text(tiny_service: Served) -> tuple[dict[str, Any], str]:
    """A request whose text is long enough to be interrupted, a page full of lines with their boxes, and that text."""
    full = (seed for seed in range(1000) if sum(len(line.text) for line in plan(seed).lines) > 450)
    for seed in full:
        request = {"files": upload(seed), "data": {"resolution": "small", "grounding": "true"}}
        body = httpx.post(f"{tiny_service.url}/api/ocr", timeout=120, **request).json()
        if body["usage"]["output_tokens"] > 600 and body["attempts"] == 1:
            return request, body["raw_text"]
    raise AssertionError("no page of a thousand has a long text")


@pytest.fixture
def long_page(long_page_and_text: tuple[dict[str, Any], str]) -> dict[str, Any]:
    return long_page_and_text[0]


def metric(text: str, name: str) -> float:
    """The sum of a metric's values over its labels."""
    values = re.findall(rf"^{re.escape(name)}(?:\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE)
    assert values, f"/metrics has no {name}"
    return sum(float(value) for value in values)


async def running_requests(client: httpx.AsyncClient) -> float:
    return metric((await client.get("/metrics")).text, "vllm:num_requests_running")


async def start(client: httpx.AsyncClient, request: dict[str, Any]) -> asyncio.Task[httpx.Response]:
    """Send a request and return once vLLM counts it as running; one that ends unseen is sent again, twice at most."""
    polls: list[float] = []
    for _ in range(3):
        task = asyncio.create_task(client.post("/api/ocr", **request))
        while not task.done():
            asked = time.monotonic()
            if await running_requests(client):
                return task
            polls.append(round(time.monotonic() - asked, 3))
            await asyncio.sleep(0.02)
    raise AssertionError(f"the request was never seen running; seconds of each look: {polls}")


def log_events(service: Served) -> list[str]:
    """What the service has logged so far; lines of libraries that are no JSON are left out."""
    events = []
    for line in service.log.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):
            events.append(str(json.loads(line)["event"]))
    return events


async def test_start_logs_the_three_lines_operators_look_for(service: Served):
    """In their order, in the service's own log."""
    marks = [event for event in log_events(service) if event in (REGISTERING, CREATING, LOADED)]
    assert marks == [REGISTERING, CREATING, LOADED]
    assert REGISTERING.startswith("注册 DeepSeek-OCR 模型...")
    assert CREATING.startswith("创建 AsyncLLMEngine...")
    assert LOADED.startswith("vLLM Direct Engine 加载完成!")


async def test_an_upload_is_read_and_its_counts_are_true(client: httpx.AsyncClient):
    """Image tokens are the published number for the resolution; the end is the token limit's."""
    answer = await client.post("/api/ocr", **form(0))
    body = answer.json()
    assert answer.status_code == 200, body
    assert body["usage"] == {"prompt_tokens": 73 + len("\nFree OCR.") + 1, "image_tokens": 73, "output_tokens": 24}
    assert (body["finish_reason"], body["truncated"], body["attempts"]) == ("length", True, 1)
    assert body["metadata"]["resolution"] == "tiny"
    assert (body["metadata"]["engine"], body["metadata"]["model"]) == ("vllm_direct", str(FOLDER))
    assert set(body["timing"]) == {"queue", "decode", "engine", "first_token", "render", "total"}
    assert "<｜end▁of▁sentence｜>" not in body["raw_text"]


async def test_a_stream_gives_the_same_text_piece_by_piece(client: httpx.AsyncClient):
    """Greedy decoding: the same page gives the same text, streamed or not."""
    whole = (await client.post("/api/ocr", **form(1))).json()
    async with httpx_sse.aconnect_sse(client, "POST", "/api/ocr", **form(1, stream="true")) as source:
        events = [(event.event, json.loads(event.data)) async for event in source.aiter_sse()]
    assert {name for name, _ in events[:-1]} == {"delta"}
    assert len(events) > 2
    assert "".join(data["text"] for _, data in events[:-1]) == events[-1][1]["raw_text"] == whole["raw_text"]


async def test_ten_uploads_at_once_read_as_each_does_alone(client: httpx.AsyncClient):
    """Ten pages in five resolutions, all with one request id, which vLLM would take for one request."""
    alone = [(await client.post("/api/ocr", **form(seed))).json() for seed in range(10)]
    together = await asyncio.gather(
        *(client.post("/api/ocr", headers={"X-Request-ID": "same"}, **form(seed)) for seed in range(10))
    )
    assert [answer.json()["raw_text"] for answer in together] == [body["raw_text"] for body in alone]
    assert [answer.json()["usage"] for answer in together] == [body["usage"] for body in alone]
    assert len({body["raw_text"] for body in alone}) > 5


async def test_a_client_that_goes_away_aborts_its_generation(client: httpx.AsyncClient, long_page: dict[str, Any]):
    """Within a second, by vLLM's own count of running requests."""
    request = {"files": long_page["files"], "data": {**long_page["data"], "stream": "true"}}
    async with httpx_sse.aconnect_sse(client, "POST", "/api/ocr", **request) as source:
        events = source.aiter_sse()  # held, since a dropped iterator closes the connection
        await anext(events)
        assert await running_requests(client) == 1
        before = metric((await client.get("/metrics")).text, "vllm:generation_tokens_total")
    left = time.monotonic()
    while await running_requests(client):
        assert time.monotonic() - left < 1, "vLLM still runs the request of a client that has gone"
        await asyncio.sleep(0.02)
    written = metric((await client.get("/metrics")).text, "vllm:generation_tokens_total") - before
    assert written < 500


async def test_vllms_metrics_stand_beside_the_services(client: httpx.AsyncClient):
    """One page for Prometheus, no name twice."""
    text = (await client.get("/metrics")).text
    assert metric(text, "ocr_engine_ready") == 1
    assert metric(text, "vllm:prompt_tokens_total") > 0
    names = re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"mode": "freeform", "prompt": "w" * CONTEXT}, "context_too_long", f"more than the {CONTEXT} this service"),
        ({"mode": "freeform", "prompt": "Read <image> twice."}, "invalid_parameter", "must not contain '<image>'"),
        ({"resolution": "", "base_size": "2048", "image_size": "1024"}, "invalid_parameter", "is too large"),
        ({"max_tokens": "0"}, "invalid_parameter", "max_tokens"),
    ],
)
async def test_what_the_engine_cannot_take_is_refused_before_it(
    client: httpx.AsyncClient, fields: dict[str, str], code: str, words: str
):
    """A 422 with the figures, and the engine core goes on."""
    answer = await client.post("/api/ocr", **form(0, **fields))
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert words in answer.json()["detail"]
    assert (await client.get("/readyz")).status_code == 200


async def test_the_context_bounds_the_output(client: httpx.AsyncClient):
    """A prompt that leaves room for five tokens gets at most five."""
    prompt = "w" * (CONTEXT - 73 - len("\n") - 1 - 5)
    body = (await client.post("/api/ocr", **form(0, mode="freeform", prompt=prompt, max_tokens="24"))).json()
    assert (body["usage"]["prompt_tokens"], body["usage"]["output_tokens"]) == (CONTEXT - 5, 5)
    assert body["truncated"] is True


async def test_a_hung_engine_core_is_noticed_and_replaced(
    client: httpx.AsyncClient, service: Served, long_page: dict[str, Any]
):
    """A stopped process neither answers nor dies: after ENGINE_STALL_SECONDS it counts as failed, and is killed.

    Probes see it, and the same process serves again, with the same text.
    """
    whole = (await client.post("/api/ocr", **form(2))).json()
    family = psutil.Process(service.process.pid).children(recursive=True)
    core = next(process for process in family if "EngineCore" in " ".join(process.cmdline()))
    workers = core.children(recursive=True)
    waiting = await start(client, long_page)
    core.suspend()
    hung = time.monotonic()
    answer = await waiting
    # Counted from the last piece of text, which is older than the stop.
    assert STALL - 1 < time.monotonic() - hung < STALL + 5
    assert (answer.status_code, answer.json()["code"]) == (503, "engine_failed")
    assert answer.headers["retry-after"] == "5"
    assert (await client.get("/readyz")).status_code == 503
    slowest = 0.0
    while (await client.get("/readyz")).status_code != 200:
        assert time.monotonic() - hung < LOADING_SECONDS, "the engine did not come back"
        asked = time.monotonic()
        assert (await client.get("/livez")).status_code == 200
        slowest = max(slowest, time.monotonic() - asked)
        await asyncio.sleep(0.05)
    assert slowest < 5
    assert not core.is_running()
    assert not psutil.wait_procs(workers, timeout=10)[1]
    assert (await client.post("/api/ocr", **form(2))).json()["raw_text"] == whole["raw_text"]
    assert metric((await client.get("/metrics")).text, "vllm:prompt_tokens_total") > 0


async def test_ctrl_c_lets_the_running_request_end_and_leaves_no_process_behind(
    client: httpx.AsyncClient, service: Served, long_page_and_text: tuple[dict[str, Any], str]
):
    """A terminal sends SIGINT to every process of the group, vLLM's too; all end by themselves. Keep this test last."""
    long_page, whole = long_page_and_text
    family = [psutil.Process(service.process.pid), *psutil.Process(service.process.pid).children(recursive=True)]
    assert any("EngineCore" in " ".join(process.cmdline()) for process in family)
    before = len(log_events(service))
    waiting = await start(client, long_page)
    group = os.getpgid(service.process.pid)
    for process in family:
        if os.getpgid(process.pid) == group:
            process.send_signal(signal.SIGINT)
    answer = await waiting
    assert (answer.status_code, answer.json()["raw_text"]) == (200, whole)
    assert await asyncio.to_thread(service.process.wait, 60) == 0
    assert not psutil.wait_procs(family, timeout=5)[1]
    assert not [event for event in log_events(service)[before:] if "kill" in event]
