"""Which way up a page is, judged by what its longest lines read like each way round.

RapidOCR's own classifier looks at single lines and turns upright ones upside down. The recogniser is
surer: right way up it reports a confidence of 0.95 and more, else seldom more than 0.85. And the lines
it reads here are lines it would read anyway, so an upright page pays nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from app.engine.rapidocr.models import Detection
from app.engine.rapidocr.recogniser import Picture, Reading

_SAMPLE = 3
_SURE = 0.95
_ENOUGH_LETTERS = 12
"""Fewer letters than this may read well upside down ("1961"), so the other ways are tried too."""
_MARGIN = 0.05
"""By how much another way must read better than the page as given."""
_CLEAR = 1.5
"""Ratio of sides from which a box has a direction."""

Read = Callable[[Sequence[Picture]], list[Reading]]


def judge(detection: Detection, read: Read) -> tuple[int, dict[int, Reading]]:
    """Return how many quarters counter-clockwise the page must be turned, and the lines read on the way.

    The lines count only when the page is not turned.
    """
    sample, ways = _sample(detection)
    upright = [
        np.rot90(detection.crops[index], -1) if detection.tall[index] else detection.crops[index] for index in sample
    ]
    tried: dict[int, list[Reading]] = {}
    for turns in ways:
        tried[turns] = read([np.ascontiguousarray(np.rot90(crop, turns)) for crop in upright])
        if _confidence(tried[turns]) >= _SURE and _letters(tried[turns]) >= _ENOUGH_LETTERS:
            break
    # A way round in which letters go unread is worse even if the rest is clear: many a sign has no top.
    most = max(1, *(_letters(readings) for readings in tried.values()))
    merit = {turns: _confidence(readings) * _letters(readings) / most for turns, readings in tried.items()}
    best = max(merit, key=lambda turns: merit[turns])
    if best == 0 or merit[best] < merit.get(0, 0.0) + _MARGIN:
        given = zip(sample, tried.get(0, ()), strict=False)
        return 0, {index: reading for index, reading in given if not detection.tall[index]}
    return best, {}


def _confidence(readings: Sequence[Reading]) -> float:
    return sum(reading.confidence for reading in readings) / len(readings)


def _letters(readings: Sequence[Reading]) -> int:
    return sum(len(reading.text) for reading in readings)


def _sample(detection: Detection) -> tuple[list[int], tuple[int, ...]]:
    """Choose the lines to read and the ways round to try, the likeliest first."""
    sides = [
        (float(np.linalg.norm(quad[1] - quad[0])), float(np.linalg.norm(quad[3] - quad[0]))) for quad in detection.quads
    ]
    clear = [index for index, (length, height) in enumerate(sides) if length >= _CLEAR * height]
    tall = sum(sides[index][0] for index in clear if detection.tall[index])
    wide = sum(sides[index][0] for index in clear if not detection.tall[index])
    if not clear:
        return _longest(sides, list(range(len(sides)))), (0, 1, 2, 3)
    if wide >= tall:
        return _longest(sides, [index for index in clear if not detection.tall[index]]), (0, 2)
    return _longest(sides, [index for index in clear if detection.tall[index]]), (1, 3, 0)


def _longest(sides: Sequence[tuple[float, float]], indices: Sequence[int]) -> list[int]:
    return sorted(indices, key=lambda index: -sides[index][0])[:_SAMPLE]
