"""How well an answer was read: wrong characters, and boxes found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rapidfuzz.distance import Levenshtein

from app.ocr.grounding import Tag, parse

Box = tuple[float, float, float, float]
# A box counts as found from this overlap (intersection over union) on.
FOUND = 0.7


@dataclass(frozen=True)
class Score:
    """Counts over some answers; add scores to pool them."""

    pages: int = 0
    perfect: int = 0
    characters: int = 0
    errors: int = 0
    boxes: int = 0
    found: int = 0

    def __add__(self, other: Score) -> Score:
        return Score(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    @property
    def error_rate(self) -> float:
        """Wrong characters for each right one asked."""
        return self.errors / max(1, self.characters)

    @property
    def box_rate(self) -> float:
        """The share of the boxes that were found."""
        return self.found / max(1, self.boxes)


def score_text(read: str, wanted: str) -> Score:
    """Compare texts to the letter, blanks and line ends included."""
    errors = Levenshtein.distance(read, wanted)
    return Score(1, int(not errors), len(wanted), errors)


def score_boxes(read: Iterable[Box], wanted: Sequence[Box]) -> Score:
    """Match each wanted box with the best one not yet taken."""
    left, found = list(read), 0
    for box in wanted:
        best = max(left, key=lambda other: overlap(box, other), default=None)
        if best is not None and overlap(box, best) >= FOUND:
            left.remove(best)
            found += 1
    return Score(boxes=len(wanted), found=found)


def score_answer(read: str, wanted: str) -> Score:
    """Compare two answers of the model, with tags or without."""
    segments, wanted_segments = parse(read), parse(wanted)
    boxes, wanted_boxes = list(boxes_of(segments)), list(boxes_of(wanted_segments))
    return score_text(text_of(segments), text_of(wanted_segments)) + score_boxes(boxes, wanted_boxes)


def text_of(segments: Iterable[object]) -> str:
    """Return the words of an answer: labels of tags and what stands between them."""
    return "".join(part.label if isinstance(part, Tag) else getattr(part, "text", "") for part in segments)


def boxes_of(segments: Iterable[object]) -> Iterable[Box]:
    """Return the boxes of an answer, 0..999."""
    for part in segments:
        if isinstance(part, Tag):
            yield from ((box.x1, box.y1, box.x2, box.y2) for box in part.boxes)


def overlap(one: Box, other: Box) -> float:
    """Return intersection over union of two boxes."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return shared / (areas - shared)
