"""Webhooks: where they may go, how they are signed, and that they are sent until they are taken."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from app.errors import ContextTooLong, WebhookRefused
from app.jobs import flow
from app.jobs.webhooks import Webhooks, sign
from tests.documents import SizedEngine, book, ended, keeping, reached, send


@dataclass
class Receiver:
    """A server that answers with each of `statuses` in turn and keeps what it was sent: headers and body."""

    statuses: list[int]
    port: int = 0
    heard: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers["content-length"]))
        self.heard.append((headers, body))
        status = self.statuses[min(len(self.heard), len(self.statuses)) - 1]
        location = f"Location: http://127.0.0.1:{self.port}/elsewhere\r\n" if status == 302 else ""
        writer.write(f"HTTP/1.1 {status} X\r\n{location}Content-Length: 0\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        writer.close()
        await writer.wait_closed()


@contextlib.asynccontextmanager
async def receiving(*statuses: int) -> AsyncIterator[Receiver]:
    receiver = Receiver(list(statuses))
    server = await asyncio.start_server(receiver.answer, "127.0.0.1", 0)
    receiver.port = server.sockets[0].getsockname()[1]
    async with server:
        yield receiver


async def webhook_state(client, task_id: str, *states: str) -> str:
    for _ in range(400):
        if (state := (await client.get(f"/api/tasks/{task_id}")).json()["webhook"]) in states:
            return state
        await asyncio.sleep(0.05)
    raise AssertionError(f"the webhook did not become {states}, it is {state}")


async def test_a_webhook_is_signed_and_sent_until_it_is_taken(tmp_path, monkeypatch):
    """A redirect is not followed, and counts as refused."""
    monkeypatch.setattr(flow, "WEBHOOK_PAUSES", (0.1, 0.1))
    async with (
        receiving(500, 302, 204) as receiver,
        keeping(tmp_path, webhook_allow_private=True, webhook_secret="shared") as client,
    ):
        url = f"http://localhost:{receiver.port}/hook?x=1"
        accepted = await send(client, book(1), webhook_url=url)
        await ended(client, accepted["task_id"])
        assert await webhook_state(client, accepted["task_id"], "delivered") == "delivered"
    assert len(receiver.heard) == 3
    for headers, body in receiver.heard:
        assert headers["host"] == f"localhost:{receiver.port}"
        assert headers["x-ocr-signature"] == sign("shared", headers["x-ocr-timestamp"], body)
        assert json.loads(body) == {
            "event": "task.finished",
            "task_id": accepted["task_id"],
            "status": "succeeded",
            "pages_total": 1,
            "pages_failed": 0,
            "error_code": None,
            "url": f"/api/tasks/{accepted['task_id']}",
        }


async def test_a_webhook_that_nobody_takes_is_given_up(tmp_path, monkeypatch):
    """After the last pause."""
    monkeypatch.setattr(flow, "WEBHOOK_PAUSES", (0.1,))
    async with receiving(500) as receiver, keeping(tmp_path, webhook_allow_private=True) as client:
        accepted = await send(client, book(1), webhook_url=f"http://127.0.0.1:{receiver.port}/")
        assert await webhook_state(client, accepted["task_id"], "failed") == "failed"
    assert len(receiver.heard) == 2
    assert "x-ocr-signature" not in receiver.heard[0][0]


async def test_a_cancelled_task_tells_so(tmp_path):
    """While a page of it is being read, and while it waits behind another document."""
    engine = SizedEngine(pause=0.2)
    async with (
        receiving(204) as receiver,
        keeping(tmp_path, engine, webhook_allow_private=True, webhook_secret="shared") as client,
    ):
        url = f"http://127.0.0.1:{receiver.port}/"
        read = (await send(client, book(50), webhook_url=url, priority=1))["task_id"]
        waiting = (await send(client, book(60), webhook_url=url))["task_id"]
        await reached(client, read, 1)
        for task_id in (waiting, read):
            cancelled = (await client.post(f"/api/tasks/{task_id}/cancel")).json()
            assert await webhook_state(client, task_id, "delivered") == "delivered"
            headers, body = receiver.heard[-1]
            assert headers["x-ocr-signature"] == sign("shared", headers["x-ocr-timestamp"], body)
            assert json.loads(body) == {
                "event": "task.cancelled",
                "task_id": task_id,
                "status": "failed",
                "pages_total": cancelled["progress"]["total"],
                "pages_failed": 0,
                "error_code": "cancelled",
                "url": f"/api/tasks/{task_id}",
            }
    assert len(receiver.heard) == 2


async def test_a_cancelled_task_tells_so_after_a_restart_too(tmp_path, monkeypatch):
    """And the one that was retried tells of its end alone."""
    monkeypatch.setattr(flow, "WEBHOOK_PAUSES", (0.5, 0.5, 0.5, 0.5, 0.5, 0.5))
    settings = {"webhook_allow_private": True}
    async with receiving(500, 204) as receiver:
        url = f"http://127.0.0.1:{receiver.port}/"
        async with keeping(tmp_path, SizedEngine(pause=5), **settings) as client:
            task_id = (await send(client, book(3), webhook_url=url))["task_id"]
            await client.post(f"/api/tasks/{task_id}/cancel")
            assert await webhook_state(client, task_id, "retrying") == "retrying"
        async with keeping(tmp_path, **settings) as client:
            assert await webhook_state(client, task_id, "delivered") == "delivered"
            await client.post(f"/api/tasks/{task_id}/retry")
            await ended(client, task_id)
            assert await webhook_state(client, task_id, "delivered") == "delivered"
    assert [json.loads(body)["event"] for _, body in receiver.heard] == [
        "task.cancelled",
        "task.cancelled",
        "task.finished",
    ]


async def test_a_task_that_the_service_failed_on_tells_so(tmp_path):
    """Here because what it wrote into the database cannot be read again."""
    engine = SizedEngine(pause=0.2, broken=tuple(range(1, 11)), error=ContextTooLong)
    async with receiving(204) as receiver, keeping(tmp_path, engine, webhook_allow_private=True) as client:
        task_id = (await send(client, book(10), webhook_url=f"http://127.0.0.1:{receiver.port}/"))["task_id"]
        await reached(client, task_id, 3)  # the first page, which may come after the second, is among them
        engine.going.clear()
        with sqlite3.connect(tmp_path / "tasks.sqlite") as database:
            database.execute("UPDATE ocr_pages SET result = 'x'")
        database.close()
        engine.going.set()
        for _ in range(1200):
            if receiver.heard:
                break
            await asyncio.sleep(0.05)
    assert json.loads(receiver.heard[0][1])["error_code"] == "internal_error"


def test_the_signature_is_the_published_one():
    """HMAC-SHA256 of timestamp, dot and body, as the documentation shows it."""
    assert sign("secret", "1700000000", b'{"a": 1}') == (
        "sha256=942c6f7e34ef5c448cbbbf79276da392036d59f0bd9fb74ba14eb8e83e2bb6cd"
    )


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://127.1/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://localhost:8001/",
        "http://10.0.0.1/",
        "http://172.16.5.4/",
        "http://192.168.1.1/",
        "http://169.254.169.254/latest/meta-data/",
        "http://100.64.0.1/",
        "http://0.0.0.0/",
        "http://224.0.0.1/",
        "http://[::1]/",
        "http://[::]/",
        "http://[fe80::1]/",
        "http://[fd00::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:10.0.0.1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[2002:7f00:1::]/",
        "http://user:word@1.1.1.1/",
        "ftp://1.1.1.1/",
        "file:///etc/passwd",
        "//1.1.1.1/",
        "http:///path",
        "http://1.1.1.1:99999/",
        "http://[1.1.1.1/",
        "http://1.1.1.1/a b",
        "http://1.1.1.1/\r\nX: y",
        "http://no.such.host.invalid/",
    ],
)
def test_addresses_that_are_not_public_are_refused(url):
    """In any spelling."""
    with pytest.raises(WebhookRefused):
        Webhooks("", allow_private=False).check(url)


@pytest.mark.parametrize("url", ["http://1.1.1.1/", "https://8.8.8.8:8443/hook?a=b", "http://[2606:4700::1111]/"])
def test_public_addresses_are_accepted(url):
    """Nothing is sent to find out."""
    Webhooks("", allow_private=False).check(url)
