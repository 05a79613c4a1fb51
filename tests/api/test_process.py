"""`POST /api/process-pdf`: short documents read while their clients wait, and nothing left behind."""

from __future__ import annotations

import asyncio
import base64
import io
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import docx
import httpx
import pytest

from app.results.writers import FORMATS
from tests.documents import EXACT, SizedEngine, book, text_of
from tests.engines import BuggyEngine, SayingEngine
from tests.ingest.pdfs import ENCRYPTED, PASSWORD
from tests.serving import serving, serving_on_port

LAYOUT = (
    "<|ref|>text<|/ref|><|det|>[[0, 0, 999, 100]]<|/det|>\nShips har-\nboured.\n\n"
    "<|ref|>image<|/ref|><|det|>[[0, 200, 499, 999]]<|/det|>\n"
)


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, empty."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def left(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith("deepseek-ocr-")]


async def process(client: httpx.AsyncClient, document: bytes, **fields: Any) -> httpx.Response:
    return await client.post("/api/process-pdf", files={"pdf_file": ("book.pdf", document)}, data={**EXACT, **fields})


async def test_a_document_is_answered_as_json(scratch: Path) -> None:
    """The whole of it, in the contract's keys."""
    async with serving(SizedEngine()) as client:
        answer = await process(client, book(4), output_format="json", pages="2-3")
    assert answer.json() == {
        "success": True,
        "total_pages": 4,
        "pages": [
            {
                "page_number": number,
                "text": text_of(number),
                "raw_text": text_of(number),
                "boxes": [],
                "images": [],
                "image_dims": {"w": 200 + number, "h": 100},
                "finish_reason": "stop",
                "looped": False,
                "error": None,
            }
            for number in (2, 3)
        ],
        "metadata": {
            "mode": "plain_ocr",
            "grounding": False,
            "base_size": 1024,
            "image_size": 640,
            "crop_mode": True,
            "dpi": 72.0,
            "inference_engine": "scripted",
            "engine": "scripted",
            "model": "scripted",
            "notice": None,
        },
    }
    assert left(scratch) == []


async def test_figures_come_as_base64_unless_they_are_not_wanted() -> None:
    async with serving(SayingEngine(LAYOUT)) as client:
        [page] = (await process(client, book(1), output_format="json", mode="markdown")).json()["pages"]
        [bare] = (await process(client, book(1), output_format="json", mode="markdown", extract_images="no")).json()[
            "pages"
        ]
    assert page["text"] == "Ships har-\nboured.\n\n![image](images/page-1-img-1.jpg)"
    assert [base64.b64decode(image)[:3] for image in page["images"]] == [b"\xff\xd8\xff"]
    assert (bare["images"], bare["text"]) == ([], page["text"])


NAMES = {
    **{"markdown": "ocr_result.md", "text": "ocr_result.txt", "html": "ocr_result.html", "docx": "ocr_result.docx"},
    **{"pdf": "ocr_result.pdf", "hocr": "ocr_result.hocr", "csv": "ocr_result.zip", "zip": "ocr_result.zip"},
    "archive": "ocr_result.zip",
}


async def test_every_other_format_is_an_attachment(scratch: Path) -> None:
    """Markdown unless another is asked for."""
    async with serving(SayingEngine(LAYOUT)) as client:
        found = {name: await process(client, book(2), output_format=name, mode="markdown") for name in NAMES}
        unsaid = await process(client, book(2), mode="markdown")
        joined = await client.post(
            "/api/process-pdf?join_hyphens=true",
            files={"pdf_file": ("book.pdf", book(1))},
            data={"output_format": "text", "mode": "markdown"},
        )
    assert set(NAMES) | {"json"} == set(FORMATS)
    for name, answer in found.items():
        assert answer.headers["content-disposition"] == f'attachment; filename="{NAMES[name]}"'
        assert answer.headers["content-type"] == FORMATS[name].media_type
    assert (
        unsaid.text
        == found["markdown"].text
        == (
            "<!-- Page 1 -->\n\nShips har-\nboured.\n\n![image](images/page-1-img-1.jpg)\n\n---\n\n"
            "<!-- Page 2 -->\n\nShips har-\nboured.\n\n![image](images/page-2-img-1.jpg)\n"
        )
    )
    assert len(docx.Document(io.BytesIO(found["docx"].content)).inline_shapes) == 2
    assert "images/page-2-img-1.jpg" in zipfile.ZipFile(io.BytesIO(found["archive"].content)).namelist()
    assert joined.text == "Ships harboured.\n"
    assert left(scratch) == []


