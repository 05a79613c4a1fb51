"""`POST /api/ocr`: the contract existing front ends rely on, and what it adds."""

from __future__ import annotations

import base64
import io
import json
import re

import httpx_sse
import pytest
from PIL import Image

from app.engine.base import Finish, Usage
from app.ocr.modes import MODES
from tests.engines import SayingEngine, ScriptedEngine, ViewsEngine
from tests.serving import png, serving, upload


@pytest.mark.parametrize("stream", ["false", "true"])
async def test_html_is_given_when_it_is_asked_for(stream):
    """Figures are inside, cut out of the page."""
    fields = {"mode": "markdown", "html": "true", "stream": stream}
    async with serving() as client:
        answer = await client.post("/api/ocr", files=upload(png(100, 100)), data=fields)
    text = answer.text.rpartition("data: ")[2] if stream == "true" else answer.text
    html = json.loads(text)["html"]
    assert html.startswith('<div data-block="0"><h1>The fake engine</h1></div>\n')
    assert '<figure><img alt="images/page-1-img-1.jpg" src="data:image/jpeg;base64,/9j/' in html
    assert html.endswith("<tr><td>height</td><td>100</td></tr></tbody></table></div>")


@pytest.mark.parametrize("stream", ["false", "true"])
async def test_an_engine_may_ask_for_views_instead_of_the_page(stream):
    """Its boxes are still those of the page, and its figures are cut out of that."""
    fields = {"mode": "markdown", "html": "true", "stream": stream}
    async with serving(ViewsEngine()) as client:
        answer = await client.post("/api/ocr", files=upload(png(700, 1400)), data=fields)
        refused = await client.post("/api/ocr", files=upload(), data={"resolution": "tiny"})
    body = json.loads(answer.text.rpartition("data: ")[2] if stream == "true" else answer.text)
    assert body["text"] == "2 tiles and 1024 px\n![image](images/0.jpg)"
    assert body["boxes"] == [{"label": "image", "box": [0, 0, 350, 1400]}]
    figure = re.search(r"data:image/jpeg;base64,([^\"]+)", body["html"])[1]
    assert Image.open(io.BytesIO(base64.b64decode(figure))).size == (350, 1400)
    assert (refused.status_code, refused.json()["detail"]) == (422, "This resolution cannot be read.")


async def test_answer_holds_the_whole_contract_and_what_was_added():
    """Every key of the predecessor, in its place, and the new ones beside them."""
    async with serving() as client:
        answer = await client.post("/api/ocr", files=upload(png(40, 20)), headers={"X-Request-ID": "job-7"})
    assert answer.status_code == 200
    body = answer.json()
    timing = body.pop("timing")
    assert body == {
        "success": True,
        "text": "The fake engine.\nThis picture of 40 by 20 pixels was not read.",
        "raw_text": "The fake engine.\nThis picture of 40 by 20 pixels was not read.",
        "boxes": [],
        "image_dims": {"w": 40, "h": 20},
        "metadata": {
            "mode": "plain_ocr",
            "grounding": False,
            "base_size": 1024,
            "image_size": 640,
            "crop_mode": True,
            "inference_engine": "fake",
            "engine": "fake",
            "model": "fake",
            "resolution": "gundam",
            "page": 1,
            "pages": 1,
            "dpi": None,
            "notice": None,
        },
        "finish_reason": "stop",
        "truncated": False,
        "looped": False,
        "attempts": 1,
        "usage": {"prompt_tokens": 2, "image_tokens": 0, "output_tokens": 12},
        "request_id": "job-7",
        "html": None,
        "blocks": None,
    }
    assert set(timing) == {"queue", "decode", "engine", "render", "total"}
    assert answer.headers["x-request-id"] == "job-7"


