"""Documents over HTTP: tasks, their files, and what is refused."""

from __future__ import annotations

import asyncio
import io
import json
import zipfile

import structlog
from httpx_sse import aconnect_sse
from PIL import Image

from app.api.gate import hash_api_key
from app.errors import ContextTooLong
from tests.documents import FallingEngine, SizedEngine, book, ended, keeping, reached, send, text_of
from tests.engines import BuggyEngine, LoadingEngine, SayingEngine
from tests.ingest.pdfs import ENCRYPTED, PASSWORD, Sheet, pdf
from tests.ingest.pictures import encode
from tests.serving import png, serving, upload

LAYOUT = (
    "<|ref|>text<|/ref|><|det|>[[0, 0, 999, 100]]<|/det|>\nA figure:\n\n"
    "<|ref|>image<|/ref|><|det|>[[0, 200, 499, 999]]<|/det|>\n"
)


def tiff(*sizes: tuple[int, int]) -> bytes:
    """A TIFF of white pages."""
    pages = [Image.new("RGB", size, "white") for size in sizes]
    return encode(pages[0], "TIFF", save_all=True, append_images=pages[1:])


async def test_a_document_becomes_a_task_and_its_pages_the_result(tmp_path):
    """The whole JSON, but for times."""
    async with keeping(tmp_path) as client:
        accepted = await send(client, book(3))
        task_id = accepted["task_id"]
        assert (accepted["status"], accepted["result"], accepted["task_type"]) == ("pending", None, "pdf")
        task = await ended(client, task_id)
    files = f"/api/tasks/{task_id}/download"
    times = {name: task.pop(name) for name in ("created_at", "updated_at", "timing")}
    assert task == {
        "task_id": task_id,
        "status": "succeeded",
        "task_type": "pdf",
        "error_message": None,
        "error_code": None,
        "name": "book.pdf",
        "priority": 0,
        "pages": "1-3",
        "result": {
            "markdown_url": f"{files}/result.md",
            "raw_json_url": f"{files}/raw.json",
            "archive_url": f"{files}/book_PDF_OCR_Result.zip",
            "image_urls": [],
            "files": {
                "markdown": f"{files}/result.md",
                "text": f"{files}/result.txt",
                "html": f"{files}/result.html",
                "json": f"{files}/raw.json",
                "csv": f"{files}/tables.zip",
                "docx": f"{files}/result.docx",
                "pdf": f"{files}/searchable.pdf",
                "hocr": f"{files}/result.hocr",
                "archive": f"{files}/book_PDF_OCR_Result.zip",
                "zip": f"{files}/all.zip",
            },
            "pages": [
                {
                    "index": index,
                    "markdown": text_of(index + 1),
                    "raw_text": text_of(index + 1),
                    "image_assets": [],
                    "boxes": [],
                    "image_dims": {"w": 201 + index, "h": 100},
                    "dpi": 72.0,
                    "finish_reason": "stop",
                    "looped": False,
                    "attempts": 1,
                    "error": None,
                }
                for index in range(3)
            ],
        },
        "progress": {
            "current": 3,
            "total": 3,
            "percent": 100,
            "message": "Done",
            "pages_completed": 3,
            "pages_total": 3,
            "pages_failed": 0,
        },
        "failed_pages": [],
        "webhook": None,
    }
    timing = times["timing"]
    assert times["created_at"] == timing["queued_at"] <= timing["started_at"] <= timing["finished_at"]
    assert timing["finished_at"] == times["updated_at"]
    assert timing["duration_ms"] >= 0


async def test_results_are_files_to_download(tmp_path):
    """Figures are cut out and linked under names of their own, and all of it is in the archive."""
    async with keeping(tmp_path, SayingEngine(LAYOUT)) as client:
        accepted = await send(client, book(2), mode="markdown")
        task = await ended(client, accepted["task_id"])
        result = task["result"]
        markdown = await client.get(result["markdown_url"])
        raw = await client.get(result["raw_json_url"])
        archive = await client.get(result["archive_url"])
        pictures = [await client.get(url) for url in result["image_urls"]]
    assert markdown.text == (
        "<!-- Page 1 -->\n\nA figure:\n\n![image](images/page-1-img-1.jpg)\n\n---\n\n"
        "<!-- Page 2 -->\n\nA figure:\n\n![image](images/page-2-img-1.jpg)\n"
    )
    assert markdown.headers["content-type"] == "text/markdown; charset=utf-8"
    assert [page["image_assets"] for page in result["pages"]] == [
        ["images/page-1-img-1.jpg"],
        ["images/page-2-img-1.jpg"],
    ]
    assert [{name: page[name] for name in result["pages"][0]} for page in raw.json()["pages"]] == result["pages"]
    assert all(answer.content.startswith(b"\xff\xd8\xff") for answer in pictures)
    assert archive.headers["content-disposition"] == 'attachment; filename="book_PDF_OCR_Result.zip"'
    with zipfile.ZipFile(io.BytesIO(archive.content)) as packed:
        assert sorted(packed.namelist()) == [
            "images/page-1-img-1.jpg",
            "images/page-2-img-1.jpg",
            "raw.json",
            "result.md",
        ]
        assert packed.read("result.md").decode() == markdown.text


