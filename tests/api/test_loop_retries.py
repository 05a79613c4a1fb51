"""Pages whose text repeats itself without end: read again, broken off early, and marked when they stay bad."""

from __future__ import annotations

import json

import httpx_sse

from tests.engines import RetryingEngine, SayingEngine
from tests.serving import serving, upload

LOOP = "The same sentence comes again. " * 400
OTHER_LOOP = "Another sentence comes again. " * 400
GOOD = "A page that ends."


async def test_a_looping_page_is_read_again_and_the_answer_says_so():
    """The text is the second attempt's, which the engine was asked for by number."""
    engine = RetryingEngine([LOOP, GOOD])
    async with serving(engine) as client:
        body = (await client.post("/api/ocr", files=upload())).json()
    assert (body["text"], body["looped"], body["attempts"]) == (GOOD, False, 2)
    assert [request.attempt for request in engine.requests] == [0, 1]


async def test_a_page_that_stays_bad_is_returned_and_marked():
    """The last attempt's whole text, never nothing."""
    engine = RetryingEngine([LOOP, LOOP, OTHER_LOOP])
    async with serving(engine) as client:
        body = (await client.post("/api/ocr", files=upload())).json()
        metrics = (await client.get("/metrics")).text
    assert (body["raw_text"], body["looped"], body["attempts"]) == (OTHER_LOOP, True, 3)
    assert "ocr_retries_total 2.0" in metrics
    assert "ocr_loops_total 1.0" in metrics


async def test_an_obvious_loop_is_broken_off_unless_it_is_the_last_attempt():
    """Nobody waits for the end of a loop; the last attempt runs to its own end, so that its finish is true."""
    engine = RetryingEngine([LOOP, OTHER_LOOP])
    async with serving(engine) as client:
        body = (await client.post("/api/ocr", files=upload())).json()
    assert engine.said == [4_000, len(OTHER_LOOP)]
    assert engine.aborted == 1
    assert body["finish_reason"] == "stop"


async def test_an_engine_without_retries_reads_a_looping_page_once():
    """An engine says how often it can be asked again; most cannot."""
    engine = SayingEngine(LOOP)
    async with serving(engine) as client:
        body = (await client.post("/api/ocr", files=upload())).json()
    assert (body["looped"], body["attempts"], len(engine.requests)) == (True, 1, 1)


async def test_a_streaming_client_is_told_that_the_text_starts_again():
    """The deltas after the last restart joined are raw_text."""
    engine = RetryingEngine([LOOP, GOOD])
    async with serving(engine) as client:
        request = {"files": upload(), "data": {"stream": "true"}}
        async with httpx_sse.aconnect_sse(client, "POST", "/api/ocr", **request) as source:
            events = [(event.event, json.loads(event.data)) async for event in source.aiter_sse()]
    names = [name for name, _ in events]
    assert names == ["delta"] * 8 + ["restart", "delta", "result"]
    assert events[8][1] == {"attempt": 2}
    assert events[9][1]["text"] == events[10][1]["raw_text"] == GOOD
