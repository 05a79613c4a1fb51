"""The service as tests meet it: in process, or on a real port."""

from __future__ import annotations

import asyncio
import contextlib
import io
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import uvicorn
from asgi_lifespan import LifespanManager
from PIL import Image

from app.engine.base import Engine
from app.main import KEEP_ALIVE_SECONDS, create_app
from app.settings import Settings


def make_settings(**values: Any) -> Settings:
    """Settings untouched by the machine's environment file; the fake engine and no documents unless said otherwise."""
    chosen = {"_env_file": None, "inference_engine": "fake", "decode_workers": 1, "jobs_enabled": False}
    return Settings(**{**chosen, **values})


def png(width: int = 40, height: int = 20, colour: str = "white") -> bytes:
    """A small plain picture."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, "PNG")
    return buffer.getvalue()


def upload(data: bytes | None = None, name: str = "page.png") -> dict[str, tuple[str, bytes]]:
    """The `files` argument of a client's post."""
    return {"image": (name, png() if data is None else data)}


@contextlib.asynccontextmanager
async def serving(
    engine: Engine | None = None, wait_ready: bool = True, **settings: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application in this process, its start-up and shutdown run."""
    app = create_app(make_settings(**settings), engine)
    async with LifespanManager(app, startup_timeout=60, shutdown_timeout=60) as manager:
        transport = httpx.ASGITransport(app=manager.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://service", timeout=30) as client:
            if wait_ready:
                await until_ready(client)
            yield client


@contextlib.asynccontextmanager
async def serving_on_port(engine: Engine | None = None, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application behind uvicorn on a loopback port; stopping it drains as SIGTERM does."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    port = listener.getsockname()[1]
    made = make_settings(**settings)
    config = uvicorn.Config(
        create_app(made, engine),
        log_config=None,
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=made.shutdown_timeout_seconds,
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        try:
            await until_ready(client)
            yield client
        finally:
            server.should_exit = True
            await task
            listener.close()


async def until_ready(client: httpx.AsyncClient) -> None:
    """Wait until the engine serves; fails after 20 s."""
    for _ in range(400):
        if (await client.get("/readyz")).status_code == 200:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("the service did not become ready in 20 s")
