"""Every line of the log that belongs to a request carries the id in its answer: what operators read, JSON on stderr."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from PIL import Image

from benchmarks.service import BACKEND
from tests.ingest.pictures import encode
from tests.ingest.test_decoder import stalling_jpeg
from tests.process import ROOT, Served, served
from tests.serving import png, upload

pytestmark = pytest.mark.slow

GREY = Image.new("L", (40, 20), 200)


@dataclass(frozen=True)
class Case:
    """A request, the status and the error code of its answer, and the events logged before its own `request`."""

    request: dict[str, Any]
    status: int
    code: str | None = None
    events: tuple[str, ...] = ()


def acting(engine: str, **fields: str) -> dict[str, Any]:
    """A request that the obedient engine answers as `engine` does."""
    return {"files": upload(), "data": {"mode": "freeform", "prompt": engine, **fields}}


CASES = {
    "a page": Case({"files": upload()}, 200, None, ("page_recognised",)),
    "a stream": Case({"files": upload(), "data": {"stream": "true"}}, 200, None, ("page_recognised",)),
    "an id of the caller's": Case(
        {"files": upload(), "headers": {"X-Request-ID": "job-7"}}, 200, None, ("page_recognised",)
    ),
    "the first of several pages": Case(
        {"files": upload(encode(GREY, "TIFF", save_all=True, append_images=[GREY]))}, 200, None, ("page_recognised",)
    ),
    "a damaged picture": Case({"files": upload(png()[:50])}, 422, "unreadable_image"),
    "a text file": Case({"files": upload(b"hello")}, 415, "unsupported_media_type"),
    "a picture that stalls its decoder": Case(
        {"files": upload(stalling_jpeg())}, 422, "decode_timeout", ("decoder_killed",)
    ),
    "an unknown mode": Case({"files": upload(), "data": {"mode": "dance"}}, 422, "invalid_parameter"),
    "no form": Case(
        {"content": b"x" * 9, "headers": {"Content-Type": "multipart/form-data; boundary=b"}},
        400,
        "malformed_request",
        ("a library's line",),
    ),
    "no such address": Case({"url": "/nowhere"}, 404, "not_found"),
    "an engine without memory": Case(acting("OutOfMemoryEngine"), 503, "out_of_memory"),
    "an engine that gives up": Case(acting("SilentEngine"), 503, "engine_failed"),
    "an engine with a fault": Case(acting("BuggyEngine"), 500, "internal_error", ("request_failed",)),
    "a fault in a stream": Case(acting("LateBugEngine", stream="true"), 200, "internal_error", ("request_failed",)),
    "an engine that hangs": Case(acting("HangingEngine"), 504, "recognition_timeout"),
    "one that hangs in a stream": Case(acting("HangingEngine", stream="true"), 200, "recognition_timeout"),
}


async def test_every_line_of_a_request_carries_the_id_in_its_answer(tmp_path):
    """Requests that go well and that fail, side by side, two by clients that leave."""
    engine = ("tests.engines", "ObedientEngine")
    limits = {"decode_workers": 2, "decode_timeout_seconds": 2, "request_timeout_seconds": 8}
    with serving_engine(tmp_path / "log", *engine, **limits) as service:
        async with httpx.AsyncClient(base_url=service.url, timeout=60) as client:
            answers = await asyncio.gather(
                *(client.post(**{"url": "/api/ocr", **case.request}) for case in CASES.values()),
                leave(client, "leaves", acting("HangingEngine")),
                leave(client, "leaves-stream", acting("LingeringEngine", stream="true")),
            )
    expected = {name: ["request client_gone"] for name in ("leaves", "leaves-stream")}
    for (name, case), answer in zip(CASES.items(), answers[: len(CASES)], strict=True):
        body = last_json(answer)
        assert (answer.status_code, body.get("code")) == (case.status, case.code), name
        assert body["request_id"] == answer.headers["x-request-id"], name
        expected[body["request_id"]] = [*case.events, f"request {case.code or 'ok'}"]
    assert "job-7" in expected
    lines = [json.loads(line) for line in (tmp_path / "log").read_text(encoding="utf-8").splitlines()]
    assert events_by_id(lines) == expected
    named = [position for position, line in enumerate(lines) if "request_id" in line]
    assert named == list(range(named[0], named[-1] + 1)), "a line among those of requests has no request's id"


@pytest.mark.skipif(sys.platform != "linux", reason="finds the worker by the libraries it has loaded")
async def test_the_line_of_a_worker_lost_under_a_page_carries_its_id(tmp_path):
    """The process that reads with RapidOCR hangs; the page it read before left no lines but ours."""
    engine = ("app.engine.rapidocr.engine", "RapidOcrEngine", '{"stall_timeout": 8}')
    with serving_engine(tmp_path / "log", *engine) as service:
        async with httpx.AsyncClient(base_url=service.url, timeout=60) as client:
            read = await client.post("/api/ocr", files=upload())
            worker_with("openvino", service.process.pid).send_signal(signal.SIGSTOP)
            lost = await client.post("/api/ocr", files=upload())
    assert (read.status_code, lost.status_code) == (200, 503)
    lines = [json.loads(line) for line in (tmp_path / "log").read_text(encoding="utf-8").splitlines()]
    assert events_by_id(lines) == {
        read.headers["x-request-id"]: ["page_recognised", "request ok"],
        lost.headers["x-request-id"]: ["engine_worker_lost", "request engine_failed"],
    }


@contextlib.contextmanager
def serving_engine(log: Path, *engine: str, **settings: object) -> Iterator[Served]:
    """The service with the engine of that module and class, its log as JSON."""
    paths = os.pathsep.join([str(BACKEND), str(ROOT)])
    command = [sys.executable, "-m", "tests.serve_engine", *engine]
    with served(log, command=command, pythonpath=paths, log_format="json", **settings) as running:
        yield running


async def leave(client: httpx.AsyncClient, request_id: str, request: dict[str, Any]) -> None:
    """Close the connection while the page is being read."""
    patience = httpx.Timeout(60, read=1)
    with pytest.raises(httpx.ReadTimeout):
        await client.post("/api/ocr", **request, headers={"X-Request-ID": request_id}, timeout=patience)


def last_json(answer: httpx.Response) -> dict[str, Any]:
    """The body, or of a stream the data of the last event."""
    return json.loads(answer.text.rstrip().rpartition("data: ")[2])


def events_by_id(lines: list[dict[str, Any]]) -> dict[str, list[str]]:
    """The events of every request in their order; `request` with its code."""
    found: dict[str, list[str]] = {}
    for line in lines:
        event = line["event"] if re.fullmatch("[a-z_]+", line["event"]) else "a library's line"
        if event == "request":
            event = f"request {line.get('code', 'ok')}"
        if "request_id" in line:
            found.setdefault(line["request_id"], []).append(event)
    return found


def worker_with(library: str, pid: int) -> psutil.Process:
    """The one worker process of a service that has loaded a library."""
    children = psutil.Process(pid).children(recursive=True)
    [found] = [child for child in children if any(library in file.path for file in child.memory_maps())]
    return found