async def test_some_pages_of_a_document_can_be_asked_for(tmp_path):
    """In their order, each once."""
    async with keeping(tmp_path) as client:
        accepted = await send(client, book(9), pages="8-, 2,1-2")
        assert accepted["progress"]["pages_total"] == 4
        task = await ended(client, accepted["task_id"])
    assert [page["index"] for page in task["result"]["pages"]] == [0, 1, 7, 8]
    assert [page["markdown"] for page in task["result"]["pages"]] == [text_of(number) for number in (1, 2, 8, 9)]


async def test_tiffs_and_pictures_are_documents_too(tmp_path):
    """A picture is one of a single page."""
    async with keeping(tmp_path) as client:
        stack = await send(client, tiff((230, 20), (240, 20)))
        single = await send(client, png(250, 20))
        assert [page["markdown"] for page in (await ended(client, stack["task_id"]))["result"]["pages"]] == [
            text_of(30),
            text_of(40),
        ]
        assert [page["markdown"] for page in (await ended(client, single["task_id"]))["result"]["pages"]] == [
            text_of(50)
        ]


REFUSED = [
    (b"", {}, 422, "empty_upload"),
    (b"plain text", {}, 415, "unsupported_media_type"),
    (book(1)[:-60], {}, 422, "unreadable_pdf"),
    (ENCRYPTED, {}, 422, "password_required"),
    (ENCRYPTED, {"password": "no"}, 422, "wrong_password"),
    (book(2), {"pages": "2-3"}, 422, "page_out_of_range"),
    (book(2), {"pages": "0"}, 422, "page_out_of_range"),
    (book(2), {"pages": "2-1"}, 422, "invalid_parameter"),
    (book(2), {"pages": "one"}, 422, "invalid_parameter"),
    (book(2), {"pages": "-"}, 422, "invalid_parameter"),
    (book(2), {"priority": "101"}, 422, "invalid_parameter"),
    (book(2), {"mode": "unknown"}, 422, "invalid_parameter"),
    (book(2), {"webhook_url": "ftp://host.example/"}, 422, "webhook_refused"),
    (book(2), {"webhook_url": "http://127.0.0.1/"}, 422, "webhook_refused"),
]


async def test_what_cannot_be_read_is_refused_at_once(tmp_path):
    """And leaves nothing on the disk."""
    async with keeping(tmp_path) as client:
        for document, fields, status, code in REFUSED:
            answer = await client.post("/api/ocr/pdf", files={"pdf": ("book.pdf", document)}, data=fields)
            assert (answer.status_code, answer.json()["code"]) == (status, code), fields
        assert (await client.get("/api/tasks")).json() == {"tasks": [], "next_cursor": None}
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_dir() and entry.name != "spool"] == ["replicas"]


async def test_a_missing_document_is_named(tmp_path):
    """With the command that would have sent it."""
    async with keeping(tmp_path) as client:
        answer = await client.post("/api/ocr/pdf", data={"mode": "markdown"})
    assert answer.status_code == 422
    assert answer.json()["detail"] == (
        "Field 'pdf' is missing. Send the document as the multipart/form-data file field 'pdf', "
        "as in: curl -F pdf=@document.pdf."
    )


async def test_an_encrypted_document_is_read_with_its_password(tmp_path):
    """Which no answer repeats."""
    async with keeping(tmp_path) as client:
        accepted = await send(client, ENCRYPTED, password=PASSWORD)
        task = await ended(client, accepted["task_id"])
    assert task["status"] == "succeeded"
    assert PASSWORD not in json.dumps(task, ensure_ascii=False)


