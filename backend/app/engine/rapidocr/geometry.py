"""Quadrilaterals of text lines: their skew, their upright boxes, and where they lie on the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.engine.rapidocr.layout import Box

Points = NDArray[np.float64]
"""Shape (..., 2): x and y. A quadrilateral is (4, 2): top left, top right, bottom right, bottom left."""

_LONG = 3.0
"""Width over height from which a line's edge tells the page's skew well."""


@dataclass(frozen=True)
class Placement:
    """Where the pixels that a detector saw lie on the page as given.

    The page, turned `turns` quarters counter-clockwise, lies in the detector's picture at `left`,
    `top` with `width` and `height`.
    """

    left: float
    top: float
    width: float
    height: float
    turns: int

    def box(self, points: Points) -> list[int]:
        """Return [x1, y1, x2, y2] around `points`, 0..999 of the page as given."""
        u = (points[..., 0].ravel() - self.left) / self.width
        v = (points[..., 1].ravel() - self.top) / self.height
        x, y = ((u, v), (1 - v, u), (1 - u, 1 - v), (v, 1 - u))[self.turns % 4]
        corners = np.array([x.min(), y.min(), x.max(), y.max()])
        return [int(value) for value in np.clip(np.rint(corners * 999), 0, 999)]


def straighten(quads: Sequence[Points]) -> list[Box]:
    """Return each quadrilateral's upright box after turning all of them by the page's skew."""
    angle = skew(quads)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    boxes = []
    for quad in quads:
        points = quad @ turn.T
        rows = np.sort(points[:, 1])
        boxes.append(
            Box(points[:, 0].min(), float(rows[:2].mean()), points[:, 0].max(), float(rows[2:].mean())),
        )
    return boxes


def skew(quads: Sequence[Points]) -> float:
    """Return the angle in radians at which the lines run: the median of the long lines', by length."""
    angles, lengths = [], []
    for quad in quads:
        along = (quad[1] - quad[0] + quad[2] - quad[3]) / 2
        height = float(np.linalg.norm(quad[3] - quad[0]))
        length = float(np.linalg.norm(along))
        if length >= _LONG * height:
            angles.append(math.atan2(along[1], along[0]))
            lengths.append(length)
    if not angles:
        return 0.0
    order = np.argsort(angles)
    weight = np.cumsum(np.array(lengths)[order])
    return float(np.array(angles)[order][int(np.searchsorted(weight, weight[-1] / 2))])


def part(quad: Points, start: float, end: float) -> Points:
    """Return the piece of a quadrilateral from `start` to `end`, fractions of its length."""
    top, bottom = quad[1] - quad[0], quad[2] - quad[3]
    return np.array([quad[0] + top * start, quad[0] + top * end, quad[3] + bottom * end, quad[3] + bottom * start])