async def test_what_cannot_be_done_is_refused(scratch: Path) -> None:
    """An unknown format is the contract's 400; what is too long for it is sent to the other address."""
    async with serving(SizedEngine(), max_sync_pages=2) as client:
        for document, fields, status, code, words in (
            (book(1), {"output_format": "odt"}, 400, "unknown_format", "Field 'output_format' takes one of markdown,"),
            (book(1), {"mode": "unknown"}, 422, "invalid_parameter", "Unknown mode 'unknown'."),
            (b"plain text", {}, 415, "unsupported_media_type", ""),
            (b"", {}, 422, "empty_upload", ""),
            (ENCRYPTED, {}, 422, "password_required", ""),
            (book(2), {"pages": "3"}, 422, "page_out_of_range", ""),
            (
                book(3),
                {},
                413,
                "too_many_pages",
                "3 pages are to be read, and this address reads at most 2 while you wait",
            ),
        ):
            answer = await process(client, document, **fields)
            assert (answer.status_code, answer.json()["code"]) == (status, code), fields
            assert answer.json()["detail"].startswith(words)
        assert "POST /api/ocr/pdf" in answer.json()["detail"]
        assert (await process(client, book(3), pages="1,3")).status_code == 200
        assert (await process(client, ENCRYPTED, password=PASSWORD)).status_code == 200
        missing = await client.post("/api/process-pdf", data={"mode": "markdown"})
        assert missing.json()["detail"].startswith("Field 'pdf_file' is missing.")
    assert left(scratch) == []


async def test_a_page_that_fails_is_marked_and_the_others_are_there() -> None:
    async with serving(SizedEngine(broken=(2,))) as client:
        body = (await process(client, book(3), output_format="json")).json()
        text = (await process(client, book(3), output_format="text")).text
        alone = await process(client, book(3), pages="2")
    assert [page["error"] and page["error"]["code"] for page in body["pages"]] == [None, "out_of_memory", None]
    assert text.split("\f")[1].startswith("[Page 2 could not be read: The engine ran out of memory")
    assert (alone.status_code, alone.json()["code"], alone.headers["retry-after"]) == (503, "out_of_memory", "10")


async def test_a_fault_of_ours_shows_nothing_of_it(scratch: Path) -> None:
    async with serving(BuggyEngine()) as client:
        answer = await process(client, book(2))
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert "secret" not in answer.text
    assert left(scratch) == []


async def test_a_document_that_takes_too_long_is_given_up(scratch: Path) -> None:
    engine = SizedEngine(pause=0.3)
    async with serving(engine, request_timeout_seconds=0.5) as client:
        answer = await process(client, book(9))
    assert (answer.status_code, answer.json()["code"]) == (504, "recognition_timeout")
    assert "POST /api/ocr/pdf" in answer.json()["detail"]
    assert engine.running == 0
    assert left(scratch) == []


async def test_a_client_that_goes_away_stops_its_pages(scratch: Path) -> None:
    """On a real connection, which breaks."""
    engine = SizedEngine(pause=0.3)
    async with serving_on_port(engine) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.post("/api/process-pdf", files={"pdf_file": ("b.pdf", book(30))}, data=EXACT, timeout=1.0)
        for _ in range(200):
            if not engine.running and not left(scratch):
                break
            await asyncio.sleep(0.02)
        read = len(engine.read)
        await asyncio.sleep(0.5)
    assert (engine.running, left(scratch)) == (0, [])
    assert len(engine.read) == read < 10
