"""Passwords of encrypted documents: there whenever the document is opened again, and nowhere to be read."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from app.errors import ContextTooLong
from app.jobs.files import TaskFolder
from app.jobs.passwords import keep_password, recall_password
from tests.documents import SizedEngine, book, ended, keeping, send
from tests.ingest.pdfs import ENCRYPTED, PASSWORD
from tests.serving import upload

TASK = "00000000-0000-4000-8000-000000000001"
WRITTEN = (PASSWORD.encode(), json.dumps(PASSWORD)[1:-1].encode(), PASSWORD.encode("utf-16-le"))


def leaks(folder) -> list[str]:
    """The files in which the password can be read."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [str(path) for path in files if any(form in path.read_bytes() for form in WRITTEN)]


async def test_a_password_opens_its_document_for_as_long_as_that_is_kept(tmp_path):
    """After a restart, on retry, for pictures and for a searchable PDF; and no file has it."""
    async with keeping(tmp_path, SizedEngine(broken=(412,), error=ContextTooLong)) as client:
        task_id = (await send(client, ENCRYPTED, password=PASSWORD))["task_id"]
        assert (await ended(client, task_id))["error_code"] == "no_page_read"
        assert leaks(tmp_path) == []
    async with keeping(tmp_path) as client:
        assert (await client.post(f"/api/tasks/{task_id}/retry")).status_code == 202
        task = await ended(client, task_id)
        assert task["status"] == "succeeded"
        assert (await client.get(f"/api/tasks/{task_id}/pages/1/picture")).status_code == 200
        assert (await client.get(task["result"]["files"]["pdf"])).content.startswith(b"%PDF-")
        for address in ("password", "images/password", "source", "../tasks.sqlite"):
            assert (await client.get(f"/api/tasks/{task_id}/download/{address}")).status_code == 404
        listed = (await client.get("/api/tasks")).text
        assert leaks(tmp_path) == []
        kept = (tmp_path / task_id / "password").read_bytes()
        assert len(kept) == 64
        assert "password" not in listed
        assert (await client.delete(f"/api/tasks/{task_id}")).status_code == 204
    assert not (tmp_path / task_id).exists()


async def test_a_picture_read_at_once_keeps_its_password_the_same_way(tmp_path):
    """It is a task as the others are."""
    async with keeping(tmp_path) as client:
        answer = await client.post("/api/ocr/image", files=upload(ENCRYPTED), data={"password": PASSWORD})
        shown = await client.get(f"/api/tasks/{answer.json()['task_id']}/pages/1/picture")
    assert (answer.status_code, shown.status_code) == (200, 200)
    assert leaks(tmp_path) == []


async def test_a_password_that_is_not_needed_is_not_kept(tmp_path):
    """However it came."""
    async with keeping(tmp_path) as client:
        document = (await send(client, book(2), password=PASSWORD))["task_id"]
        await ended(client, document)
        picture = (await client.post("/api/ocr/image", files=upload(), data={"password": PASSWORD})).json()["task_id"]
    assert leaks(tmp_path) == []
    assert [(tmp_path / task_id / "password").exists() for task_id in (document, picture)] == [False, False]


async def test_the_same_document_is_the_same_under_its_idempotency_key(tmp_path):
    """Although each time the halves of its password are others."""
    async with keeping(tmp_path) as client:
        headers = {"Idempotency-Key": "once"}
        first = await send(client, ENCRYPTED, headers, password=PASSWORD)
        again = await send(client, ENCRYPTED, headers, password=PASSWORD)
    assert first["task_id"] == again["task_id"]


@given(st.text(min_size=1, max_size=500).filter(lambda text: "\x00" not in text and text.isprintable()))
def test_any_password_comes_back(tmp_path_factory, password):
    """Whatever its script and length; without the other half there is none."""
    folder = TaskFolder(tmp_path_factory.mktemp("data"), TASK)
    folder.make()
    half = keep_password(folder, password)
    assert recall_password(folder, half) == password
    assert len(half) % 128 == 0
    assert folder.password_half.stat().st_mode & 0o777 == 0o600
    folder.remove()
    assert recall_password(folder, half) == ""
    assert recall_password(folder, "") == ""
