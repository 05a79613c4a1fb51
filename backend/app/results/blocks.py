"""A page as blocks: what the grounding tags say of each stretch of its text, read once for every format."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from app.ocr.grounding import Box, Segment, Tag, Text, parse, pixel_boxes
from app.ocr.modes import MODES
from app.ocr.render import LAYOUT_LABELS, PICTURE_LABELS, Labels, render
from app.results.pages import PageResult

Kind = Literal[
    "text",
    "title",
    "table",
    "figure",
    "formula",
    "caption",
    "footnote",
    "header",
    "footer",
    "page_number",
    "line",
    "data",
]

RUNNING: frozenset[Kind] = frozenset({"header", "footer", "page_number"})
"""What a page has because it is a page."""

_KINDS: dict[str, Kind] = {
    "title": "title",
    "sub_title": "title",
    "table": "table",
    "equation": "formula",
    "formula": "formula",
    "header": "header",
    "footer": "footer",
    "page_number": "page_number",
}
_CLASS_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_HTML_TABLE = re.compile(r"<table[\s>]", re.IGNORECASE)
_TABLE_RULE = re.compile(r"\n[ \t]*\|?[ \t]*:?-")


@dataclass(frozen=True)
class Block:
    """A stretch of a page: Markdown of one kind, or one line as printed ("line"), or data for programs ("data").

    `label` is the class as the model named it, "" where it named none. `boxes` are in pixels of the page,
    none where they are not known; a find has several. `figures` are the numbers, from 1 on in the page,
    of the figures it shows. `goes_on` means that no blank line stands between it and the block before.
    """

    kind: Kind
    text: str = ""
    label: str = ""
    boxes: tuple[Box, ...] = ()
    figures: tuple[int, ...] = ()
    goes_on: bool = False


def read_blocks(page: PageResult) -> tuple[Block, ...]:
    """Return the blocks of a page in reading order; none for a page that failed.

    Where a mode keeps only the tables, so do the blocks. Time is linear in the text; nothing raises.
    """
    if page.failure is not None:
        return ()
    mode = MODES.get(page.mode)
    if mode is not None and mode.data:
        return (Block("data", page.text),) if page.text.strip() else ()
    segments = parse(page.raw_text or page.text)
    blocks = _Reader(mode.labels if mode else "auto", page).read(segments)
    if mode is not None and mode.tables:
        return tuple(replace(block, goes_on=False) for block in blocks if _has_table(block.text))
    return tuple(blocks)


def _has_table(text: str) -> bool:
    return _HTML_TABLE.search(text) is not None or ("|" in text and _TABLE_RULE.search(text) is not None)


class _Reader:
    """Cuts the segments of one page into blocks."""

    def __init__(self, labels: Labels, page: PageResult) -> None:
        self._labels = labels
        self._page = page
        self._figures = 0

    def read(self, segments: tuple[Segment, ...]) -> list[Block]:
        blocks: list[Block] = []
        tag: Tag | None = None
        flow: list[Segment] = []
        for position, segment in enumerate(segments):
            if isinstance(segment, Tag) and self._is_class(segments, position):
                blocks += self._block(tag, flow)
                tag, flow = segment, []
            else:
                flow.append(segment)
        return blocks + list(self._block(tag, flow))

    def _is_class(self, segments: tuple[Segment, ...], position: int) -> bool:
        tag = segments[position]
        assert isinstance(tag, Tag)
        if self._labels == "layout":
            return _CLASS_NAME.fullmatch(tag.label) is not None
        return self._labels == "auto" and tag.label in LAYOUT_LABELS and _alone_on_its_line(segments, position)

    def _block(self, tag: Tag | None, flow: list[Segment]) -> Iterator[Block]:
        if tag is None:
            yield from self._lines(flow)
            return
        boxes = tuple(pixel_boxes([tag], self._page.width, self._page.height))
        text = _clean("".join(s.text if isinstance(s, Text) else s.label for s in flow))
        if tag.label in PICTURE_LABELS:
            first = self._figures + 1
            self._figures += sum(not box.empty for box in boxes)
            yield Block("figure", "", tag.label, boxes, tuple(range(first, self._figures + 1)))
            if text:
                yield Block("text", text)
        else:
            yield Block(_kind(tag.label), text, tag.label, boxes)

    def _lines(self, flow: list[Segment]) -> Iterator[Block]:
        """Cut what no class stands over: a tag alone on its line is a line as printed, the rest is text."""
        loose: list[str] = []
        goes_on = False
        for line in _split_lines(flow):
            tags = [piece for piece in line if isinstance(piece, Tag)]
            if len(tags) != 1 or any(isinstance(piece, Text) and piece.text.strip() for piece in line):
                loose.append("".join(piece.text if isinstance(piece, Text) else piece.label for piece in line))
                continue
            text = "\n".join(loose)
            if cleaned := _clean(text):
                yield Block("text", cleaned, goes_on=goes_on and bool(loose[0].strip()))
                goes_on = bool(loose[-1].strip())
            elif loose:
                goes_on = False
            loose = []
            boxes = tuple(pixel_boxes(tags, self._page.width, self._page.height))
            yield Block("line", _clean(tags[0].label), boxes=boxes, goes_on=goes_on)
            goes_on = True
        if cleaned := _clean("\n".join(loose)):
            yield Block("text", cleaned, goes_on=goes_on and bool(loose[0].strip()))


def _kind(label: str) -> Kind:
    if label.endswith("_caption"):
        return "caption"
    return "footnote" if label.endswith("_footnote") else _KINDS.get(label, "text")


def _clean(text: str) -> str:
    # Without tags, what is left of `render` is the removal of what only the model's language has.
    return render(text, labels="text", width=1, height=1).text if text.strip() else ""


def _split_lines(segments: Iterable[Segment]) -> Iterator[list[Segment]]:
    line: list[Segment] = []
    for segment in segments:
        if isinstance(segment, Tag):
            line.append(segment)
            continue
        first, *others = segment.text.split("\n")
        line.append(Text(first))
        for text in others:
            yield line
            line = [Text(text)]
    yield line


def _alone_on_its_line(segments: tuple[Segment, ...], position: int) -> bool:
    def line_ends(text: str) -> bool:
        return not text.strip(" \t") or text.lstrip(" \t").startswith("\n")

    before = segments[position - 1] if position else Text("\n")
    after = segments[position + 1] if position + 1 < len(segments) else Text("\n")
    if isinstance(before, Tag) or isinstance(after, Tag):
        return False
    return line_ends(before.text[::-1]) and line_ends(after.text)
