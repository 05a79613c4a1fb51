"""What goes over the wire, for both clients: forms out, answers and errors in. Nothing here waits or connects."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, urlencode

import httpx

from deepseek_ocr.answers import Delta, Page, Restart, Task, TaskPage
from deepseek_ocr.errors import OcrError, ServiceUnreachable

Source = str | os.PathLike[str] | bytes | IO[bytes]
"""A file: its path, its bytes, or a file that is open for reading."""

Part = Delta | Restart | Page

FILES: Mapping[str, str] = {
    "markdown": "result.md",
    "text": "result.txt",
    "html": "result.html",
    "json": "raw.json",
    "csv": "tables.zip",
    "docx": "result.docx",
    "pdf": "searchable.pdf",
    "hocr": "result.hocr",
    "archive": "result.zip",
    "zip": "all.zip",
}
"""The formats of a task's result, and the files that hold them."""

# Before a broken stream of events is opened again.
RECONNECT_SECONDS = 1.0


@dataclass(frozen=True)
class Form:
    """A file and its fields, as often as it has to be sent; `file_field` takes the file."""

    source: Source
    fields: Mapping[str, object]
    file_field: str = "image"
    name: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def arguments(self) -> dict[str, Any]:
        """Return httpx's arguments for one sending; an open file is read from its start."""
        name, content = self._file()
        data = {key: _written(value) for key, value in self.fields.items() if value is not None}
        return {"data": data, "files": {self.file_field: (name, content)}, "headers": dict(self.headers)}

    def _file(self) -> tuple[str, bytes | IO[bytes]]:
        if isinstance(self.source, bytes):
            return self.name or "page", self.source
        if isinstance(self.source, (str, os.PathLike)):
            path = Path(self.source)
            return self.name or path.name, path.read_bytes()
        self.source.seek(0)
        return self.name or Path(str(getattr(self.source, "name", "page"))).name, self.source


def _written(value: object) -> str:
    """Return a field as the service reads it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def key_header(api_key: str | None) -> dict[str, str]:
    """Return the header that carries an API key."""
    return {"X-API-Key": api_key} if api_key else {}


def refusal(response: httpx.Response) -> OcrError:
    """Return the error an answer stands for; its body has been read."""
    try:
        problem = response.json()
        code, detail = str(problem["code"]), str(problem["detail"])
    except (ValueError, KeyError, TypeError):
        code, detail = (
            "unexpected_answer",
            f"{response.request.url} answered {response.status_code}, and not as an OCR service.",
        )
    return OcrError(response.status_code, code, detail, _seconds(response.headers.get("retry-after")))


def unreachable(error: httpx.TransportError, url: object) -> ServiceUnreachable:
    """Return what a failed connection means."""
    if isinstance(error, httpx.TimeoutException):
        return ServiceUnreachable(f"{url} did not answer in time.")
    return ServiceUnreachable(f"{url} cannot be reached ({type(error).__name__}). Is the service running there?")


def wait_before_repeating(error: OcrError, waited: float, patience: float) -> float | None:
    """Return how many seconds to wait before the same request is sent again; None when it is not worth it.

    Worth it is what the service says will pass (it gives Retry-After), for `patience` seconds in all.
    """
    if error.retry_after is None or waited + error.retry_after > patience:
        return None
    return max(0.1, error.retry_after)


class EventReader:
    """Puts the lines of a stream of server-sent events together to (event, data, id)."""

    def __init__(self) -> None:
        self._fields: dict[str, str] = {}

    def feed(self, line: str) -> Iterator[tuple[str, Any, str]]:
        """Take a line without its end; yield the event it completes, if any."""
        if line:
            name, _, value = line.partition(":")
            if name:
                self._fields[name] = value.removeprefix(" ")
            return
        fields, self._fields = self._fields, {}
        if "data" in fields:
            yield fields.get("event", "message"), json.loads(fields["data"]), fields.get("id", "")


def page_part(event: str, data: Mapping[str, Any]) -> Part | None:
    """Return what an event of a streamed page says, None for one to pass over; raises OcrError for an error."""
    if event == "delta":
        return Delta(data["text"])
    if event == "restart":
        return Restart(data["attempt"])
    if event == "result":
        return Page.of(data)
    if event == "error":
        raise OcrError(data["status"], data["code"], data["detail"])
    return None


def task_part(event: str, data: Mapping[str, Any]) -> TaskPage | Task | None:
    """Return what an event of a task says, None for one to pass over."""
    if event == "page":
        return TaskPage.of(data)
    return Task.of(data) if event == "end" else None


def task_path(task: Task | str, *more: str) -> str:
    """Return the address of a task, or of something below it."""
    name = task.id if isinstance(task, Task) else task
    return "/".join(["/api/tasks", *(quote(part) for part in (name, *more))])


def download_path(task: Task | str, name: str, options: Mapping[str, object]) -> str:
    """Return the address of a task's result in a format, or of another file of the task."""
    path = task_path(task, "download", FILES.get(name, name))
    written = {key: _written(value) for key, value in options.items() if value is not None}
    return f"{path}?{urlencode(written)}" if written else path


def _seconds(value: str | None) -> float | None:
    try:
        return None if value is None else float(value)
    except ValueError:  # a date, which this service never sends
        return None
