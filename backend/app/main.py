"""The application: settings, one engine and the layers between, put together."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import structlog
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi_offline import FastAPIOffline
from starlette.routing import Route

from app import __version__
from app.api import ocr, process, status, tasks
from app.api.context import LastResort, RequestContext
from app.api.gate import KEY_SCHEMES, MEGABYTE, Admission, Gate
from app.api.metrics import Metrics
from app.api.problems import install_handlers
from app.cores import usable_cores
from app.engine.base import Engine
from app.engine.supervisor import EngineSupervisor
from app.engines import build_engine
from app.ingest.decoder import Decoder
from app.ingest.limits import IngestLimits
from app.jobs.at_once import AtOnce
from app.jobs.documents import DocumentLimits, Documents
from app.jobs.webhooks import Webhooks
from app.reader import PageReader
from app.results.pool import WriterPool
from app.settings import Settings
from app.web.page import STATIC, OwnFiles

log = structlog.get_logger()

# Longer than proxies and clients keep a connection that rests (nginx and most load balancers 60 s, Traefik and Go 90 s): of two
# that let go at the same moment, the client's next request is lost.
KEEP_ALIVE_SECONDS = 120


def build_documents(
    settings: Settings,
    engine: Engine,
    decoder: Decoder,
    reader: PageReader,
    writers: WriterPool,
    supervisor: EngineSupervisor,
    metrics: Metrics,
) -> Documents | None:
    """Return what keeps documents, None where they are turned off; nothing of it is open yet."""
    if not settings.jobs_enabled:
        return None
    return Documents(
        engine,
        decoder,
        reader,
        writers,
        data=Path(settings.data_dir),
        database_url=settings.database_url,
        limits=DocumentLimits(settings.max_tasks, int(settings.max_data_mb * MEGABYTE), settings.task_retention_days),
        patience=settings.request_timeout_seconds,
        webhooks=Webhooks(settings.webhook_secret, settings.webhook_allow_private),
        refusal=supervisor.refusal,
        observe=metrics.observe_task_page,
        count=metrics.observe_tasks,
    )


def default_decoders(engine: Engine) -> int:
    """Return how many decoder processes suit an engine; one that reads a page at a time keeps the other cores busy itself."""
    cores = usable_cores()
    # Where many upload at once a decoder waits for the event loop between two pages: more of them hide that.
    return max(1, min(16, cores if engine.capabilities().concurrency > 1 else cores // 2))


def create_app(settings: Settings | None = None, engine: Engine | None = None) -> FastAPI:
    """Return the service; `engine` takes the place of the one the settings choose."""
    settings = settings or Settings()
    engine = engine or build_engine(settings)
    workers = settings.decode_workers or default_decoders(engine)
    limits = IngestLimits(settings.max_image_pixels, settings.max_image_frames, settings.decode_timeout_seconds)
    decoder = Decoder(limits, workers)
    supervisor = EngineSupervisor(engine)
    admission = Admission(settings.max_queue)
    metrics = Metrics(lambda: admission.depth, lambda: supervisor.refusal() is None)
    reader = PageReader(engine, decoder, decode_ahead=workers, timeout=settings.request_timeout_seconds)
    writers = WriterPool(limits)
    at_once = AtOnce(
        *(engine, decoder, reader, settings.max_sync_pages, settings.request_timeout_seconds),
        metrics.observe_task_page,
    )
    documents = build_documents(settings, engine, decoder, reader, writers, supervisor, metrics)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        log.info("service_started", engine=engine.name, version=__version__)
        async with contextlib.AsyncExitStack() as running:
            running.push_async_callback(supervisor.stop)
            await supervisor.start()
            running.push_async_callback(decoder.stop)
            await decoder.start()
            running.push_async_callback(writers.stop)
            if documents is not None:
                running.push_async_callback(documents.stop)
                await documents.start()
            yield
        log.info("service_stopped")

    # The documentation page brings its own scripts: many of these services see no other host.
    app = FastAPIOffline(
        title="DeepSeek-OCR service",
        summary="Pages in, text and boxes out.",
        redoc_url=None,
        version=__version__,
        lifespan=lifespan,
    )
    app.state.settings = settings
    app.state.engine = engine
    app.state.supervisor = supervisor
    app.state.metrics = metrics
    app.state.reader = reader
    app.state.documents = documents
    app.state.spool = str(documents.spool) if documents is not None else None
    app.state.at_once = at_once
    app.state.writers = writers
    app.state.stopping = lambda: False  # whoever runs the server knows
    app.mount("/static", OwnFiles(directory=STATIC), name="static")
    app.include_router(status.router)
    for router in (ocr.router, tasks.router, process.router):
        app.include_router(router, dependencies=KEY_SCHEMES)
    install_handlers(app)
    app.add_middleware(
        Gate,
        key_hashes=settings.api_key_hashes,
        refusal=supervisor.refusal,
        admission=admission,
        max_body_bytes=int(settings.max_upload_size_mb * MEGABYTE),
        upload_timeout=settings.upload_timeout_seconds,
    )
    app.add_middleware(LastResort)
    if settings.cors_origins:
        every = "*" in settings.cors_origins
        app.add_middleware(
            CORSMiddleware,
            allow_origins=["*"] if every else list(settings.cors_origins),
            allow_credentials=not every,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=[
                *("Authorization", "Content-Type", "X-API-Key", "X-Request-ID"),
                *("Idempotency-Key", "Last-Event-ID"),
            ],
            expose_headers=["X-Request-ID", "Retry-After", "Location", "Content-Disposition"],
        )
    paths = frozenset(route.path for route in app.routes if isinstance(route, Route) and "{" not in route.path)
    app.add_middleware(RequestContext, metrics=metrics, paths=paths)
    return app
