"""A bounded number of places, for which a person's request never queues behind a document's pages."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator


class Places:
    """`count` places; those in the background get one only when nobody else waits, and never the last `reserved`."""

    def __init__(self, count: int, reserved: int = 0) -> None:
        self._free = count
        self._free_for_background = count - reserved
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._waiting_in_background: deque[asyncio.Future[None]] = deque()

    @contextlib.asynccontextmanager
    async def held(self, background: bool = False) -> AsyncIterator[None]:
        """Hold a place; within its kind, first come, first served."""
        queue = self._waiting_in_background if background else self._waiting
        turn = asyncio.get_running_loop().create_future()
        queue.append(turn)
        self._hand_out()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                with contextlib.suppress(ValueError):
                    queue.remove(turn)
                self._hand_out()
            else:
                self._give_back(background)
            raise
        try:
            yield
        finally:
            self._give_back(background)

    def _give_back(self, background: bool) -> None:
        self._free += 1
        self._free_for_background += background
        self._hand_out()

    def _hand_out(self) -> None:
        while self._free and (turn := _next(self._waiting)):
            self._free -= 1
            turn.set_result(None)
        while self._free and self._free_for_background > 0 and (turn := _next(self._waiting_in_background)):
            self._free -= 1
            self._free_for_background -= 1
            turn.set_result(None)


def _next(queue: deque[asyncio.Future[None]]) -> asyncio.Future[None] | None:
    """Take the first who still waits."""
    while queue:
        turn = queue.popleft()
        if not turn.done():
            return turn
    return None
