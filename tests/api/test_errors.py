"""Every refusal: the right status, a stable code, a sentence that helps, nothing of a library's."""

from __future__ import annotations

import asyncio

import pytest

from app.api.gate import hash_api_key
from tests.engines import (
    BuggyEngine,
    CrashingEngine,
    HangingEngine,
    LoadingEngine,
    OutOfMemoryEngine,
    SayingEngine,
    ScriptedEngine,
    SilentEngine,
    SlowEngine,
    StartFailsEngine,
)
from tests.serving import png, serving, until_ready, upload


async def refusal(client, **request):
    """Post, and return (status, code, detail) after checking the format of the problem."""
    answer = await client.post("/api/ocr", **{"files": upload(), **request})
    body = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert list(body) == ["type", "title", "status", "code", "detail", "request_id"]
    assert body["type"] == f"urn:deepseek-ocr:error:{body['code']}"
    assert body["status"] == answer.status_code
    assert body["request_id"] == answer.headers["x-request-id"]
    return answer.status_code, body["code"], body["detail"]


@pytest.mark.parametrize(
    ("form", "detail"),
    [
        ({"mode": "dance"}, "Unknown mode 'dance'. Use one of: plain_ocr, markdown, tables_csv, tables_md, kv_json, "
         "figure_chart, find_ref, layout_map, pii_redact, multilingual, describe, freeform."),
        ({"resolution": "huge"}, "Unknown resolution 'huge'. Use one of: tiny, small, base, large, gundam."),
        ({"base_size": "1000"}, "Field 'base_size' is 1000; it must be a multiple of 64 from 64 to 2048."),
        ({"image_size": "0"}, "Field 'image_size' is 0; it must be a multiple of 64 from 64 to 2048."),
        ({"base_size": "big"}, "Field 'base_size' must be a whole number."),
        ({"base_size": "9" * 5000}, "Field 'base_size' must be a smaller number."),
        ({"grounding": "maybe"}, "Field 'grounding' must be true or false."),
        ({"max_tokens": "0"}, "Field 'max_tokens' must be at least 1."),
        ({"prompt": "a\x00b"}, "Field 'prompt' must not contain NUL characters."),
        ({"mode": "plain\x00ocr"}, "Field 'mode' must not contain NUL characters."),
        ({"prompt": "x" * 20001}, "Field 'prompt' must be at most 20000 characters long."),
        ({"find_term": "<|/ref|>"}, "Field 'find_term' must not contain '<|', which marks the model's own tags."),
    ],
)  # fmt: skip
async def test_bad_fields_are_named(form, detail):
    """A person reads which field was wrong and what it takes."""
    async with serving() as client:
        assert await refusal(client, data=form) == (422, "invalid_parameter", detail)


async def test_requests_without_a_picture_say_how_to_send_one():
    """The three ways to forget the file."""
    async with serving() as client:
        missing = await refusal(client, files={"picture": png()})
        text = await refusal(client, files=None, data={"image": "page.png"})
        empty = await refusal(client, files=upload(b""))
        nothing = await refusal(client, files=None)
    assert missing[:2] == text[:2] == nothing[:2] == (422, "invalid_parameter")
    assert "-F image=@page.png" in missing[2]
    assert "put @ before the file name" in text[2]
    assert empty == (422, "empty_upload", "The uploaded file is empty.")


async def test_bodies_that_are_not_forms_are_refused():
    """JSON to a form route, and a form that breaks off."""
    async with serving() as client:
        json_body = await refusal(client, files=None, json={"image": "aGk="})
        broken = await refusal(
            client, files=None, content=b"nonsense", headers={"content-type": "multipart/form-data; boundary=x"}
        )
        unbounded = await refusal(client, files=None, content=b"x", headers={"content-type": "multipart/form-data"})
    assert json_body[:2] == (415, "unsupported_media_type")
    assert broken[:2] == (400, "malformed_request")
    assert unbounded[:2] == (400, "malformed_request")


