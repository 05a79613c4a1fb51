"""The files of tasks over HTTP: every format, read by another program, under the names of their uploads."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import zipfile
from urllib.parse import quote

import docx

from app.results.writers import FORMATS
from tests.documents import SizedEngine, book, ended, keeping, reached, send, text_of
from tests.engines import SayingEngine
from tests.serving import png, upload

LAYOUT = (
    "<|ref|>title<|/ref|><|det|>[[100, 50, 500, 150]]<|/det|>\n# Harbour\n\n"
    "<|ref|>text<|/ref|><|det|>[[100, 200, 900, 300]]<|/det|>\nShips har-\nboured here.\n\n"
    "<|ref|>table<|/ref|><|det|>[[100, 400, 900, 600]]<|/det|>\n<table><tr><td>Kiel</td><td>7</td></tr></table>\n\n"
    "<|ref|>image<|/ref|><|det|>[[100, 700, 900, 900]]<|/det|>\n"
)
TYPES = {
    "markdown": "text/markdown; charset=utf-8",
    "text": "text/plain; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "json": "application/json",
    "csv": "application/zip",
    "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "pdf": "application/pdf",
    "hocr": "application/xhtml+xml; charset=utf-8",
    "archive": "application/zip",
    "zip": "application/zip",
}


async def test_a_task_is_downloaded_in_every_format(tmp_path):
    """By the addresses in its result."""
    async with keeping(tmp_path, SayingEngine(LAYOUT)) as client:
        task = await ended(client, (await send(client, book(1), mode="markdown"))["task_id"])
        answers = {name: await client.get(url) for name, url in task["result"]["files"].items()}
        joined = await client.get(task["result"]["files"]["text"], params={"join_hyphens": "true"})
    assert {name: answer.headers["content-type"] for name, answer in answers.items()} == TYPES
    assert {answer.headers["x-content-type-options"] for answer in answers.values()} == {"nosniff"}
    assert {answer.headers["content-security-policy"].endswith("; sandbox") for answer in answers.values()} == {True}
    found = {name: answer.content for name, answer in answers.items()}
    assert found["text"].decode() == "Harbour\n\nShips har-\nboured here.\n\nKiel\t7\n"
    assert joined.text == "Harbour\n\nShips harboured here.\n\nKiel\t7\n"
    assert b"<table>" in found["html"]
    assert b"data:image/jpeg;base64," in found["html"]
    assert [block["kind"] for block in json.loads(found["json"])["pages"][0]["blocks"]] == [
        *("title", "text", "table", "figure")
    ]
    word = docx.Document(io.BytesIO(found["docx"]))
    assert ([cell.text for cell in word.tables[0].rows[0].cells], len(word.inline_shapes)) == (["Kiel", "7"], 1)
    said = await asyncio.to_thread(
        subprocess.run, ["pdftotext", "-", "-"], input=found["pdf"], capture_output=True, check=True
    )
    assert {"Harbour", "Ships", "Kiel"} <= set(said.stdout.decode().split())
    assert b'class="ocrx_word"' in found["hocr"]
    assert zipfile.ZipFile(io.BytesIO(found["csv"])).namelist() == ["page-1-table-1.csv"]
    assert sorted(zipfile.ZipFile(io.BytesIO(found["zip"])).namelist()) == [
        *("images/page-1-img-1.jpg", "raw.json", "result.docx", "result.hocr", "result.html", "result.md"),
        *("result.txt", "searchable.pdf", "tables/page-1-table-1.csv"),
    ]


async def test_files_are_named_after_their_upload(tmp_path):
    """Whatever that is called: the header stays one line, the address leads nowhere else."""
    names = {
        "scan-1.pdf": "scan-1-result.txt",
        "../../etc/passwd": "passwd-result.txt",
        "港口 2026.pdf": "港口 2026-result.txt",
        "a\r\nSet-Cookie: x=1.pdf": "a%0D%0ASet-Cookie_ x=1-result.txt",  # as httpx sends it
        "<script>.pdf": "_script_-result.txt",
        "../..": "result.txt",
    }
    async with keeping(tmp_path) as client:
        for upload_name, name in names.items():
            sent = await client.post("/api/ocr/image", files=upload(png(230, 20), upload_name))
            task = (await client.get(f"/api/tasks/{sent.json()['task_id']}")).json()
            answer = await client.get(task["result"]["files"]["text"])
            encoded = quote(name)
            named = f'filename="{name}"' if encoded == name else f"filename*=utf-8''{encoded}"
            assert answer.headers["content-disposition"] == f"inline; {named}", upload_name
            assert (await client.get(task["result"]["archive_url"])).status_code == 200, upload_name


async def test_the_pages_a_cancelled_task_came_to_can_be_downloaded(tmp_path):
    """And after a retry all of them, under the same address."""
    async with keeping(tmp_path, SizedEngine(pause=0.1)) as client:
        task_id = (await send(client, book(5)))["task_id"]
        await reached(client, task_id, 2)
        assert (await client.get(f"/api/tasks/{task_id}/download/result.txt")).status_code == 404
        cancelled = (await client.post(f"/api/tasks/{task_id}/cancel")).json()
        url = cancelled["result"]["files"]["text"]
        some = (await client.get(url)).text
        await client.post(f"/api/tasks/{task_id}/retry")
        assert (await client.get(url)).status_code == 404
        await ended(client, task_id)
        everything = (await client.get(url)).text
    done = cancelled["progress"]["pages_completed"]
    assert some == "\f".join(f"{text_of(number)}\n" for number in range(1, done + 1))
    assert everything == "\f".join(f"{text_of(number)}\n" for number in range(1, 6))


async def test_what_is_asked_of_a_file_is_checked(tmp_path):
    async with keeping(tmp_path) as client:
        task = await ended(client, (await send(client, book(1)))["task_id"])
        for query, detail in {
            "drop_running=perhaps": "Field 'drop_running' must be true or false.",
            "language=<b>": "Field 'language' has a value this service does not accept.",
        }.items():
            answer = await client.get(f"{task['result']['files']['html']}?{query}")
            assert (answer.status_code, answer.json()["detail"]) == (422, detail)
        german = await client.get(f"{task['result']['files']['html']}?language=de-AT")
        assert 'lang="de-AT"' in german.text


def test_every_format_has_a_type_of_its_own_here():
    assert {name: found.media_type for name, found in FORMATS.items()} == TYPES
