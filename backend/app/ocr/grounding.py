"""Grounding tags: the model's output split into plain text and tags, and tags turned into pixel boxes.

A tag is `<|ref|>label<|/ref|><|det|>[[x1,y1,x2,y2],...]<|/det|>`, its numbers 0..999 of the picture's
width and height. What is not exactly a tag, cut short or garbled, stays text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

SCALE = 999
"""The value the model writes for the right and the bottom edge."""

_REF, _REF_END, _DET, _DET_END = "<|ref|>", "<|/ref|>", "<|det|>", "<|/det|>"

_SPACE_THEN_DET = re.compile(r"\s*<\|det\|>")

# A number has at most nine digits before the point and twenty after: int() and float() get slow on
# millions of digits, and a coordinate needs three.
_NUMBER = r"\s*([+-]?[0-9]{1,9}(?:\.[0-9]{0,20})?)\s*"
_BOX = re.compile(rf"\s*\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]\s*")


@dataclass(frozen=True)
class NormBox:
    """A box in the model's units, 0..999, with x1 <= x2 and y1 <= y2."""

    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True)
class Text:
    """A stretch of output between tags, as written."""

    text: str


@dataclass(frozen=True)
class Tag:
    """A complete tag: its label without surrounding blanks, at least one box, and its text as written."""

    label: str
    boxes: tuple[NormBox, ...]
    source: str


Segment = Text | Tag


@dataclass(frozen=True)
class Box:
    """A labelled box in pixels, 0 <= x1 <= x2 <= width and 0 <= y1 <= y2 <= height."""

    label: str
    x1: int
    y1: int
    x2: int
    y2: int

    @property
    def empty(self) -> bool:
        """Whether the box covers no pixel."""
        return self.x1 == self.x2 or self.y1 == self.y2


def parse(raw: str) -> tuple[Segment, ...]:
    """Split model output into text and tags; the parts joined again are `raw`.

    Never raises, and takes time in proportion to the length of `raw`. A label may hold anything but
    the markers themselves; an opener followed by another opener was never closed and stays text.
    """
    segments: list[Segment] = []
    text_start = search_from = 0
    while (label_end := raw.find(_REF_END, search_from)) >= 0:
        start = raw.rfind(_REF, search_from, label_end)
        search_from = label_end + len(_REF_END)
        if start < 0:
            continue
        label = raw[start + len(_REF) : label_end]
        boxes, end = _read_det(raw, search_from)
        if not boxes or _DET in label or _DET_END in label:
            continue
        if text_start < start:
            segments.append(Text(raw[text_start:start]))
        segments.append(Tag(label.strip(), boxes, raw[start:end]))
        text_start = search_from = end
    if text_start < len(raw):
        segments.append(Text(raw[text_start:]))
    return tuple(segments)


def pixel_boxes(tags: Iterable[Segment], width: int, height: int) -> list[Box]:
    """Return every box of every tag, in order, in pixels of a width x height picture; text is passed over."""
    return [
        Box(
            label=tag.label,
            x1=_pixel(box.x1, width),
            y1=_pixel(box.y1, height),
            x2=_pixel(box.x2, width),
            y2=_pixel(box.y2, height),
        )
        for tag in tags
        if isinstance(tag, Tag)
        for box in tag.boxes
    ]


def _pixel(value: float, side: int) -> int:
    # The formula of the model's published scripts, so that boxes agree with theirs to the pixel.
    return int(value / SCALE * side)


def _read_det(raw: str, position: int) -> tuple[tuple[NormBox, ...], int]:
    """Return the boxes of the det part at `position` and where it ends; no boxes when there is none."""
    # Neither step passes a "<" it does not know, so no two tags scan the same text.
    opener = _SPACE_THEN_DET.match(raw, position)
    if opener is None:
        return (), position
    start = opener.end()
    end = raw.find("<", start)
    if end < 0 or not raw.startswith(_DET_END, end):
        return (), position
    return _read_boxes(raw[start:end]), end + len(_DET_END)


def _read_boxes(text: str) -> tuple[NormBox, ...]:
    """Return the boxes of `[[a,b,c,d],...]` or `[a,b,c,d]`, none when any part of it is malformed."""
    if flat := _BOX.fullmatch(text):
        return (_norm_box(flat),)
    text = text.strip()
    if not text.startswith("["):
        return ()
    boxes: list[NormBox] = []
    position = 1
    while match := _BOX.match(text, position):
        boxes.append(_norm_box(match))
        position = match.end()
        if position == len(text) - 1 and text[position] == "]":
            return tuple(boxes)
        if not text.startswith(",", position):
            break
        position += 1
    return ()


def _norm_box(match: re.Match[str]) -> NormBox:
    """Clamp each of four numbers to 0..999, for a model that writes 1000 means the edge, and order the corners."""
    ax, ay, bx, by = (min(max(float(number), 0.0), float(SCALE)) for number in match.groups())
    return NormBox(min(ax, bx), min(ay, by), max(ax, bx), max(ay, by))
