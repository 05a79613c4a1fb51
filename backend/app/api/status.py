"""Routes for programs that watch the service."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from app import __version__
from app.api.ocr import PROBLEMS
from app.api.schemas import HealthResponse, IndexResponse, StatusResponse
from app.engine.base import EngineState, MeasuredEngine
from app.errors import ServiceError

router = APIRouter(tags=["status"])

_STATUS_WORDS = {
    EngineState.READY: "healthy",
    EngineState.STARTING: "starting",
    EngineState.FAILED: "unhealthy",
    EngineState.STOPPED: "unhealthy",
}


@router.get("/")
async def index(request: Request) -> IndexResponse:
    """Say what this is and where the rest is."""
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
            "modes": "/api/modes",
            "health": "/health",
            "live": "/livez",
            "ready": "/readyz",
            "metrics": "/metrics",
            "openapi": "/openapi.json",
        },
    )


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