async def test_a_front_end_that_sends_every_field_as_text_gets_the_defaults():
    """Empty strings and JSON-style booleans are what browsers send."""
    form = {
        "mode": "plain_ocr", "prompt": "", "grounding": "false", "include_caption": "false", "find_term": "",
        "schema": "", "base_size": "1024", "image_size": "640", "crop_mode": "true", "test_compress": "false",
        "resolution": "", "max_tokens": "", "stream": "false",
    }  # fmt: skip
    engine = ScriptedEngine()
    async with serving(engine) as client:
        answer = await client.post("/api/ocr", files=upload(), data=form)
    assert answer.status_code == 200
    assert answer.json()["metadata"]["crop_mode"] is True
    assert engine.requests[0].prompt == "Free OCR."
    assert engine.requests[0].resolution.name == "gundam"


@pytest.mark.parametrize(
    ("form", "prompt"),
    [
        ({"mode": "plain_ocr"}, "Free OCR."),
        ({"mode": "plain_ocr", "grounding": "true"}, "<|grounding|>OCR this image."),
        ({"mode": "markdown"}, "<|grounding|>Convert the document to markdown."),
        ({"mode": "tables_csv"}, "<|grounding|>Convert the document to markdown."),
        ({"mode": "tables_md"}, "<|grounding|>Convert the document to markdown."),
        ({"mode": "layout_map"}, "<|grounding|>Convert the document to markdown."),
        ({"mode": "figure_chart"}, "Parse the figure."),
        ({"mode": "describe"}, "Describe this image in detail."),
        ({"mode": "multilingual"}, "Free OCR."),
        ({"mode": "find_ref", "find_term": "Invoice no."}, "Locate <|ref|>Invoice no.<|/ref|> in the image."),
        ({"mode": "find_ref"}, "Locate <|ref|>Total<|/ref|> in the image."),
        ({"mode": "freeform", "prompt": "Count {schema} words."}, "Count {schema} words."),
        ({"mode": "freeform"}, "Free OCR."),
        ({"mode": "freeform", "prompt": "Read.", "grounding": "true"}, "<|grounding|>Read."),
    ],
)
async def test_prompts_are_the_published_ones_word_for_word(form, prompt):
    """What reaches the model is what its authors published, with no newline after the grounding token."""
    engine = ScriptedEngine()
    async with serving(engine) as client:
        answer = await client.post("/api/ocr", files=upload(), data=form)
    assert answer.status_code == 200
    assert engine.requests[0].prompt == prompt


async def test_caption_schema_and_limits_reach_the_engine():
    """The remaining options, as an engine receives them."""
    engine = ScriptedEngine()
    async with serving(engine) as client:
        form = {"mode": "kv_json", "schema": '{"date": ""}', "include_caption": "true", "max_tokens": "77"}
        await client.post("/api/ocr", files=upload(), data={**form, "resolution": "tiny"})
        await client.post("/api/ocr", files=upload(), data={"mode": "describe", "include_caption": "true"})
    fields, described = engine.requests
    assert fields.prompt.split("\n")[1:] == ['{"date": ""}', "Finish with one sentence that describes the whole image."]
    assert (fields.max_tokens, fields.resolution.base_size, fields.resolution.crop_mode) == (77, 512, False)
    assert described.prompt == "Describe this image in detail."


async def test_boxes_are_pixels_of_the_picture_and_text_is_free_of_tags():
    """The predecessor lost every box of a page with two blocks."""
    raw = (
        "<|ref|>title<|/ref|><|det|>[[0, 0, 999, 500]]<|/det|>\n# Head\n\n"
        "<|ref|>text<|/ref|><|det|>[[100, 500, 899, 999]]<|/det|>\nBody"
    )
    async with serving(SayingEngine(raw)) as client:
        body = (await client.post("/api/ocr", files=upload(png(200, 100)), data={"mode": "markdown"})).json()
    assert body["text"] == "# Head\n\nBody"
    assert body["raw_text"] == raw
    assert body["boxes"] == [
        {"label": "title", "box": [0, 0, 200, 50]},
        {"label": "text", "box": [20, 50, 179, 100]},
    ]
    assert body["metadata"]["grounding"] is True


