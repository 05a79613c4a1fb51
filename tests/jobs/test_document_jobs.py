"""Documents and the service around them: turns, restarts, retention, what stops the start."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys

import httpx
import pytest

from app.jobs import keeper
from tests.documents import SizedEngine, book, ended, keeping, reached, send, text_of
from tests.process import ROOT, served
from tests.serving import png, upload


async def test_a_picture_waits_for_at_most_the_page_being_read(tmp_path):
    """However long the documents are. The engine stands still until the picture waits for it."""
    engine = SizedEngine(pause=0.1)
    async with keeping(tmp_path, engine) as client:
        for _ in range(2):
            task_id = (await send(client, book(100)))["task_id"]
        await reached(client, task_id, 1)
        for width in (801, 802):
            engine.going.clear()
            before = len(engine.read)
            asking = asyncio.create_task(client.post("/api/ocr", files=upload(png(width, 20))))
            await asyncio.sleep(1)
            engine.going.set()
            assert (await asking).json()["text"] == f"This page is {width} pixels wide."
            assert engine.read.index(width - 200) - before <= 1


async def test_a_short_document_does_not_wait_for_a_long_one(tmp_path):
    """They take turns; a higher priority goes first. Counted from when the first page of either is read."""
    engine = SizedEngine(pause=0.05)
    async with keeping(tmp_path, engine) as client:
        long = (await send(client, book(1000)))["task_id"]
        await reached(client, long, 3)
        await ended(client, (await send(client, book(1005), pages="1001-1005"))["task_id"])
        await ended(client, (await send(client, book(1030), pages="1011-1030", priority=1))["task_id"])
        assert (await client.get(f"/api/tasks/{long}")).json()["status"] == "running"
    between = {
        (first, last): engine.read.index(last) - engine.read.index(first) - (last - first)
        for first, last in ((1001, 1005), (1011, 1030))
    }
    # One for each, and none but those in hand; more where a busy machine lets a document ask for its turn late.
    assert between[1001, 1005] < 5 + 10
    assert between[1011, 1030] < 10


async def test_a_service_that_is_stopped_goes_on_at_its_next_start(tmp_path):
    """Without reading a page twice but those that were being read."""
    first, second = SizedEngine(pause=0.05), SizedEngine()
    async with keeping(tmp_path, first) as client:
        task_id = (await send(client, book(30)))["task_id"]
        await reached(client, task_id, 5)
    async with keeping(tmp_path, second) as client:
        task = await ended(client, task_id)
    assert [page["markdown"] for page in task["result"]["pages"]] == [text_of(number) for number in range(1, 31)]
    assert len(first.read) >= 5
    assert len(second.read) <= 30 - 5
    assert len(set(first.read) & set(second.read)) <= 2


async def test_finished_tasks_are_deleted_when_their_time_is_over(tmp_path, monkeypatch):
    """With files and every row, DBOS's too."""
    monkeypatch.setattr(keeper, "_TIDY_SECONDS", 1.0)
    async with keeping(tmp_path, task_retention_days=1 / 86_400) as client:
        task_id = (await send(client, book(2)))["task_id"]
        for _ in range(400):
            if (await client.get(f"/api/tasks/{task_id}")).status_code == 404 and not (tmp_path / task_id).exists():
                break
            await asyncio.sleep(0.05)
        assert not (tmp_path / task_id).exists()
    with sqlite3.connect(tmp_path / "tasks.sqlite") as database:
        tables = ("ocr_tasks", "ocr_pages", "workflow_status", "operation_outputs")
        counts = [database.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0] for table in tables]
    database.close()
    assert counts == [0, 0, 0, 0]


async def test_nothing_that_dbos_keeps_holds_text_or_is_pickled(tmp_path):
    """Ids, ranges, yes and no."""
    async with keeping(tmp_path) as client:
        await ended(client, (await send(client, book(2)))["task_id"])
    with sqlite3.connect(tmp_path / "tasks.sqlite") as database:
        steps = database.execute("SELECT function_name, output FROM operation_outputs ORDER BY function_id").fetchall()
        kinds = {row[0] for row in database.execute("SELECT DISTINCT serialization FROM workflow_status")}
    database.close()
    assert steps == [("plan", '"1-2"'), ("page", "true"), ("page", "true"), ("finish", "false")]
    assert kinds == {"portable_json"}


async def test_folders_without_a_task_are_cleared_away(tmp_path, monkeypatch):
    """Of uploads that broke off; not those of today, and nothing that is not ours."""
    monkeypatch.setattr(keeper, "_STRAY_SECONDS", 3600.0)
    old, new = tmp_path / "00000000-0000-4000-8000-000000000001", tmp_path / "00000000-0000-4000-8000-000000000002"
    for folder in (old, new, tmp_path / "notes"):
        folder.mkdir()
    os.utime(old, (0, 0))
    os.utime(tmp_path / "notes", (0, 0))
    async with keeping(tmp_path):
        for _ in range(200):
            if not old.exists():
                break
            await asyncio.sleep(0.05)
    assert (old.exists(), new.exists(), (tmp_path / "notes").exists()) == (False, True, True)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"DATA_DIR": "{folder}/file/data"},
            "deepseek-ocr: The folder {folder}/file/data cannot be written. Set DATA_DIR",
        ),
        (
            {"DATA_DIR": "{folder}/broken"},
            "deepseek-ocr: The SQLite file {folder}/broken/tasks.sqlite cannot be opened",
        ),
        (
            {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"},
            "deepseek-ocr: The PostgreSQL server of DATABASE_URL does not answer",
        ),
        ({"DATABASE_URL": "mysql://host/none"}, "deepseek-ocr: DATABASE_URL must look like postgresql://"),
        ({"DATABASE_URL": "secret"}, "deepseek-ocr: DATABASE_URL must look like postgresql://"),
    ],
)
def test_without_its_database_the_service_does_not_start(tmp_path, settings, said):
    """One line and exit code 2, without the password."""
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/tasks.sqlite").write_bytes(b"no database at all" * 100)
    given = {name: value.format(folder=tmp_path) for name, value in settings.items()}
    ended = subprocess.run(
        [sys.executable, "-m", "app", "serve"],
        cwd=tmp_path,
        env={
            "PATH": "",
            "PYTHONPATH": str(ROOT / "backend"),
            "API_HOST": "127.0.0.1",
            "API_PORT": "0",
            "INFERENCE_ENGINE": "fake",
            **given,
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ended.returncode, ended.stderr.startswith(said.format(folder=tmp_path))) == (2, True), ended.stderr
    assert ended.stderr.count("\n") == 1
    assert "secret" not in ended.stderr


def test_a_service_that_is_stopped_does_not_wait_for_those_who_follow_a_document(tmp_path):
    """They come back for the rest; requests are still finished."""
    with served(tmp_path / "log", inference_engine="fake", data_dir=tmp_path / "data", decode_workers=1) as running:
        with httpx.Client(base_url=running.url, timeout=30, trust_env=False) as client:
            paused = {"pdf": ("book.pdf", book(3000))}
            task_id = client.post("/api/ocr/pdf", files=paused).json()["task_id"]
            with client.stream("GET", f"/api/tasks/{task_id}/events") as events:
                lines = events.iter_lines()
                while next(lines) != "event: page":
                    pass
                running.process.terminate()
                rest = list(lines)
        assert running.process.wait(timeout=20) == 0
    assert "event: end" not in rest
    assert "Traceback" not in running.log.read_text(encoding="utf-8")
