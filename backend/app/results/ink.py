"""Lines and words as a page's picture shows them: where there is ink and where there is none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from app.page import Page
from app.results.rect import Rect, Turn

Fractions = tuple[float, float]

_CONTRAST = 40
"""Least difference between ink and paper, of 255."""
_LEAST_LINE = 4
"""Pixels; less ink from top to bottom is a rule or a speck."""
_MOST_WORDS = 400
"""Of one line; more are left where they were reckoned."""
_SIDEWAYS = 0.8
"""How much ink comes and goes across, as a part of what does down: half on upright pages of Latin text, more than
this on pages that lie on their side, but as much on an upright Chinese page."""
_REACH = 4.0
"""How far a word's end may be from where it is guessed, in heights of its line."""
_GAP_WORTH = 4.0
_WIDEST_SPACE = 0.5
"""In heights of a line: what a gap between two words is worth, and from which width on it is worth no more."""


class Ink:
    """The ink of one page."""

    def __init__(self, page: Page) -> None:
        # Green is close to how bright a colour looks, and costs no arithmetic.
        self._grey = page.pixels[:, :, 1]

    def may_be_sideways(self) -> bool:
        """Say whether lines of text may run from top to bottom: whether ink comes and goes across, too."""
        whole = Rect(0, 0, self._grey.shape[1], self._grey.shape[0])
        ink, _, _ = self._cut(whole)
        if ink is None:
            return False
        across, down = (np.abs(np.diff(ink.sum(axis=axis).astype(float))).sum() for axis in (0, 1))
        return bool(across > _SIDEWAYS * down)

    def lines(self, area: Rect, turn: Turn) -> tuple[Rect, ...]:
        """Return the lines of text in an area in reading order, each as long as its ink; none on blank paper."""
        ink, left, top = self._cut(area)
        if ink is None:
            return ()
        height, width = ink.shape
        ink = np.rot90(ink, turn // 90)
        rows: NDArray[np.int_] = ink.sum(axis=1)
        # A speck or a stroke that reaches from one line to the next does not join them.
        least = max(1.0, 0.03 * float(np.percentile(rows, 95)))
        runs = _runs(np.greater(rows, least))
        runs = [run for run in runs if run[1] - run[0] >= _LEAST_LINE]
        bands = []
        for start, end in _with_accents(runs):
            columns = np.flatnonzero(ink[start:end].any(axis=0))
            x1, y1, x2, y2 = _turned_back(int(columns[0]), start, int(columns[-1]) + 1, end, turn, width, height)
            bands.append(Rect(left + x1, top + y1, left + x2, top + y2))
        return tuple(bands)

    def words(self, box: Rect, turn: Turn, guesses: Sequence[Sequence[Fractions]]) -> list[Fractions]:
        """Find the words of a line, given where they may be as fractions of its length, by one face or another.

        Returned are the fractions of the face that fits best, moved to the gaps there are.
        """
        first_guess = list(guesses[0])
        ink, left, top = self._cut(box)
        if ink is None or not 0 < len(first_guess) <= _MOST_WORDS:
            return first_guess
        offset = self._offset(box, turn, left, top, ink.shape)
        ink = np.rot90(ink, turn // 90)
        length = (box.x2 - box.x1) if turn in (0, 180) else (box.y2 - box.y1)
        runs = _runs(np.logical_or.reduce(ink, axis=0))
        if runs[-1][1] - runs[0][0] < 0.5 * length:
            return first_guess
        found = [_divide(runs, guess, ink.shape[0]) for guess in guesses]
        spans = min(found, key=lambda one: one[0])[1]
        return [((offset + a) / length, (offset + b) / length) for a, b in spans] if spans else first_guess

    def _cut(self, area: Rect) -> tuple[NDArray[np.bool_] | None, int, int]:
        """Return where the area has ink, with its left and top; None where it has none or no contrast."""
        height, width = self._grey.shape
        left, right = (round(min(max(x, 0), width)) for x in (area.x1, area.x2))
        top, bottom = (round(min(max(y, 0), height)) for y in (area.y1, area.y2))
        grey = self._grey[top:bottom, left:right]
        if grey.size == 0:
            return None, left, top
        low, high = int(grey.min()), int(grey.max())
        if high - low < _CONTRAST:
            return None, left, top
        dark = grey < (low + high) // 2
        # Ink is the lesser part: light letters on dark paper are as good.
        return (dark if 2 * np.count_nonzero(dark) <= dark.size else ~dark), left, top

    @staticmethod
    def _offset(box: Rect, turn: Turn, left: int, top: int, shape: tuple[int, ...]) -> float:
        """Return how far along the line the cut begins, in pixels from where the line begins."""
        if turn == 0:
            return left - box.x1
        if turn == 90:
            return top - box.y1
        if turn == 180:
            return box.x2 - (left + shape[1])
        return box.y2 - (top + shape[0])


def _runs(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return start and end of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False])).astype(np.int8)))
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]


