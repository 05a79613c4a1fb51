"""Documents: `POST /api/ocr/pdf`, `POST /api/ocr/image` and the tasks they become."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import re
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timezone
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, File, Header, Query, Request, UploadFile
from fastapi.responses import FileResponse, Response
from sse_starlette import EventSourceResponse, ServerSentEvent

from app.api.forms import (
    LONGEST_NAME,
    ChosenPage,
    Document,
    FormRoute,
    OcrOptions,
    ResultOptions,
    loading,
)
from app.api.ocr import PING_SECONDS, PROBLEMS, SEND_SECONDS, until_disconnect
from app.api.task_schemas import ImageTaskResponse, TaskJson, TaskListJson, TaskPageJson, TaskPageViewJson
from app.errors import InvalidParameter, JobsDisabled
from app.jobs.documents import Documents
from app.jobs.files import archive_name, stem
from app.jobs.task import Order, Task, TaskState
from app.reader import log_page
from app.results.writers import FORMATS, Format

log = structlog.get_logger()
router = APIRouter(prefix="/api", tags=["documents"], route_class=FormRoute)

MOST_TASKS = 100
LEAST_WIDTH, MOST_WIDTH = 16, 2000
# A browser shows a picture that long without asking, after the task was deleted too.
_PICTURE_SECONDS = 3600
_EVENT_POLL_SECONDS = 0.3
_EVENT_PAGES = 50
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_FORMATS = {found.file_name: found for found in FORMATS.values()}
_SHOWN = ("markdown", "text", "html", "json")
_DOWNLOAD_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "private, no-cache",
    # What was read is shown, never run, whatever somebody has printed on a page.
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; sandbox",
}

Responses = dict[int | str, dict[str, Any]]
_TASK_PROBLEMS: Responses = {status: PROBLEMS[status] for status in (401, 404, 422, 501, 503)}
_UPLOAD_PROBLEMS: Responses = {
    status: PROBLEMS[status] for status in (400, 401, 408, 409, 413, 415, 422, 429, 501, 503, 507)
}


@router.post("/ocr/pdf", status_code=202, responses=_UPLOAD_PROBLEMS)
async def read_document(
    request: Request,
    response: Response,
    pdf: Annotated[UploadFile, File(description="The document: a PDF, a TIFF of several pages, or a picture.")],
    document: Document,
    options: OcrOptions,
    idempotency_key: Annotated[
        str | None, Header(description="Sent again with the same upload, it gives the same task, not another.")
    ] = None,
) -> TaskJson:
    """Take a document, and read its pages one by one, whatever happens to the service meanwhile."""
    documents = _documents(request)
    if (count := len((await request.form()).getlist("pdf"))) > 1:
        raise InvalidParameter(f"Field 'pdf' was sent {count} times. Send one document in each request.")
    if idempotency_key is not None and not _KEY.fullmatch(idempotency_key):
        raise InvalidParameter("The header Idempotency-Key takes 1 to 255 visible ASCII characters.")
    order = Order(
        type="pdf",
        name=(pdf.filename or "")[:LONGEST_NAME],
        options=options,
        pages=document.pages,
        dpi=document.dpi,
        password=document.password,
        priority=document.priority,
        webhook_url=document.webhook_url,
        idempotency_key=idempotency_key or "",
    )
    task = await documents.accept(order, pdf.file, pdf.size)
    response.headers["Location"] = f"/api/tasks/{task.id}"
    return await _task_json(documents, task, with_pages=False)


@router.post("/ocr/image", responses={**_UPLOAD_PROBLEMS, 504: PROBLEMS[504]})
async def read_picture_as_task(
    request: Request,
    image: Annotated[UploadFile, File(description="The picture, or a PDF of which one page is read.")],
    choice: ChosenPage,
    options: OcrOptions,
) -> ImageTaskResponse:
    """Read one picture now, and keep it as a finished task."""
    documents = _documents(request)
    if (count := len((await request.form()).getlist("image"))) > 1:
        raise InvalidParameter(f"Field 'image' was sent {count} times. Send one file in each request.")
    queued = datetime.now(timezone.utc)
    reading = request.app.state.reader.read(loading(image), choice, options, request.state.request_id, pictures=True)
    page = await until_disconnect(request.receive, reading)
    request.app.state.metrics.observe_page(page.recognition, page.timing_ms)
    log_page(page)
    order = Order(
        type="image",
        name=(image.filename or "")[:LONGEST_NAME],
        options=options,
        pages=str(choice.number),
        dpi=choice.dpi,
        password=choice.password,
    )
    await image.seek(0)
    task = await documents.keep(order, image.file, page, queued)
    shown = await _task_json(documents, task, with_pages=False)
    recognition = page.recognition
    return ImageTaskResponse.model_validate(
        {
            "text": recognition.text,
            "raw_text": recognition.raw_text,
            "boxes": [{"label": box.label, "box": (box.x1, box.y1, box.x2, box.y2)} for box in recognition.boxes],
            "image_dims": {"w": recognition.width, "h": recognition.height},
            "task_id": task.id,
            "timing": shown.timing.model_dump(),
            "duration_ms": round(page.timing_ms["total"], 1),
        }
    )


@router.get("/tasks", responses=_TASK_PROBLEMS)
async def list_tasks(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=MOST_TASKS, description="How many at most.")] = 20,
    cursor: Annotated[str, Query(max_length=200, description="`next_cursor` of the answer before.")] = "",
    status: Annotated[
        TaskState | None, Query(description="Only those in this state; `cancelled` is one of them here.")
    ] = None,
) -> TaskListJson:
    """List tasks, newest first."""
    found = await _documents(request).newest(limit + 1, _read_cursor(cursor), status)
    shown = found[:limit]
    return TaskListJson(
        tasks=[TaskJson.of(task, [], [], []) for task in shown],
        next_cursor=_write_cursor(shown[-1]) if len(found) > limit else None,
    )


@router.get("/tasks/{task_id}", responses=_TASK_PROBLEMS)
async def get_task(
    request: Request,
    task_id: str,
    pages: Annotated[bool, Query(description="Whether the result holds the text of every page.")] = True,
) -> Response:
    """Tell how far a task is and, when it has succeeded, what was read."""
    documents = _documents(request)
    shown = await _task_json(documents, await documents.get(task_id), with_pages=pages)
    # In a thread, and past FastAPI, which would do it on the event loop: there may be thousands of pages.
    body = await asyncio.to_thread(shown.model_dump_json)
    return Response(body, media_type="application/json")


@router.delete("/tasks/{task_id}", status_code=204, responses=_TASK_PROBLEMS)
async def delete_task(request: Request, task_id: str) -> Response:
    """Delete a task with its files; one that is not finished is cancelled first."""
    await _documents(request).delete(task_id)
    return Response(status_code=204)


@router.post("/tasks/{task_id}/cancel", responses=_TASK_PROBLEMS)
async def cancel_task(request: Request, task_id: str) -> TaskJson:
    """Stop a task; pages that were read are kept. A finished one stays as it is."""
    documents = _documents(request)
    return await _task_json(documents, await documents.cancel(task_id), with_pages=False)


@router.post("/tasks/{task_id}/retry", status_code=202, responses={**_TASK_PROBLEMS, 409: PROBLEMS[409]})
async def retry_task(request: Request, task_id: str) -> TaskJson:
    """Read the pages again that failed, and those a cancelled task did not come to."""
    documents = _documents(request)
    return await _task_json(documents, await documents.retry(task_id), with_pages=False)


@router.get("/tasks/{task_id}/pages/{number}", response_model=TaskPageViewJson | None, responses=_TASK_PROBLEMS)
async def get_page(request: Request, task_id: str, number: int) -> Response:
    """Give one page of a task with its HTML and blocks; null while it has not been read. `number` counts from 1."""
    documents = _documents(request)
    page, pictures = await documents.page(await documents.get(task_id), number)
    shown = await asyncio.to_thread(TaskPageViewJson.view, page, pictures) if page else None
    return Response(shown.model_dump_json() if shown else "null", media_type="application/json")


@router.get(
    "/tasks/{task_id}/pages/{number}/picture",
    response_class=Response,
    responses={
        **_TASK_PROBLEMS,
        **{status: PROBLEMS[status] for status in (413, 429)},
        200: {
            "description": "The page.",
            "content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}},
        },
        304: {"description": "The page is as it was when the client got it."},
    },
)
async def draw_page(
    request: Request,
    task_id: str,
    number: int,
    width: Annotated[int, Query(ge=LEAST_WIDTH, le=MOST_WIDTH, description="Most pixels across.")] = 1000,
    if_none_match: Annotated[str, Header(description="What the client has: the ETag of an answer before.")] = "",
) -> Response:
    """Show a page as it was read, as a JPEG picture. `number` counts from 1 in the document."""
    documents = _documents(request)
    task = await documents.get(task_id)
    # A task's document never changes, nor how it is rendered.
    tag = f'"{task.id}-{number}-{width}"'
    headers = {
        "ETag": tag,
        "Cache-Control": f"private, max-age={_PICTURE_SECONDS}",
        "X-Content-Type-Options": "nosniff",
    }
    if tag in if_none_match:
        return Response(status_code=304, headers=headers)
    picture = await until_disconnect(request.receive, documents.draw_page(task, number, width))
    return Response(picture, media_type="image/jpeg", headers=headers)


@router.get(
    "/tasks/{task_id}/events",
    response_class=EventSourceResponse,
    responses={
        **_TASK_PROBLEMS,
        200: {
            "description": "Server-sent events: `page` for each page as it is read, then `end` with the task.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
    },
)
async def follow_task(
    request: Request,
    task_id: str,
    last_event_id: Annotated[str, Header(description="The id of the last event seen: those after it follow.")] = "0",
) -> Response:
    """Tell of each page as it is read."""
    documents = _documents(request)
    await documents.get(task_id)
    if not (last_event_id.isascii() and last_event_id.isdigit() and len(last_event_id) < 10):
        raise InvalidParameter("The header Last-Event-ID takes the id of an event of this task.")
    events = _events(documents, task_id, int(last_event_id), request.app.state.stopping)
    return EventSourceResponse(events, ping=PING_SECONDS, send_timeout=SEND_SECONDS)


@router.get(
    "/tasks/{task_id}/download/{path:path}",
    response_class=FileResponse,
    responses={
        **_TASK_PROBLEMS,
        **{status: PROBLEMS[status] for status in (400, 429, 504, 507)},
        200: {"content": {"application/octet-stream": {}}},
    },
)
async def download(request: Request, task_id: str, path: str, options: ResultOptions) -> FileResponse:
    """Download a file of a task that is over; a format that nobody has asked for before is written first."""
    documents = _documents(request)
    task = await documents.get(task_id)
    file = await documents.file(task, path, options)
    form = _FORMATS.get(file.name)
    archive = form is not None and form.name == "archive"
    name = file.name if form is None else archive_name(task.order.name) if archive else _named(task, form)
    return FileResponse(
        file,
        media_type=form.media_type if form else "image/jpeg",
        filename=name,
        content_disposition_type="attachment" if form and form.name not in _SHOWN else "inline",
        headers=_DOWNLOAD_HEADERS,
    )


def _named(task: Task, form: Format) -> str:
    """Return a file's name with that of the upload, so that two documents' files can lie in one folder."""
    return f"{name}-{form.file_name}" if (name := stem(task.order.name)) else form.file_name


def _documents(request: Request) -> Documents:
    documents: Documents | None = request.app.state.documents
    if documents is None:
        raise JobsDisabled
    return documents


async def _task_json(documents: Documents, task: Task, *, with_pages: bool) -> TaskJson:
    pages = await documents.pages(task.id) if task.has_result and with_pages else []
    pictures = await documents.pictures(task.id) if task.has_result else []
    failed = await documents.failed_pages(task.id) if task.failed else []
    return await asyncio.to_thread(TaskJson.of, task, pages, pictures, failed)


async def _events(
    documents: Documents, task_id: str, sequence: int, stopping: Callable[[], bool]
) -> AsyncIterator[ServerSentEvent]:
    """Yield the pages after number `sequence`, and the task when it has ended.

    A service that is stopping ends the stream: its client comes back for the rest, here or to another replica.
    """
    while not stopping():
        task = await documents.get(task_id)  # before its pages, so that none is missed at the end
        pages = await documents.pages_since(task_id, sequence, _EVENT_PAGES)
        for number, page in pages:
            yield ServerSentEvent(id=str(number), event="page", data=TaskPageJson.of(page).model_dump_json())
            sequence = number
        if pages:
            continue
        if not task.unfinished:
            shown = await _task_json(documents, task, with_pages=False)
            yield ServerSentEvent(event="end", data=shown.model_dump_json())
            return
        await asyncio.sleep(_EVENT_POLL_SECONDS)


def _write_cursor(task: Task) -> str:
    written = json.dumps([task.created_at.replace(tzinfo=None).isoformat(), task.id])
    return base64.urlsafe_b64encode(written.encode()).decode()


def _read_cursor(cursor: str) -> tuple[datetime, str] | None:
    if not cursor:
        return None
    try:
        moment, task_id = json.loads(base64.urlsafe_b64decode(cursor.encode()))
        return datetime.fromisoformat(moment), str(task_id)
    except (ValueError, TypeError, binascii.Error):
        raise InvalidParameter("Field 'cursor' takes the next_cursor of the answer before.") from None
