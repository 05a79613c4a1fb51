"""What only a real connection shows: disconnects, live streams, slow uploads, shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import time

import httpx
import httpx_sse
import pytest
import structlog

from app.api import ocr
from app.engine.base import Chunk, Finish
from tests.engines import HangingEngine, LingeringEngine, ScriptedEngine, SlowEngine
from tests.process import served
from tests.serving import png, serving_on_port, upload


@pytest.mark.parametrize("stream", ["false", "true"])
async def test_a_client_that_goes_away_aborts_its_generation(stream):
    """Within a second, so that nobody's abandoned pages hold up the others."""
    engine = SlowEngine(pause=0.05, words=1000)
    async with serving_on_port(engine) as client:
        task = asyncio.create_task(client.post("/api/ocr", files=upload(), data={"stream": stream}))
        while engine.running == 0:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        task.cancel()
        gone = time.monotonic()
        while engine.running and time.monotonic() - gone < 5:
            await asyncio.sleep(0.01)
    assert time.monotonic() - gone < 5
    assert (engine.running, engine.aborted) == (0, 1)


@pytest.mark.parametrize("stream", ["false", "true"])
async def test_an_engine_has_the_time_to_abort(stream):
    """What cancels a stream cancels it again and again; an abort under way would be cut short."""
    engine = LingeringEngine()
    async with serving_on_port(engine) as client:
        task = asyncio.create_task(client.post("/api/ocr", files=upload(), data={"stream": stream}))
        while engine.running == 0:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        task.cancel()
        metrics = ""
        for _ in range(200):
            if 'code="client_gone"' in metrics:
                break
            await asyncio.sleep(0.05)
            metrics = (await client.get("/metrics")).text
    assert 'ocr_errors_total{code="client_gone"} 1.0' in metrics
    assert 'code="internal_error"' not in metrics
    assert (engine.running, engine.tidied) == (0, 1)


async def test_text_arrives_while_the_page_is_being_read():
    """The first words are there long before the last."""
    async with serving_on_port(SlowEngine(pause=0.1, words=8)) as client:
        arrived = []
        async with httpx_sse.aconnect_sse(
            client, "POST", "/api/ocr", files=upload(), data={"stream": "true"}
        ) as source:
            assert source.response.headers["content-type"].startswith("text/event-stream")
            async for event in source.aiter_sse():
                arrived.append((time.monotonic(), event))
    assert [event.event for _, event in arrived] == ["delta"] * 8 + ["result"]
    assert arrived[-1][0] - arrived[0][0] > 0.5
    assert json.loads(arrived[0][1].data) == {"text": "word0 "}


async def test_a_stalled_upload_is_given_up():
    """408 after the silence allowed, and the place in the queue is free again."""
    async with serving_on_port(upload_timeout_seconds=0.3, max_queue=1) as client:
        reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
        writer.write(
            b"POST /api/ocr HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
        )
        head = await asyncio.wait_for(reader.readuntil(b"\r\n"), 5)
        writer.close()
        assert head == b"HTTP/1.1 408 Request Timeout\r\n"
        assert (await client.post("/api/ocr", files=upload())).status_code == 200


async def test_an_upload_that_drips_is_given_up():
    """A byte now and then is no silence, but would hold a place for hours."""
    async with serving_on_port(upload_timeout_seconds=0.5, max_queue=1) as client:
        reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
        writer.write(
            b"POST /api/ocr HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
        )
        answer = asyncio.create_task(reader.readuntil(b"\r\n"))
        for _ in range(50):
            if answer.done():
                break
            writer.write(b"x")
            await asyncio.sleep(0.1)
        assert await asyncio.wait_for(answer, 1) == b"HTTP/1.1 408 Request Timeout\r\n"
        writer.close()


async def test_a_large_refused_upload_still_gets_its_answer():
    """The client hears 413, not a broken connection in the middle of sending."""
    async with serving_on_port(max_upload_size_mb=0.1) as client:
        answer = await client.post("/api/ocr", files=upload(b"x" * 20_000_000))
    assert (answer.status_code, answer.json()["code"]) == (413, "upload_too_large")


