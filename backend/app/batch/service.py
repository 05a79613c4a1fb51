"""A service of the command's own, for as long as it runs: on loopback, behind a key that nobody else knows."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import time
from collections.abc import AsyncIterator, Iterator

import httpx
import uvicorn

from app.api.gate import hash_api_key
from app.errors import EngineStartError
from app.main import KEEP_ALIVE_SECONDS, create_app
from app.settings import Settings
from deepseek_ocr import AsyncClient

# A model of 7 GB from a slow disk, compiled for the first time.
_LOADING_SECONDS = 1800.0
_POLL_SECONDS = 0.1


class _Server(uvicorn.Server):
    """uvicorn without its handlers: an interrupt ends the command, which then ends the service."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def own_service(settings: Settings) -> AsyncIterator[AsyncClient]:
    """Serve on a free port and yield a client once the engine is loaded; raises EngineStartError with the cause."""
    key = secrets.token_urlsafe(32)
    chosen = settings.model_copy(update={"api_key_hashes": (hash_api_key(key),)})
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        config = uvicorn.Config(
            create_app(chosen),
            log_config=None,
            access_log=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=5,
        )
        server = _Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            await _loaded(url, serving)
            async with AsyncClient(url, api_key=key, timeout=settings.request_timeout_seconds + 30) as client:
                yield client
        finally:
            server.should_exit = True
            await asyncio.gather(serving, return_exceptions=True)


async def _loaded(url: str, serving: asyncio.Task[None]) -> None:
    patience = time.monotonic() + _LOADING_SECONDS
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        while not serving.done() and time.monotonic() < patience:
            with contextlib.suppress(httpx.TransportError):
                ready = await client.get("/readyz")
                if ready.status_code == 200:
                    return
                if (await client.get("/health")).json()["status"] == "unhealthy":
                    raise EngineStartError(ready.json()["detail"])
            await asyncio.sleep(_POLL_SECONDS)
    raise EngineStartError