@pytest.mark.parametrize("charset", ["punycode", "unicode_escape", "utf-7", "no-such", "a\x01b"])
async def test_charsets_that_block_or_break_are_refused(charset):
    """Python decodes punycode in quadratic time, and unicode_escape to what no answer can be written with."""
    body = b'--x\r\nContent-Disposition: form-data; name="mode"\r\n\r\n\\ud800\r\n--x--\r\n'
    async with serving() as client:
        kind = f"multipart/form-data; boundary=x; charset={charset}"
        status, code, detail = await refusal(client, files=None, content=body, headers={"content-type": kind})
        utf8 = await refusal(
            client,
            files=None,
            content=body,
            headers={"content-type": 'multipart/form-data; charset="UTF8"; boundary=x'},
        )
    assert (status, code) == (415, "unsupported_media_type")
    assert detail == "Send the fields of the form as UTF-8, and leave 'charset' out of Content-Type."
    assert utf8[:2] == (422, "invalid_parameter")


async def test_more_than_one_picture_is_refused():
    """Reading one of them and dropping the others would look like success; a thousand would fill the memory."""
    async with serving() as client:
        two = await refusal(client, files=[("image", ("a", png())), ("image", ("b", png()))])
        many = await refusal(client, files=[(f"other{number}", ("a", png())) for number in range(9)])
    assert two == (422, "invalid_parameter", "Field 'image' was sent 2 times. Send one file in each request.")
    assert many[:2] == (400, "malformed_request")


async def test_unknown_addresses_and_methods_answer_in_the_same_format():
    """Not only /api/ocr."""
    async with serving() as client:
        lost, wrong = await client.get("/nowhere"), await client.get("/api/ocr")
    assert (lost.status_code, lost.json()["code"]) == (404, "not_found")
    assert (wrong.status_code, wrong.json()["code"], wrong.headers["allow"]) == (405, "method_not_allowed", "POST")


async def test_uploads_over_the_limit_are_refused_announced_or_not():
    """Content-Length is checked before the body, and the body while it streams in."""

    async def unannounced():
        yield b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        for _ in range(30):
            yield b"x" * 10_000

    async with serving(max_upload_size_mb=0.1) as client:
        announced = await refusal(client, files=upload(b"x" * 200_000))
        streamed = await refusal(
            client, files=None, content=unannounced(), headers={"content-type": "multipart/form-data; boundary=x"}
        )
    assert announced == streamed
    assert announced == (
        413, "upload_too_large", "The upload is larger than the 0.1 MB this service accepts. Send a smaller file.",
    )  # fmt: skip


async def test_keys_are_asked_for_when_set():
    """Either header, any of the keys, everything under /api/, nothing else."""
    hashes = ",".join((hash_api_key("first"), hash_api_key("second")))
    async with serving(api_key_hashes=hashes) as client:
        none = await client.post("/api/ocr", files=upload())
        wrong = await client.post("/api/ocr", files=upload(), headers={"X-API-Key": "third"})
        bearer = await client.post("/api/ocr", files=upload(), headers={"Authorization": "Bearer first"})
        header = await client.post("/api/ocr", files=upload(), headers={"X-API-Key": "second"})
        modes, health = await client.get("/api/modes"), await client.get("/health")
    assert [answer.status_code for answer in (none, wrong, bearer, header, modes, health)] == [
        401,
        401,
        200,
        200,
        401,
        200,
    ]
    assert none.headers["www-authenticate"] == "Bearer"
    assert none.json()["code"] == "unauthorized"


async def test_one_request_too_many_is_told_when_to_come_back():
    """The place is free again once an accepted request has its answer."""
    engine = SlowEngine(pause=0.2, words=2)
    async with serving(engine, max_queue=2) as client:
        accepted = [asyncio.create_task(client.post("/api/ocr", files=upload())) for _ in range(2)]
        while engine.running == 0:
            await asyncio.sleep(0.01)
        refused = await client.post("/api/ocr", files=upload())
        assert "ocr_queue_depth 2.0" in (await client.get("/metrics")).text
        assert [(await task).status_code for task in accepted] == [200, 200]
        later = await client.post("/api/ocr", files=upload())
        assert "ocr_queue_depth 0.0" in (await client.get("/metrics")).text
    assert (refused.status_code, refused.json()["code"], refused.headers["retry-after"]) == (429, "queue_full", "5")
    assert later.status_code == 200