async def test_shutdown_finishes_what_was_accepted():
    """Queued pages included."""
    engine = SlowEngine(pause=0.05, words=4)
    async with serving_on_port(engine) as client:
        accepted = [asyncio.create_task(client.post("/api/ocr", files=upload(png(30, 30 + i)))) for i in range(3)]
        while engine.running == 0:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
    answers = [await task for task in accepted]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert sorted(answer.json()["image_dims"]["h"] for answer in answers) == [30, 31, 32]


async def test_shutdown_finishes_a_stream_that_has_begun():
    """sse_starlette alone would cut it half a second after the signal."""
    engine = SlowEngine(pause=0.2, words=8)

    async def read(client):
        request = {"files": upload(), "data": {"stream": "true"}}
        async with httpx_sse.aconnect_sse(client, "POST", "/api/ocr", **request) as source:
            return [event.event async for event in source.aiter_sse()]

    async with serving_on_port(engine) as client:
        events = asyncio.create_task(read(client))
        while engine.running == 0:
            await asyncio.sleep(0.01)
    assert await events == ["delta"] * 8 + ["result"]


@pytest.mark.parametrize("stream", ["false", "true"])
async def test_what_a_shutdown_cannot_finish_in_time_is_told_so(stream):
    """A problem like any other, where uvicorn alone answers 500 in plain text."""
    engine = SlowEngine(pause=60, words=1)
    async with serving_on_port(engine, shutdown_timeout_seconds=1) as client:
        accepted = asyncio.create_task(client.post("/api/ocr", files=upload(), data={"stream": stream}))
        while engine.running == 0:
            await asyncio.sleep(0.01)
    answer = await accepted
    assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (503, "shutting_down", "10")
    assert (engine.running, engine.aborted) == (0, 1)


async def test_a_stream_that_a_shutdown_cuts_is_logged_as_such():
    """It began with 200, and nobody else says why it has no end."""
    begun = asyncio.Event()

    async def read(client):
        request = {"files": upload(), "data": {"stream": "true"}}
        async with httpx_sse.aconnect_sse(client, "POST", "/api/ocr", **request) as source:
            async for _ in source.aiter_sse():
                begun.set()

    with structlog.testing.capture_logs() as logs:
        async with serving_on_port(HangingEngine(), shutdown_timeout_seconds=1) as client:
            reading = asyncio.create_task(read(client))
            await asyncio.wait_for(begun.wait(), 20)
        with pytest.raises(httpx.RemoteProtocolError):
            await reading
    assert [log["code"] for log in logs if log["event"] == "request" and log["path"] == "/api/ocr"] == ["shutting_down"]


async def test_a_client_that_does_not_read_its_stream_loses_its_place(monkeypatch):
    """The engine would wait for it as long as it holds the connection."""
    monkeypatch.setattr(ocr, "SEND_SECONDS", 0.5)
    engine = VerboseEngine()
    async with serving_on_port(engine) as client:
        sleeper = socket.socket()
        sleeper.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with sleeper:
            sleeper.connect((client.base_url.host, client.base_url.port))
            request = client.build_request("POST", "/api/ocr", files=upload(), data={"stream": "true"})
            head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
            sleeper.sendall(f"POST /api/ocr HTTP/1.1\r\n{head}\r\n".encode() + request.read())
            sent = time.monotonic()
            while engine.aborted == 0 and time.monotonic() - sent < 10:
                await asyncio.sleep(0.01)
            metrics = (await client.get("/metrics")).text
    assert (engine.running, engine.aborted) == (0, 1)
    assert 'ocr_errors_total{code="client_gone"} 1.0' in metrics


class VerboseEngine(ScriptedEngine):
    """Says 30 MB, more than the buffers between a client and the service hold."""

    async def script(self, request):
        for _ in range(10_000):
            yield Chunk("x" * 3_000)
        yield Chunk("", Finish("stop"))


def test_a_connection_may_rest(tmp_path):
    """Proxies keep theirs for a minute and more; the one that uvicorn closes after 5 s fails their next request."""
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(served(tmp_path / "log", inference_engine="fake", jobs_enabled=False))
        connection = http.client.HTTPConnection(service.url.removeprefix("http://"))
        stack.callback(connection.close)
        for rest in (0, 6):
            time.sleep(rest)
            connection.request("GET", "/healthz")
            assert connection.getresponse().read()
