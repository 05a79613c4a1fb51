"""`POST /api/ocr` and what goes with it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable
from typing import Annotated, Any, TypeVar

import structlog
from fastapi import APIRouter, File, Form, Request, UploadFile
from fastapi.responses import Response
from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import AppStatus
from starlette.types import Receive

from app.api.forms import ChosenPage, FormRoute, OcrOptions, loading
from app.api.problems import Problem, problem
from app.api.schemas import ModeJson, ModesResponse, OcrResponse, PageView
from app.errors import ClientGone, InternalError, InvalidParameter, ServiceError
from app.ingest.choice import PageChoice
from app.ocr.modes import MODES, prompt_template
from app.ocr.resolution import RESOLUTIONS
from app.ocr.service import RecogniseOptions, Restart
from app.reader import ReadPage, log_page
from app.results.document import PagePictures
from app.results.pages import PageResult

log = structlog.get_logger()
router = APIRouter(prefix="/api", tags=["ocr"], route_class=FormRoute)
T = TypeVar("T")

# A comment line on an idle stream, before proxies' usual 60 s run out.
PING_SECONDS = 15
# A client that stops reading its stream holds a place at the engine: it is dropped after this long.
SEND_SECONDS = 30

# Unasked, sse_starlette cuts every stream when the service is told to stop; ours are to be finished.
AppStatus.enable_automatic_graceful_drain = False

_REASONS = {
    400: "The body could not be parsed.",
    401: "An API key is needed.",
    404: "No such task, or no such file of it.",
    408: "The upload stalled.",
    409: "The task is in another state, or the idempotency key was used for another upload.",
    413: "The upload, its pixels or its frames are over a limit.",
    415: "Not a file type that is read.",
    422: "A field or the file is not acceptable.",
    429: "Too many requests are waiting; see Retry-After.",
    501: "The operator has turned documents off.",
    503: "The engine is not ready or failed; see Retry-After.",
    504: "Reading the page took too long.",
    507: "The service has no room for another document.",
}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"description": reason, "content": {"application/problem+json": {"schema": Problem.model_json_schema()}}}
    for status, reason in _REASONS.items()
}


@router.post(
    "/ocr",
    response_model=OcrResponse,
    responses={
        **{status: PROBLEMS[status] for status in (400, 401, 408, 413, 415, 422, 429, 503, 504)},
        200: {
            "description": "The page; with stream=true server-sent events: `delta` with raw text as it is read, "
            "`restart` when all text so far repeated itself without end and the page is read again, then `result` "
            "with this JSON, or `error` with a problem.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
    },
)
async def read_picture(
    request: Request,
    image: Annotated[
        UploadFile,
        File(description="The file: a picture (JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF, JPEG 2000 or HEIC) or a PDF."),
    ],
    choice: ChosenPage,
    options: OcrOptions,
    stream: Annotated[bool, Form(description="Answer with server-sent events while the page is being read.")] = False,
    html: Annotated[bool, Form(description="Give the page as HTML and in blocks, too.")] = False,
) -> Response:
    """Read one picture, or one page of a PDF or TIFF."""
    if (count := len((await request.form()).getlist("image"))) > 1:
        raise InvalidParameter(f"Field 'image' was sent {count} times. Send one file in each request.")
    if stream:
        return await _stream(request, image, choice, options, html)
    state = request.app.state
    reading = state.reader.read(loading(image), choice, options, request.state.request_id, pictures=html)
    page = await until_disconnect(request.receive, reading)
    return Response((await _answer(request, page, options, html)).model_dump_json(), media_type="application/json")


@router.get("/modes", responses={401: PROBLEMS[401]})
async def list_modes(request: Request) -> ModesResponse:
    """Say what this service can do and with which prompts."""
    engine = request.app.state.engine
    able = engine.capabilities()
    return ModesResponse(
        engine=engine.name,
        model=engine.model,
        notice=able.notice,
        prompted=able.prompted,
        modes=[
            ModeJson(
                name=mode.name,
                summary=mode.summary,
                available=mode.name in able.modes,
                grounding=mode.grounded,
                prompt=prompt_template(mode),
            )
            for mode in MODES.values()
        ],
        resolutions={
            name: {"base_size": it.base_size, "image_size": it.image_size, "crop_mode": it.crop_mode}
            for name, it in RESOLUTIONS.items()
        },
    )


async def until_disconnect(receive: Receive, work: Awaitable[T]) -> T:
    """Return the result of `work`; when the client goes away first, cancel it and raise ClientGone."""
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        for pending in (task, watcher):
            pending.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _stream(
    request: Request, image: UploadFile, choice: PageChoice, options: RecogniseOptions, html: bool
) -> Response:
    """Answer with events; what fails before the first text still gets its own HTTP status."""
    parts = request.app.state.reader.stream(loading(image), choice, options, request.state.request_id, pictures=html)
    request.state.until_sent.push_async_callback(parts.aclose)
    first = await until_disconnect(request.receive, anext(parts))

    async def events() -> AsyncIterator[ServerSentEvent]:
        part: str | Restart | ReadPage = first
        try:
            while not isinstance(part, ReadPage):
                yield _progress_event(part)
                part = await anext(parts)
            yield ServerSentEvent(event="result", data=(await _answer(request, part, options, html)).model_dump_json())
        except (asyncio.CancelledError, GeneratorExit):
            request.state.error_code = ClientGone.code
            raise
        except ServiceError as error:
            yield _error_event(error, request)
        except Exception:
            log.exception("request_failed", path=request.url.path)
            yield _error_event(InternalError(), request)

    return EventSourceResponse(events(), ping=PING_SECONDS, send_timeout=SEND_SECONDS)


def _progress_event(part: str | Restart) -> ServerSentEvent:
    if isinstance(part, Restart):
        return ServerSentEvent(event="restart", data=json.dumps({"attempt": part.attempt}))
    return ServerSentEvent(event="delta", data=json.dumps({"text": part}, ensure_ascii=False))


def _error_event(error: ServiceError, request: Request) -> ServerSentEvent:
    return ServerSentEvent(event="error", data=json.dumps(problem(error, request.scope), ensure_ascii=False))


async def _answer(request: Request, page: ReadPage, options: RecogniseOptions, html: bool) -> OcrResponse:
    state = request.app.state
    state.metrics.observe_page(page.recognition, page.timing_ms)
    log_page(page)
    view = await asyncio.to_thread(_view, page) if html else None
    return OcrResponse.of(page, state.engine, options.resolution, request.state.request_id, view)


def _view(page: ReadPage) -> PageView:
    result = PageResult.of(page.number, page.recognition, page.dpi)
    return PageView.make(result, PagePictures(tuple(picture.jpeg for picture in page.pictures)))
