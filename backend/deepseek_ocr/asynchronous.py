"""The client for asyncio programs: `Client` with every call awaited."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from deepseek_ocr import calls
from deepseek_ocr.answers import Page, Task, TaskPage
from deepseek_ocr.calls import EventReader, Form, Part, Source
from deepseek_ocr.errors import ServiceUnreachable


class AsyncClient:
    """Talks to a service at `url`; use it as an asynchronous context manager, or close it.

    `api_key` where the service asks for one. `timeout` is in seconds for one answer; a service that is busy or starting
    is asked again as it wishes, for `patience` seconds in all. `transport` is httpx's, for other ways to a service.
    """

    def __init__(
        self,
        url: str = "http://localhost:8001",
        *,
        api_key: str | None = None,
        timeout: float = 320.0,
        patience: float = 600.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        headers = calls.key_header(api_key)
        self._http = httpx.AsyncClient(base_url=url, headers=headers, timeout=timeout, transport=transport)
        self._patience = patience

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def read(self, source: Source, *, name: str | None = None, **options: object) -> Page:
        """Read a picture, or one page of a PDF or TIFF; `options` are the fields of POST /api/ocr.

        Raises OcrError for what the service refuses, ServiceUnreachable when it does not answer.
        """
        form = Form(source, options, name=name)
        return Page.of((await self._send("POST", "/api/ocr", form)).json())

    async def stream(self, source: Source, *, name: str | None = None, **options: object) -> AsyncIterator[Part]:
        """Yield a page's text while it is read (Delta, void after a Restart), at last the Page. Closing it aborts."""
        form = Form(source, {**options, "stream": True}, name=name)
        reader = EventReader()
        async with contextlib.aclosing(await self._open("POST", "/api/ocr", form)) as response:
            with self._reaching():
                async for line in response.aiter_lines():
                    for event, data, _ in reader.feed(line):
                        if (part := calls.page_part(event, data)) is not None:
                            yield part

    async def submit(
        self, source: Source, *, name: str | None = None, idempotency_key: str | None = None, **options: object
    ) -> Task:
        """Hand over a document, which is then read whatever happens; `options` are the fields of POST /api/ocr/pdf.

        Sent again with the same `idempotency_key`, it is not read twice.
        """
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        form = Form(source, options, file_field="pdf", name=name, headers=headers)
        return Task.of((await self._send("POST", "/api/ocr/pdf", form)).json())

    async def task(self, task: Task | str, *, pages: bool = True) -> Task:
        """Return how far a task is; with `pages` the text of all of them, when it has succeeded."""
        return Task.of(
            (await self._send("GET", f"{calls.task_path(task)}?pages={'true' if pages else 'false'}")).json()
        )

    async def tasks(self) -> AsyncIterator[Task]:
        """Yield all tasks, newest first."""
        cursor = ""
        while True:
            answer = (await self._send("GET", f"/api/tasks?limit=100&cursor={cursor}")).json()
            for task in answer["tasks"]:
                yield Task.of(task)
            if (cursor := answer["next_cursor"]) is None:
                return

    async def follow(self, task: Task | str) -> AsyncIterator[TaskPage | Task]:
        """Yield the pages of a task as they are read, then the finished Task.

        A connection that breaks is made again, for `patience` seconds.
        """
        seen, silent = "0", self._patience
        while True:
            reader = EventReader()
            try:
                headers = {"Last-Event-ID": seen}
                opened = await self._open("GET", calls.task_path(task, "events"), headers=headers)
                async with contextlib.aclosing(opened) as response:
                    with self._reaching():
                        silent = 0.0
                        async for line in response.aiter_lines():
                            for event, data, number in reader.feed(line):
                                seen = number or seen
                                if (part := calls.task_part(event, data)) is not None:
                                    yield part
                                if isinstance(part, Task):
                                    return
            except ServiceUnreachable:
                if silent >= self._patience:
                    raise
            await asyncio.sleep(calls.RECONNECT_SECONDS)
            silent += calls.RECONNECT_SECONDS

    async def cancel(self, task: Task | str) -> Task:
        """Stop a task; the pages that were read are kept."""
        return Task.of((await self._send("POST", calls.task_path(task, "cancel"))).json())

    async def retry(self, task: Task | str) -> Task:
        """Have the pages read again that failed."""
        return Task.of((await self._send("POST", calls.task_path(task, "retry"))).json())

    async def delete(self, task: Task | str) -> None:
        """Delete a task with its files."""
        await self._send("DELETE", calls.task_path(task))

    async def download(self, task: Task | str, what: str, to: str | os.PathLike[str], **options: object) -> None:
        """Write a task's result to `to`, whole or not at all; `what` is a format, such as "docx", or a figure's path.

        `options` are the parameters of GET /api/tasks/{task_id}/download, such as join_hyphens=True.
        """
        target = Path(to)
        part = target.with_name(f"{target.name}.part")
        opened = await self._open("GET", calls.download_path(task, what, options))
        async with contextlib.aclosing(opened) as response:
            with part.open("wb") as file, self._reaching():
                async for piece in response.aiter_bytes():
                    file.write(piece)
        part.replace(target)

    async def modes(self) -> Mapping[str, Any]:
        """Return what the service can do, as GET /api/modes answers."""
        answer: Mapping[str, Any] = (await self._send("GET", "/api/modes")).json()
        return answer

    async def _send(self, method: str, path: str, form: Form | None = None) -> httpx.Response:
        """Send a request and return its answer, read."""
        async with contextlib.aclosing(await self._open(method, path, form)) as response:
            with self._reaching():
                await response.aread()
            return response

    async def _open(
        self, method: str, path: str, form: Form | None = None, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """Send a request, again when the service asks for it, and return its answer, still to be read and closed."""
        waited = 0.0
        while True:
            made = form.arguments() if form else {"headers": headers}
            request = self._http.build_request(method, path, **made)
            with self._reaching():
                response = await self._http.send(request, stream=True)
                if response.is_success:
                    return response
                await response.aread()
            refused = calls.refusal(response)
            pause = calls.wait_before_repeating(refused, waited, self._patience)
            if pause is None:
                raise refused
            await asyncio.sleep(pause)
            waited += pause

    @contextlib.contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except httpx.TransportError as error:
            raise calls.unreachable(error, self._http.base_url) from error
