"""Rectangles on a page, in fractions of pixels, and the parts of a line that is turned."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Turn = Literal[0, 90, 180, 270]
"""Degrees clockwise by which text is turned; 90 reads from top to bottom."""


@dataclass(frozen=True)
class Rect:
    """A rectangle in pixels of a page, in fractions of them."""

    x1: float
    y1: float
    x2: float
    y2: float


def stretch(box: Rect, turn: Turn, start: float, end: float) -> Rect:
    """Return the part of a line's box between two fractions of its length, in reading direction."""
    if turn in (180, 270):
        start, end = 1 - end, 1 - start
    if turn in (0, 180):
        width = box.x2 - box.x1
        return replace(box, x1=box.x1 + start * width, x2=box.x1 + end * width)
    height = box.y2 - box.y1
    return replace(box, y1=box.y1 + start * height, y2=box.y1 + end * height)