async def test_a_page_that_fails_is_marked_and_can_be_tried_again(tmp_path):
    """The others are read once."""
    engine = SizedEngine(broken=(2,))
    async with keeping(tmp_path, engine) as client:
        task_id = (await send(client, book(3)))["task_id"]
        task = await ended(client, task_id)
        assert (task["status"], [page["page"] for page in task["failed_pages"]]) == ("succeeded", [2])
        assert task["failed_pages"][0]["code"] == "out_of_memory"
        assert [page["error"] and page["error"]["code"] for page in task["result"]["pages"]] == [
            None,
            "out_of_memory",
            None,
        ]
        text = (await client.get(task["result"]["markdown_url"])).text
        assert "<!-- Page 2 -->\n\n<!-- Page 2 could not be read: The engine ran out of memory" in text
        engine.broken.clear()
        again = await client.post(f"/api/tasks/{task_id}/retry")
        assert (again.status_code, again.json()["progress"]["pages_completed"]) == (202, 2)
        task = await ended(client, task_id)
        assert [page["markdown"] for page in task["result"]["pages"]] == [text_of(number) for number in (1, 2, 3)]
        assert task["failed_pages"] == []
        nothing_left = await client.post(f"/api/tasks/{task_id}/retry")
        assert (nothing_left.status_code, nothing_left.json()["code"]) == (409, "task_conflict")
    assert [engine.read.count(number) for number in (1, 3)] == [1, 1]


async def test_a_document_of_which_no_page_can_be_read_has_failed(tmp_path):
    """With the reason of the first."""
    async with keeping(tmp_path, BuggyEngine()) as client:
        task = await ended(client, (await send(client, book(2)))["task_id"])
    assert (task["status"], task["error_code"], task["result"]) == ("failed", "no_page_read", None)
    assert task["error_message"].startswith("None of the pages could be read. The first: The service failed")
    assert "secret" not in json.dumps(task)


async def test_a_page_under_which_the_engine_dies_is_read_by_the_next_one(tmp_path):
    """An engine that is away is waited for."""
    engine = FallingEngine()
    async with keeping(tmp_path, engine) as client:
        task = await ended(client, (await send(client, book(2)))["task_id"])
    assert [page["markdown"] for page in task["result"]["pages"]] == [text_of(1), text_of(2)]
    assert engine.starts == 2


async def test_a_document_is_taken_while_the_engine_still_loads(tmp_path):
    """It waits; a single picture is refused."""
    async with keeping(tmp_path, LoadingEngine(), wait_ready=False) as client:
        accepted = await send(client, book(1))
        assert (await client.post("/api/ocr", files=upload())).status_code == 503
        for _ in range(400):
            task = (await client.get(f"/api/tasks/{accepted['task_id']}")).json()
            if task["status"] == "running":
                break
            await asyncio.sleep(0.02)
        assert (task["status"], task["progress"]["pages_completed"]) == ("running", 0)
        cancelled = (await client.post(f"/api/tasks/{accepted['task_id']}/cancel")).json()
        assert (cancelled["status"], cancelled["error_code"]) == ("failed", "cancelled")


async def test_cancelling_stops_the_page_that_is_being_read(tmp_path):
    """What was read is kept, and a retry reads the rest."""
    engine = SizedEngine(pause=0.1)
    async with keeping(tmp_path, engine) as client:
        task_id = (await send(client, book(6)))["task_id"]
        await reached(client, task_id, 2)
        cancelled = (await client.post(f"/api/tasks/{task_id}/cancel")).json()
        assert (cancelled["status"], cancelled["error_code"]) == ("failed", "cancelled")
        for _ in range(100):
            if not engine.running:
                break
            await asyncio.sleep(0.02)
        assert engine.running == 0
        done = cancelled["progress"]["pages_completed"]
        there = await client.get(f"/api/tasks/{task_id}/download/result.md")
        assert there.text.count("This page is") == done
        assert (await client.post(f"/api/tasks/{task_id}/retry")).status_code == 202
        task = await ended(client, task_id)
    assert 2 <= done < 6
    assert [page["markdown"] for page in task["result"]["pages"]] == [text_of(number) for number in range(1, 7)]