async def test_tables_of_the_page_become_csv_and_markdown():
    """The model writes tables as HTML; spreadsheets and readers want something else."""
    raw = "Some words.\n<table><tr><td>a</td><td>b, c</td></tr><tr><td>1</td><td>2</td></tr></table>"
    async with serving(SayingEngine(raw)) as client:
        as_csv = (await client.post("/api/ocr", files=upload(), data={"mode": "tables_csv"})).json()["text"]
        as_md = (await client.post("/api/ocr", files=upload(), data={"mode": "tables_md"})).json()["text"]
    assert as_csv.splitlines() == ['a,"b, c"', "1,2"]
    assert as_md.splitlines() == ["| a | b, c |", "| --- | --- |", "| 1 | 2 |"]


async def test_garbage_tags_stay_text():
    """A model's broken tag costs nothing but its own looks."""
    raw = "a <|ref|>b<|/ref|><|det|>[[1,2,3]]<|/det|> <|ref|>c<|det|> __import__('os')"
    async with serving(SayingEngine(raw)) as client:
        body = (await client.post("/api/ocr", files=upload())).json()
    assert body["text"] == raw
    assert body["boxes"] == []


async def test_truncation_and_loops_are_told():
    """Whoever reads the text must be able to know that it is not whole."""
    finish = Finish("length", Usage(10, 100, 4096), "base")
    async with serving(SayingEngine("the same words " * 400, finish)) as client:
        body = (await client.post("/api/ocr", files=upload())).json()
        metrics = (await client.get("/metrics")).text
    assert (body["finish_reason"], body["truncated"], body["looped"]) == ("length", True, True)
    assert body["usage"] == {"prompt_tokens": 10, "image_tokens": 100, "output_tokens": 4096}
    assert body["metadata"]["resolution"] == "base"
    assert "ocr_loops_total 1.0" in metrics
    assert 'ocr_tokens_total{kind="output"} 4096.0' in metrics
    assert 'ocr_pages_total{finish="length",mode="plain_ocr"} 1.0' in metrics
    assert 'ocr_http_requests_total{method="POST",route="/api/ocr",status="200"} 1.0' in metrics
    assert 'ocr_stage_seconds_count{stage="decode"} 1.0' in metrics


async def test_stream_gives_deltas_that_add_up_and_the_whole_answer_last():
    """Server-sent events: raw text as it is read, then the JSON of the plain answer."""
    async with serving() as client:
        plain = (await client.post("/api/ocr", files=upload(), data={"grounding": "true"})).json()
        async with httpx_sse.aconnect_sse(
            client, "POST", "/api/ocr", files=upload(), data={"stream": "true", "grounding": "true"}
        ) as source:
            events = [event async for event in source.aiter_sse()]
    assert [event.event for event in events[-2:]] == ["delta", "result"]
    final = json.loads(events[-1].data)
    assert "".join(json.loads(event.data)["text"] for event in events[:-1]) == final["raw_text"] == plain["raw_text"]
    for body in (plain, final):
        body.pop("timing"), body.pop("request_id")
    assert final == plain


async def test_modes_route_says_what_the_engine_can_do():
    """Twelve modes, each with its prompt, and the five published resolutions."""
    async with serving() as client:
        body = (await client.get("/api/modes")).json()
    assert [mode["name"] for mode in body["modes"]] == list(MODES)
    assert len(body["modes"]) == 12
    assert body["modes"][6] == {
        "name": "find_ref",
        "summary": "Where a term stands on the page.",
        "available": True,
        "grounding": True,
        "prompt": "Locate <|ref|>{find_term}<|/ref|> in the image.",
    }
    assert body["resolutions"]["large"] == {"base_size": 1280, "image_size": 1280, "crop_mode": False}
