"""Routes for programs that watch the service."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from app import __version__
from app.api.ocr import PROBLEMS
from app.api.schemas import HealthResponse, IndexResponse, StatusResponse
from app.engine.base import EngineState, MeasuredEngine
from app.errors import ServiceError
from app.ocr.modes import MODES
from app.ocr.resolution import RESOLUTIONS, resolve_resolution
from app.web.page import SECURITY_HEADERS, View, choose_language, render_page, wants_html

router = APIRouter(tags=["status"])

_STATUS_WORDS = {
    EngineState.READY: "healthy",
    EngineState.STARTING: "starting",
    EngineState.FAILED: "unhealthy",
    EngineState.STOPPED: "unhealthy",
}


@router.get(
    "/",
    response_model=IndexResponse,
    responses={
        200: {"description": "For browsers, the page.", "content": {"text/html": {"schema": {"type": "string"}}}}
    },
)
async def index(request: Request, lang: str | None = None) -> IndexResponse | Response:
    """Say what this is and where the rest is; to a browser, give the page. `lang` is the page's language, en or zh."""
    if wants_html(request.headers):
        return _page(request, lang)
    engine = request.app.state.engine
    return IndexResponse(
        message="DeepSeek-OCR service. POST a picture to /api/ocr.",
        version=__version__,
        docs="/docs",
        inference_engine=engine.name,
        model_path=engine.model,
        notice=engine.capabilities().notice,
        routes={
            "ocr": "/api/ocr",
            "document": "/api/ocr/pdf",
            "document_at_once": "/api/process-pdf",
            "picture_as_task": "/api/ocr/image",
            "tasks": "/api/tasks",
            "task": "/api/tasks/{task_id}",
            "task_events": "/api/tasks/{task_id}/events",
            "task_cancel": "/api/tasks/{task_id}/cancel",
            "task_retry": "/api/tasks/{task_id}/retry",
            "task_download": "/api/tasks/{task_id}/download/{path}",
            "task_page": "/api/tasks/{task_id}/pages/{number}",
            "task_page_picture": "/api/tasks/{task_id}/pages/{number}/picture",
            "modes": "/api/modes",
            "health": "/health",
            "live": "/livez",
            "ready": "/readyz",
            "metrics": "/metrics",
            "openapi": "/openapi.json",
        },
    )


def _page(request: Request, asked: str | None) -> Response:
    """Return the page; a language asked for is remembered in a cookie."""
    engine, settings = request.app.state.engine, request.app.state.settings
    able = engine.capabilities()
    usual = resolve_resolution(None, settings.base_size, settings.image_size, settings.crop_mode)
    names = list(reversed(RESOLUTIONS))
    names.sort(key=lambda name: RESOLUTIONS[name] != usual)
    view = View(
        engine=engine.name,
        model=engine.model,
        version=__version__,
        notice=able.notice,
        modes=tuple(name for name in MODES if name in able.modes),
        resolutions=tuple(names) if able.prompted else (),
        keys_needed=bool(settings.api_key_hashes),
        documents=request.app.state.documents is not None,
    )
    language = choose_language(
        asked or request.cookies.get("lang"), accept_language=request.headers.get("accept-language", "")
    )
    response = HTMLResponse(render_page(view, language), headers=SECURITY_HEADERS)
    response.headers["Vary"] = "Accept, Accept-Language, Cookie"
    if asked == language:
        response.set_cookie("lang", language, max_age=365 * 86_400, samesite="lax", httponly=True)
    return response


@router.get("/health")
async def health(request: Request) -> HealthResponse:
    """State of the engine in the predecessor's words; always 200."""
    state: EngineState = request.app.state.supervisor.health().state
    return HealthResponse.model_validate(
        {
            "status": _STATUS_WORDS[state],
            "model_loaded": state is EngineState.READY,
            "inference_engine": request.app.state.engine.name,
        }
    )


@router.get("/livez")
async def livez() -> StatusResponse:
    """200 while the process serves."""
    return StatusResponse(status="ok")


@router.get("/readyz", responses={503: PROBLEMS[503]})
async def readyz(request: Request) -> StatusResponse:
    """200 while the engine serves, else 503."""
    refused: ServiceError | None = request.app.state.supervisor.refusal()
    if refused is not None:
        raise refused
    return StatusResponse(status="ready")


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def metrics(request: Request) -> Response:
    """Metrics for Prometheus: the service's and, where it has some, the engine's."""
    # Not a coroutine, so that a thread writes the many lines of the vLLM engine.
    text = generate_latest(request.app.state.metrics.registry)
    engine = request.app.state.engine
    if isinstance(engine, MeasuredEngine):
        text += engine.render_metrics()
    return Response(text, media_type=CONTENT_TYPE_LATEST)
