"""Whose page is next: documents take turns, page by page, those of a higher priority first."""

from __future__ import annotations

import asyncio
import heapq
import itertools

from app.jobs.task import Run


class Turns:
    """`count` pages at a time.

    A document asks for one turn at a time, and asks again behind everyone who waits: so a short document gets every
    second turn beside a long one, however many pages that has.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._arrivals = itertools.count()
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._documents: dict[asyncio.Future[None], Run] = {}

    async def take(self, document: Run, priority: int) -> None:
        """Wait for a turn; `give_back` ends it."""
        turn = asyncio.get_running_loop().create_future()
        self._documents[turn] = document
        heapq.heappush(self._waiting, (-priority, next(self._arrivals), turn))
        self._hand_out()
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self.give_back()
            raise
        finally:
            del self._documents[turn]

    @property
    def waiting(self) -> set[Run]:
        """The documents that wait for a turn."""
        return set(self._documents.values())

    def hurry(self, document: Run) -> None:
        """Give a document that waits its turn at once, beside the others: it is to end, not to read."""
        for turn, waiting in self._documents.items():
            if waiting == document and not turn.done():
                self._free -= 1
                turn.set_result(None)

    def give_back(self) -> None:
        """End a turn."""
        self._free += 1
        self._hand_out()

    def _hand_out(self) -> None:
        while self._free > 0 and self._waiting:
            *_, turn = heapq.heappop(self._waiting)
            if not turn.done():
                self._free -= 1
                turn.set_result(None)
