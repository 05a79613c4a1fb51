"""Threads for what blocks: the database and the files of tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from app.errors import DatabaseUnavailable, ShuttingDown

P = ParamSpec("P")
T = TypeVar("T")

_COUNT = 8
_RETRY_SECONDS = 2.0


class Threads:
    """Calls what blocks, off the event loop. After `close`, calls raise ShuttingDown."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_COUNT, thread_name_prefix="jobs")
        self._closed = False

    def close(self) -> None:
        """Let go of the threads."""
        self._closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call what blocks."""
        if self._closed:
            raise ShuttingDown
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: function(*args, **kwargs))

    async def insist(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call what blocks, again and again while the database is away."""
        while True:
            try:
                return await self.run(function, *args, **kwargs)
            except DatabaseUnavailable:
                await asyncio.sleep(_RETRY_SECONDS)
