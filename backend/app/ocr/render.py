"""The text for people: grounding tags replaced, figures linked, leftovers of the model's language removed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from app.ocr.grounding import Box, Segment, Tag, Text, parse, pixel_boxes

Labels = Literal["text", "layout", "auto"]

PICTURE_LABELS = frozenset({"image", "figure"})

LAYOUT_LABELS = PICTURE_LABELS | {
    # Written by the model on real pages, as found in published outputs.
    *("title", "sub_title", "text", "table", "table_caption", "table_footnote", "image_caption", "equation"),
    *("header", "footer", "page_number"),
    # Their kin, which no line of a page is likely to say.
    *("figure_caption", "image_footnote", "page_footnote"),
}

# A label of this shape is a class the model gave, one of LAYOUT_LABELS or not; anything else it read.
_CLASS_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")

_SPECIAL_TOKENS = re.compile("<\\|grounding\\|>|<image>|<｜end▁of▁sentence｜>|<｜begin▁of▁sentence｜>|<｜▁pad▁｜>")
_COLON_EQUALS = re.compile(r"\\coloneqq(?![A-Za-z])")
_EQUALS_COLON = re.compile(r"\\eqqcolon(?![A-Za-z])")
_BLANK_LINES = re.compile(r"\n[ \t]*\n(?:[ \t]*\n)+")
_REST_OF_BLANK_LINE = re.compile(r"[ \t]*\n")
_FENCE = re.compile(r"(`{3,}|~{3,})[^`\n]*")


@dataclass(frozen=True)
class Figure:
    """A figure linked from the text: the link's target and the pixels to crop for it, at least one."""

    name: str
    box: Box


@dataclass(frozen=True)
class Rendered:
    """Text without tags, every box of the output in order, and the figures the text links to in order."""

    text: str
    boxes: tuple[Box, ...]
    figures: tuple[Figure, ...]


def render(raw: str, *, labels: Labels, width: int, height: int) -> Rendered:
    """Turn model output about a width x height picture into text, boxes and figures.

    `labels` says what the labels of tags are. "text": what the model read; a tag becomes its label.
    "layout": classes of blocks; a picture becomes one Markdown link per box, `images/0.jpg` onwards,
    every other class disappears with its line break. A label that cannot be a class, such as one with
    a space in it, is kept as text even then. "auto", for output of unknown intent: as "layout" for a
    tag alone on its line whose label is in LAYOUT_LABELS, as "text" for the rest.

    Text that is empty although there are boxes becomes their labels joined by ", ". Time is linear in
    the length of `raw`; nothing raises.
    """
    segments = _without_special_tokens(parse(raw))
    figures: list[Figure] = []
    pieces: list[str] = []
    line_is_blank = True
    drop_line_break = False
    for position, segment in enumerate(segments):
        if isinstance(segment, Text):
            piece = segment.text
            if drop_line_break and (rest := _REST_OF_BLANK_LINE.match(piece)):
                piece = piece[rest.end() :]
        elif (labels == "layout" and _CLASS_NAME.fullmatch(segment.label)) or (
            labels == "auto" and segment.label in LAYOUT_LABELS and _alone_on_its_line(segments, position)
        ):
            piece = _links(segment, figures, width, height)
        else:
            piece = segment.label
        drop_line_break = isinstance(segment, Tag) and not piece and line_is_blank
        line_is_blank = _last_line_is_blank(piece, line_is_blank)
        pieces.append(piece)
    boxes = tuple(pixel_boxes(segments, width, height))
    text = _clean("".join(pieces)) or _clean(", ".join(box.label for box in boxes if box.label))
    return Rendered(text, boxes, tuple(figures))


def strip_code_fence(text: str) -> str:
    """Return what stands inside the one Markdown code fence that is all of `text`, else `text` itself.

    A fence that was never closed, as in truncated output, counts; a text with more fences, or with
    words around the fence, is returned unchanged.
    """
    lines = text.strip().split("\n")
    opener = _FENCE.fullmatch(lines[0].rstrip())
    if opener is None:
        return text
    fence = opener[1]
    closers = [n for n, line in enumerate(lines[1:], 1) if _closes(line.strip(), fence)]
    if closers and closers != [len(lines) - 1]:
        return text
    return "\n".join(lines[1 : closers[0]] if closers else lines[1:])


def _closes(line: str, fence: str) -> bool:
    return len(line) >= len(fence) and line == fence[0] * len(line)


def _without_special_tokens(segments: tuple[Segment, ...]) -> list[Segment]:
    return [Text(_SPECIAL_TOKENS.sub("", s.text)) if isinstance(s, Text) else s for s in segments]


def _alone_on_its_line(segments: list[Segment], position: int) -> bool:
    before = segments[position - 1] if position > 0 else Text("")
    after = segments[position + 1] if position + 1 < len(segments) else Text("")
    if isinstance(before, Tag) or isinstance(after, Tag):
        return False
    # The ends of the output end lines, too.
    start = "\n" + before.text if position <= 1 else before.text
    end = after.text + "\n" if position >= len(segments) - 2 else after.text
    return start.rstrip(" \t").endswith("\n") and end.lstrip(" \t").startswith("\n")


def _links(tag: Tag, figures: list[Figure], width: int, height: int) -> str:
    """Add the figures of a tag to `figures` and return their links, nothing for another class.

    A box without area gets no link: there is nothing to crop.
    """
    if tag.label not in PICTURE_LABELS:
        return ""
    links = []
    for box in pixel_boxes([tag], width, height):
        if not box.empty:
            figures.append(Figure(f"images/{len(figures)}.jpg", box))
            links.append(f"![image]({figures[-1].name})")
    return "\n".join(links)


def _last_line_is_blank(piece: str, line_was_blank: bool) -> bool:
    _, line_break, line = piece.rpartition("\n")
    return not line.strip() and (bool(line_break) or line_was_blank)


def _clean(text: str) -> str:
    text = _SPECIAL_TOKENS.sub("", text)
    text = _COLON_EQUALS.sub(":=", text)
    text = _EQUALS_COLON.sub("=:", text)
    text = _BLANK_LINES.sub("\n\n", text).strip()
    if any(isinstance(segment, Tag) for segment in parse(text)):
        # Pieces that came together into a tag, which only crafted output does: a space breaks every
        # marker, so that no reader after this one takes page text for a box.
        text = text.replace("<|", "< |")
    return text