async def test_a_deleted_task_is_gone_with_its_files(tmp_path):
    """Whether it was finished or not."""
    async with keeping(tmp_path, SizedEngine(pause=0.2)) as client:
        finished = (await send(client, book(1)))["task_id"]
        await ended(client, finished)
        unfinished = (await send(client, book(50)))["task_id"]
        await reached(client, unfinished, 1)
        for task_id in (finished, unfinished):
            assert (await client.delete(f"/api/tasks/{task_id}")).status_code == 204
            for path in ("", "/download/result.md", "/events"):
                answer = await client.get(f"/api/tasks/{task_id}{path}")
                assert (answer.status_code, answer.json()["code"]) == (404, "task_not_found")
            assert (await client.delete(f"/api/tasks/{task_id}")).status_code == 404
        assert [entry.name for entry in tmp_path.iterdir() if entry.is_dir() and entry.name != "spool"] == ["replicas"]


async def test_an_idempotency_key_gives_the_same_task_for_the_same_upload(tmp_path):
    """And another upload under it is refused."""
    key = {"Idempotency-Key": "order-4711"}
    async with keeping(tmp_path) as client:
        first, second = await asyncio.gather(send(client, book(2), key), send(client, book(2), key))
        assert first["task_id"] == second["task_id"]
        for document, dpi in ((book(3), "72"), (book(2), "90")):
            files = {"pdf": ("b.pdf", document)}
            answer = await client.post("/api/ocr/pdf", files=files, data={"dpi": dpi}, headers=key)
            assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_conflict")
        assert len((await client.get("/api/tasks")).json()["tasks"]) == 1


async def test_tasks_are_listed_newest_first_a_few_at_a_time(tmp_path):
    """The cursor leads to the older ones."""
    async with keeping(tmp_path) as client:
        ids = [(await send(client, book(1)))["task_id"] for _ in range(5)]
        for task_id in ids:
            await ended(client, task_id)
        first = (await client.get("/api/tasks?limit=3")).json()
        rest = (await client.get("/api/tasks", params={"limit": 3, "cursor": first["next_cursor"]})).json()
        none = (await client.get("/api/tasks?status=running")).json()
        wrong = await client.get("/api/tasks?cursor=abc")
    assert [task["task_id"] for task in first["tasks"] + rest["tasks"]] == ids[::-1]
    assert (rest["next_cursor"], none["tasks"], wrong.status_code) == (None, [], 422)


async def test_events_tell_of_each_page_and_resume_where_they_were_left(tmp_path):
    """Their ids count the pages in the order they came."""
    async with keeping(tmp_path, SizedEngine(pause=0.05)) as client:
        task_id = (await send(client, book(4)))["task_id"]
        await reached(client, task_id, 1)
        async with aconnect_sse(client, "GET", f"/api/tasks/{task_id}/events") as source:
            events = [event async for event in source.aiter_sse()]
        seen = {"Last-Event-ID": events[1].id}
        async with aconnect_sse(client, "GET", f"/api/tasks/{task_id}/events", headers=seen) as source:
            later = [event async for event in source.aiter_sse()]
    assert [event.event for event in events] == ["page"] * 4 + ["end"]
    assert [event.id for event in events[:4]] == ["1", "2", "3", "4"]
    assert {event.json()["markdown"] for event in events[:4]} == {text_of(number) for number in range(1, 5)}
    assert (events[4].json()["status"], events[4].json()["task_id"]) == ("succeeded", task_id)
    assert [event.data for event in later] == [event.data for event in events[2:]]


PATHS = {
    "source": 404,
    "nothing.md": 404,
    "images/page-9-img-1.jpg": 404,
    "images": 404,
    "%2e%2e/tasks.sqlite": 400,
    "%2e%2e%2ftasks.sqlite": 400,
    "images/..%2f..%2ftasks.sqlite": 400,
    "/etc/passwd": 400,
    "%2fetc%2fpasswd": 400,
    "result.md%00.jpg": 400,
    "..%5ctasks.sqlite": 400,
    "%2e/result.md": 400,
    "": 400,
}


async def test_no_address_leads_out_of_a_task(tmp_path):
    """Dots, slashes and NUL, encoded so that the client does not tidy them away; nor has a stranger's id any file."""
    async with keeping(tmp_path) as client:
        task_id = (await send(client, book(1)))["task_id"]
        await ended(client, task_id)
        for path, status in PATHS.items():
            url = client.base_url.copy_with(raw_path=f"/api/tasks/{task_id}/download/{path}".encode())
            assert (await client.get(url)).status_code == status, path
        for unknown in (
            "1",
            "%2e%2e",
            "%00",
            "9f0e4e62-8d3b-4c0c-9a44-3a3a1a3d5f10",
            task_id.upper(),
            f"{{{task_id}}}",
        ):
            url = client.base_url.copy_with(raw_path=f"/api/tasks/{unknown}".encode())
            assert (await client.get(url)).status_code == 404, unknown
            assert (await client.delete(url)).status_code == 404, unknown