async def test_a_loading_engine_answers_503_and_the_port_lives():
    """The predecessor refused connections while it loaded."""
    async with serving(LoadingEngine(), wait_ready=False) as client:
        status = await refusal(client)
        live, ready, health = [await client.get(path) for path in ("/livez", "/readyz", "/health")]
    assert status[:2] == (503, "engine_not_ready")
    assert (live.status_code, ready.status_code, ready.headers["retry-after"]) == (200, 503, "5")
    assert health.json() == {"status": "starting", "model_loaded": False, "inference_engine": "scripted"}


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (None, "There is no model at /nowhere. Set MODEL_PATH."),
        (
            RuntimeError("secret"),
            "The OCR engine could not be loaded. The operator finds the cause in the service's log.",
        ),
    ],
)
async def test_an_engine_that_cannot_start_says_why_and_is_tried_again(error, shown):
    """Readiness tells the operator's sentence, never an exception's; the next start may work."""
    async with serving(StartFailsEngine(1, error), wait_ready=False) as client:
        while (first := await client.get("/readyz")).json()["code"] == "engine_not_ready":
            await asyncio.sleep(0.01)
        assert first.json()["detail"] == shown
        assert (await client.get("/health")).json()["status"] == "unhealthy"
        assert (await refusal(client))[2] == shown
        await until_ready(client)
        assert (await client.post("/api/ocr", files=upload())).status_code == 200


async def test_an_engine_that_dies_costs_its_request_and_comes_back():
    """503 for the page it had, not ready while down, and the next page is read without a restart of the service."""
    engine = CrashingEngine()
    async with serving(engine) as client:
        assert (await refusal(client))[:2] == (503, "engine_failed")
        down = await client.get("/readyz")
        await until_ready(client)
        assert (await client.post("/api/ocr", files=upload())).json()["text"] == "word again"
    assert down.status_code == 503
    assert engine.starts == 2


async def test_a_bug_shows_nothing_of_itself():
    """One fixed sentence; the traceback is in the log under the request id."""
    async with serving(BuggyEngine()) as client:
        status, code, detail = await refusal(client)
    assert (status, code) == (500, "internal_error")
    assert "CUDA" not in detail


async def test_out_of_memory_and_silence_are_the_engines_faults():
    """Neither is a 500."""
    async with serving(OutOfMemoryEngine()) as client:
        assert (await refusal(client))[:2] == (503, "out_of_memory")
    async with serving(SilentEngine()) as client:
        assert (await refusal(client))[:2] == (503, "engine_failed")


@pytest.mark.parametrize("stream", ["false", "true"])
async def test_a_hanging_engine_is_given_up_and_its_generation_aborted(stream):
    """504 for a plain answer, an error event for a stream that has begun."""
    engine = HangingEngine()
    async with serving(engine, request_timeout_seconds=3) as client:
        answer = await client.post("/api/ocr", files=upload(), data={"stream": stream})
    assert '"code":"recognition_timeout"' in answer.text.replace(": ", ":").replace('"code": ', '"code":')
    assert answer.status_code == (504 if stream == "false" else 200)
    assert (engine.running, engine.aborted) == (0, 1)


async def test_a_mode_the_engine_cannot_do_is_refused_with_those_it_can():
    """Never a silent fallback to another mode."""

    class ReadingOnly(SayingEngine):
        def capabilities(self):
            return type(super().capabilities())(frozenset({"plain_ocr", "find_ref"}), False, 1)

    async with serving(ReadingOnly("x")) as client:
        assert await refusal(client, data={"mode": "describe"}) == (
            422,
            "mode_not_supported",
            "Mode 'describe' is not something the scripted engine can do. Modes it can do: plain_ocr, find_ref.",
        )
        modes = (await client.get("/api/modes")).json()["modes"]
    assert [mode["name"] for mode in modes if mode["available"]] == ["plain_ocr", "find_ref"]


async def test_an_unsafe_request_id_is_replaced():
    """A caller must not be able to write into our log lines."""
    async with serving(ScriptedEngine()) as client:
        answer = await client.get("/livez", headers={"X-Request-ID": "a b{}"})
        errors = await client.get("/metrics")
    assert len(answer.headers["x-request-id"]) == 32
    assert errors.status_code == 200
