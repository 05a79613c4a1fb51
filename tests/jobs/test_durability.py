"""What a hostile user, or a bad day, does to tasks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import uuid

import structlog

from app.jobs import keeper
from tests.documents import SizedEngine, book, ended, keeping, reached, send, text_of
from tests.engines import SayingEngine

FIGURE = "<|ref|>image<|/ref|><|det|>[[0, 0, 999, 999]]<|/det|>\n"


def rows(folder) -> list[int]:
    """How many rows there are of tasks, pages, workflows and steps."""
    tables = ("ocr_tasks", "ocr_pages", "workflow_status", "operation_outputs")
    with contextlib.closing(sqlite3.connect(folder / "tasks.sqlite")) as database:
        return [database.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0] for table in tables]


async def test_the_same_key_in_the_same_moment_is_one_task(tmp_path):
    """All are told of the one, and nothing is left of the other uploads."""
    engine = SizedEngine()
    async with keeping(tmp_path, engine) as client:
        headers = {"Idempotency-Key": "once"}
        tasks = await asyncio.gather(*(send(client, book(3), headers) for _ in range(8)))
        await ended(client, tasks[0]["task_id"])
        listed = (await client.get("/api/tasks")).json()["tasks"]
    assert {task["task_id"] for task in tasks} == {listed[0]["task_id"]}
    assert (len(listed), sorted(engine.read)) == (1, [1, 2, 3])
    assert [entry.name for entry in tmp_path.iterdir() if len(entry.name) == 36] == [listed[0]["task_id"]]


async def test_an_upload_whose_service_died_before_its_row_is_no_task(tmp_path):
    """Its folder is no task, and those of that day are left alone."""
    stray = str(uuid.uuid4())
    (tmp_path / stray).mkdir()
    (tmp_path / stray / "source").write_bytes(book(1))
    async with keeping(tmp_path) as client:
        assert (await client.get(f"/api/tasks/{stray}")).status_code == 404
        assert (await client.get(f"/api/tasks/{stray}/pages/1/picture")).status_code == 404
        assert (await client.get(f"/api/tasks/{stray}/download/result.md")).status_code == 404
        assert (await client.post(f"/api/tasks/{stray}/cancel")).status_code == 404
        assert (await client.delete(f"/api/tasks/{stray}")).status_code == 404
    assert (tmp_path / stray / "source").exists()


def test_a_folder_that_is_deleted_while_old_ones_are_looked_for_is_passed_over(tmp_path, monkeypatch):
    (tmp_path / "leaving").mkdir()
    (tmp_path / "staying").mkdir()
    for folder in tmp_path.iterdir():
        os.utime(folder, (0, 0))
    list_folder = os.scandir

    def delete_one(path):
        for entry in sorted(list_folder(path), key=lambda entry: entry.name):
            if entry.name == "leaving":
                assert entry.is_dir()
                (tmp_path / "leaving").rmdir()
            yield entry

    monkeypatch.setattr(keeper.os, "scandir", delete_one)
    assert keeper._old_folders(tmp_path) == [tmp_path / "staying"]


async def test_a_task_that_was_written_down_is_accepted_though_it_cannot_be_started_yet(tmp_path, monkeypatch):
    """The keeper finds it: what DBOS keeps is away here, and comes back."""
    monkeypatch.setattr(keeper, "_LOST_SECONDS", 1.0)
    async with keeping(tmp_path) as client:
        await ended(client, (await send(client, book(1)))["task_id"])
        with contextlib.closing(sqlite3.connect(tmp_path / "tasks.sqlite", isolation_level=None)) as database:
            database.execute("ALTER TABLE workflow_status RENAME TO away")
            accepted = await send(client, book(2))
            database.execute("ALTER TABLE away RENAME TO workflow_status")
        task = await ended(client, accepted["task_id"], seconds=60)
    assert [page["markdown"] for page in task["result"]["pages"]] == [text_of(1), text_of(2)]


async def test_a_full_disk_fails_the_page_whose_figure_does_not_fit(tmp_path):
    """The page is read again when there is room; here a file stands where the folder of figures should be."""
    async with keeping(tmp_path, SayingEngine(FIGURE)) as client:
        task_id = (await send(client, book(2), mode="markdown"))["task_id"]
        (tmp_path / task_id / "images").touch()
        task = await ended(client, task_id)
        assert (task["status"], task["error_code"]) == ("failed", "no_page_read")
        assert [page["code"] for page in task["failed_pages"]] == ["storage_full", "storage_full"]
        (tmp_path / task_id / "images").unlink()
        assert (await client.post(f"/api/tasks/{task_id}/retry")).status_code == 202
        task = await ended(client, task_id)
    assert [page["image_assets"] for page in task["result"]["pages"]] == [
        ["images/page-1-img-1.jpg"],
        ["images/page-2-img-1.jpg"],
    ]


async def test_a_locked_database_delays_documents_and_loses_nothing(tmp_path):
    """Each page is there once when it is free again."""
    engine = SizedEngine(pause=0.05)
    async with keeping(tmp_path, engine) as client:
        task_id = (await send(client, book(10)))["task_id"]
        await reached(client, task_id, 2)
        with contextlib.closing(sqlite3.connect(tmp_path / "tasks.sqlite", isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            await asyncio.sleep(7)  # longer than SQLite waits unless told otherwise
            database.execute("COMMIT")
        task = await ended(client, task_id)
    assert [page["markdown"] for page in task["result"]["pages"]] == [text_of(number) for number in range(1, 11)]


async def test_a_document_that_is_taken_up_while_the_service_stops_is_read_after_the_next_start(tmp_path):
    """And nothing of it is left over here: the database is held, so that the queue is being asked when the stop comes."""
    async with keeping(tmp_path) as client:
        await ended(client, (await send(client, book(1)))["task_id"])
        task_id = (await send(client, book(2)))["task_id"]
        database = sqlite3.connect(tmp_path / "tasks.sqlite", isolation_level=None)
        database.execute("BEGIN IMMEDIATE")
        await asyncio.sleep(1)  # the queue is asked twice a second
        asyncio.get_running_loop().call_later(1, database.close)
    async with keeping(tmp_path) as client:
        task = await ended(client, task_id)
    assert [page["markdown"] for page in task["result"]["pages"]] == [text_of(1), text_of(2)]


async def test_an_urgent_document_passes_all_that_wait(tmp_path):
    """Of the pages that were waiting when it was taken up, only those in hand go before it. The engine stands still until then."""
    engine = SizedEngine(pause=0.02)
    async with keeping(tmp_path, engine) as client:
        for _ in range(20):
            last = (await send(client, book(40)))["task_id"]
        await reached(client, last, 1)  # all of them are under way
        engine.going.clear()
        urgent = (await send(client, book(60), pages="60", priority=100))["task_id"]
        while not planned(tmp_path, urgent):
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)  # for it to ask for its turn
        before = len(engine.read)
        engine.going.set()
        await ended(client, urgent)
    # Two are in hand; behind one page of each of the others it would be the twentieth.
    assert engine.read.index(60) - before < 10


def planned(folder, task_id: str) -> bool:
    """Whether a task has been taken from the queue."""
    with contextlib.closing(sqlite3.connect(folder / "tasks.sqlite")) as database:
        steps = database.execute("SELECT COUNT(*) FROM operation_outputs WHERE workflow_uuid = ?", [f"{task_id}/1"])
        return steps.fetchone()[0] > 0


async def test_deleting_a_document_that_is_being_read_leaves_nothing_and_no_complaint(tmp_path):
    """No row, no file, no line above info."""
    engine = SizedEngine(pause=0.2, concurrency=2)
    with structlog.testing.capture_logs() as logs:
        async with keeping(tmp_path, engine) as client:
            for _ in range(2):
                task_id = (await send(client, book(20)))["task_id"]
                await reached(client, task_id, 1)
                assert (await client.delete(f"/api/tasks/{task_id}")).status_code == 204
                assert (await client.get(f"/api/tasks/{task_id}")).status_code == 404
            await asyncio.sleep(0.5)
            assert engine.running == 0
    assert rows(tmp_path) == [0, 0, 0, 0]
    assert [entry.name for entry in tmp_path.iterdir() if len(entry.name) == 36] == []
    assert [line for line in logs if line["log_level"] not in ("debug", "info")] == []


async def test_a_retry_while_cancelled_pages_still_run_reads_each_page_once(tmp_path):
    """Again and again; the pages of the run before count no more."""
    engine = SizedEngine(pause=0.1, concurrency=2)
    async with keeping(tmp_path, engine) as client:
        task_id = (await send(client, book(12)))["task_id"]
        for pages in (1, 3, 5):
            await reached(client, task_id, pages)
            assert (await client.post(f"/api/tasks/{task_id}/cancel")).status_code == 200
            assert (await client.post(f"/api/tasks/{task_id}/retry")).status_code == 202
        task = await ended(client, task_id)
    assert task["status"] == "succeeded"
    assert [page["markdown"] for page in task["result"]["pages"]] == [text_of(number) for number in range(1, 13)]