async def test_a_picture_read_at_once_is_a_finished_task(tmp_path):
    """In the JSON of front ends."""
    async with keeping(tmp_path) as client:
        with structlog.testing.capture_logs() as logs:
            answer = (await client.post("/api/ocr/image", files=upload(png(230, 20), "page.png"))).json()
        task = (await client.get(f"/api/tasks/{answer['task_id']}")).json()
    assert [(line["page"], line["characters"]) for line in logs if line["event"] == "page_recognised"] == [
        (1, len(text_of(30)))
    ]
    assert answer.pop("duration_ms") >= 0
    assert answer.pop("timing") == task["timing"]
    assert answer == {
        "success": True,
        "text": text_of(30),
        "raw_text": text_of(30),
        "boxes": [],
        "image_dims": {"w": 230, "h": 20},
        "task_id": task["task_id"],
    }
    assert (task["status"], task["task_type"], task["name"]) == ("succeeded", "image", "page.png")
    assert task["result"]["pages"][0]["markdown"] == text_of(30)


async def test_past_the_limit_of_unfinished_documents_the_next_is_told_to_wait(tmp_path):
    """Single pictures are not."""
    async with keeping(tmp_path, SizedEngine(pause=0.2), max_tasks=1) as client:
        await send(client, book(20))
        answer = await client.post("/api/ocr/pdf", files={"pdf": ("book.pdf", book(1))})
        assert (answer.status_code, answer.json()["code"]) == (429, "too_many_tasks")
        assert answer.headers["retry-after"] == "60"
        assert (await client.post("/api/ocr", files=upload())).status_code == 200


async def test_past_the_limit_of_the_disk_no_document_is_taken(tmp_path):
    """Until others are deleted."""
    async with keeping(tmp_path, max_data_mb=0.002) as client:
        first = await send(client, book(1))
        await ended(client, first["task_id"])
        answer = await client.post("/api/ocr/pdf", files={"pdf": ("book.pdf", book(9))})
        assert (answer.status_code, answer.json()["code"]) == (507, "storage_full")
        await client.delete(f"/api/tasks/{first['task_id']}")
        await send(client, book(1))


async def test_every_route_asks_for_the_key(tmp_path):
    """Before anything else."""
    async with keeping(tmp_path, api_key_hashes=hash_api_key("secret")) as client:
        for method, path in (
            ("POST", "/api/ocr/pdf"),
            ("POST", "/api/ocr/image"),
            ("GET", "/api/tasks"),
            ("GET", "/api/tasks/x"),
            ("DELETE", "/api/tasks/x"),
            ("POST", "/api/tasks/x/cancel"),
            ("POST", "/api/tasks/x/retry"),
            ("GET", "/api/tasks/x/events"),
            ("GET", "/api/tasks/x/download/result.md"),
        ):
            assert (await client.request(method, path)).status_code == 401, path


async def test_a_service_without_documents_says_so():
    """And writes nothing."""
    async with serving() as client:
        for answer in (
            await client.post("/api/ocr/pdf", files={"pdf": ("book.pdf", book(1))}),
            await client.get("/api/tasks"),
        ):
            assert (answer.status_code, answer.json()["code"]) == (501, "jobs_disabled")


async def test_pages_and_documents_are_counted(tmp_path):
    """In the metrics."""
    async with keeping(tmp_path, SizedEngine(broken=(2,), error=ContextTooLong)) as client:
        await ended(client, (await send(client, book(3)))["task_id"])
        text = (await client.get("/metrics")).text
    assert 'ocr_task_pages_total{outcome="read"} 2.0' in text
    assert 'ocr_task_pages_total{outcome="failed"} 1.0' in text
    assert 'ocr_tasks{state="succeeded"}' in text


async def test_a_sheet_too_large_for_its_dpi_is_read_at_less(tmp_path):
    """As a single page is."""
    async with keeping(tmp_path, max_image_pixels=100_000) as client:
        accepted = await send(client, pdf(Sheet(box=(0, 0, 400, 400))), dpi="144")
        task = await ended(client, accepted["task_id"])
    [page] = task["result"]["pages"]
    assert page["dpi"] < 72
    assert page["image_dims"]["w"] * page["image_dims"]["h"] <= 100_000
