"""A page as the web page shows it: its blocks, and HTML that refers to them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from PIL import Image

from app.errors import ContextTooLong
from tests.documents import EXACT, SizedEngine, book, ended, keeping, send, text_of
from tests.engines import SayingEngine
from tests.serving import png, serving

RAW = (
    "<|ref|>title<|/ref|><|det|>[[0,0,999,99]]<|/det|>\n# Ships\n\n"
    "<|ref|>table<|/ref|><|det|>[[0,100,999,499]]<|/det|>\n<table><tr><td>Oak</td></tr></table>\n\n"
    "<|ref|>page_number<|/ref|><|det|>[[400,900,600,999]]<|/det|>\n7"
)
BLOCKS = [
    {"kind": "title", "label": "title", "text": "# Ships", "boxes": [[0, 0, 1000, 99]]},
    {"kind": "table", "label": "table", "text": "<table><tr><td>Oak</td></tr></table>", "boxes": [[0, 100, 1000, 499]]},
    {"kind": "page_number", "label": "page_number", "text": "7", "boxes": [[400, 900, 600, 1000]]},
]
HTML = (
    '<div data-block="0"><h1>Ships</h1></div>\n'
    '<div data-block="1"><table><tbody><tr><td>Oak</td></tr></tbody></table></div>\n'
    '<div data-block="2"><div class="aside"><p dir="auto">7</p></div></div>'
)


async def read(mode: str, raw: str, **form: str) -> Any:
    async with serving(SayingEngine(raw)) as client:
        answer = await client.post("/api/ocr", files={"image": png(1000, 1000)}, data={"mode": mode, **form})
    return answer.json()


async def test_the_blocks_of_a_page_come_with_its_html_which_refers_to_them() -> None:
    body = await read("markdown", RAW, html="true")
    assert body["blocks"] == BLOCKS
    assert body["html"] == HTML


async def test_lines_are_blocks_too() -> None:
    body = await read(
        "plain_ocr",
        "<|ref|>One<|/ref|><|det|>[[0,0,99,9]]<|/det|>\n<|ref|>Two<|/ref|><|det|>[[0,9,99,19]]<|/det|>",
        grounding="true",
        html="true",
    )
    assert [(block["kind"], block["text"]) for block in body["blocks"]] == [("line", "One"), ("line", "Two")]
    assert body["html"] == '<p dir="auto"><span data-block="0">One</span><br><span data-block="1">Two</span></p>'


async def test_blocks_are_not_made_for_those_who_did_not_ask() -> None:
    body = await read("markdown", RAW)
    assert (body["blocks"], body["html"]) == (None, None)


async def test_one_page_of_a_task_is_given_with_its_html_and_blocks(tmp_path: Path) -> None:
    async with keeping(tmp_path, SizedEngine()) as client:
        task_id = (await send(client, book(3), **EXACT, pages="1,3"))["task_id"]
        task = await ended(client, task_id)
        assert task["pages"] == "1,3"
        page = (await client.get(f"/api/tasks/{task_id}/pages/3")).json()
        missing = await client.get(f"/api/tasks/{task_id}/pages/2")
    assert {name: page[name] for name in task["result"]["pages"][1]} == task["result"]["pages"][1]
    assert page["html"] == f'<div data-block="0"><p dir="auto">{text_of(3)}</p></div>'
    assert page["blocks"] == [{"kind": "text", "label": "", "text": text_of(3), "boxes": []}]
    assert (missing.status_code, missing.json()["code"]) == (404, "task_page_not_found")


async def test_the_figures_of_a_tasks_page_are_in_its_html(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (200, 100), "red").save(buffer, "PNG")
    engine = SayingEngine("<|ref|>image<|/ref|><|det|>[[0,0,500,500]]<|/det|>")
    async with keeping(tmp_path, engine) as client:
        task_id = (await send(client, buffer.getvalue(), mode="markdown"))["task_id"]
        await ended(client, task_id)
        page = (await client.get(f"/api/tasks/{task_id}/pages/1")).json()
    assert page["html"].startswith(
        '<div data-block="0"><figure><img alt="images/page-1-img-1.jpg" src="data:image/jpeg;base64,'
    )


async def test_a_page_that_waits_is_null_and_one_that_failed_counts(tmp_path: Path) -> None:
    async with keeping(tmp_path, SizedEngine(broken=(2,), error=ContextTooLong)) as client:
        task_id = (await send(client, book(2), **EXACT))["task_id"]
        task = await ended(client, task_id)
        failed = (await client.get(f"/api/tasks/{task_id}/pages/2")).json()
        assert task["progress"]["pages_failed"] == 1
        assert failed["error"]["code"] == "context_too_long"
        (shown,) = (await client.get("/api/tasks")).json()["tasks"]
        assert shown["progress"]["pages_failed"] == 1
        waiting = (await send(client, book(1), **EXACT, priority="-1"))["task_id"]
        first = await client.get(f"/api/tasks/{waiting}/pages/1")
    assert first.status_code == 200
    assert first.json() is None or first.json()["markdown"] == text_of(1)