def _turned_back(x1: int, y1: int, x2: int, y2: int, turn: Turn, width: int, height: int) -> tuple[int, int, int, int]:
    """Return where a box in the upright picture is in the one of width x height that was turned."""
    if turn == 90:
        return width - y2, x1, width - y1, x2
    if turn == 180:
        return width - x2, height - y2, width - x1, height - y1
    if turn == 270:
        return y1, height - x2, y2, height - x1
    return x1, y1, x2, y2


def _with_accents(runs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join a run far lower than a line, such as accents or dots, to the run it is nearest to."""
    if len(runs) < 2:
        return runs
    usual = float(np.median([end - start for start, end in runs if end - start >= _LEAST_LINE]))
    joined: list[tuple[int, int]] = []
    for start, end in runs:
        if (
            joined
            and min(end - start, joined[-1][1] - joined[-1][0]) < 0.4 * usual
            and start - joined[-1][1] < 0.25 * usual
        ):
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined


def _divide(
    runs: list[tuple[int, int]], guess: Sequence[Fractions], height: int
) -> tuple[float, list[tuple[int, int]]]:
    """Divide runs of ink among words so that each is about as wide as guessed and the gaps between are wide.

    Returned is how badly it fits, infinity where it does not, and start and end of each word. Dynamic programming:
    after each word, the cheapest way to have it end with each of the runs near to where it may end.
    """
    starts, ends = np.array(runs).T
    first, length = int(starts[0]), int(ends[-1] - starts[0])
    gaps = np.append((starts[1:] - ends[:-1]) / height, 0.0)
    reach = max(_REACH * height, 0.1 * length)
    low, costs = -1, np.zeros(1)  # before the first word: ended with run -1
    steps: list[tuple[int, int, NDArray[np.intp]]] = []
    for number, (start, end) in enumerate(guess):
        if number == len(guess) - 1:
            near = len(runs) - 1, len(runs)
        else:
            near = np.searchsorted(ends, [first + end * length - reach, first + end * length + reach]).tolist()
        if near[0] >= near[1]:
            return np.inf, []
        here = np.arange(*near)
        before = np.arange(low, low + len(costs))
        begins = starts[np.minimum(before + 1, len(runs) - 1)]
        off = np.abs(ends[here][None, :] - begins[:, None] - (end - start) * length) / height
        total = np.where(before[:, None] < here[None, :], costs[:, None] + off, np.inf)
        best = total.argmin(axis=0)
        steps.append((low, near[0], best))
        costs = total[best, np.arange(len(here))] - _GAP_WORTH * np.minimum(gaps[here], _WIDEST_SPACE)
        low = near[0]
    if not np.isfinite(costs[0]):
        return np.inf, []
    spans: list[tuple[int, int]] = []
    last = len(runs) - 1
    for before_low, here_low, best in reversed(steps):
        previous = before_low + int(best[last - here_low])
        spans.append((int(starts[previous + 1]), int(ends[last])))
        last = previous
    return float(costs[0]), spans[::-1]
