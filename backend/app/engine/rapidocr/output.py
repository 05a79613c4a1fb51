"""What was read, written in the model's language: plain lines, grounded lines, Markdown blocks, findings.

Each writer is a generator of text pieces and pulls the lines it needs, so that text leaves while the
page is being read; it yields "" where it has nothing to say yet, so that a cancelled job can stop.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from app.engine.rapidocr.geometry import Placement, Points, part
from app.engine.rapidocr.layout import Block, Box, Row, is_cell_gap, table_columns
from app.engine.rapidocr.text import glue, safe, starts_cjk

_BULLET = re.compile(r"[•·●○■□▪◦‣∙◆★*\-–—]\s*(?=\S)")
_NAME_AND_VALUE = re.compile(r"[^\t]*[:：]\t[^\t]+")
_NUMBER = re.compile(r"\(?(?:\d{1,3}|[a-zA-Z])[.)、](?!\d)\s*(?=\S)")


@dataclass(frozen=True, eq=False)
class Line:
    """One recognised line.

    `quad` is its quadrilateral in reading direction. `bounds` are the positions between its
    characters, len(text) + 1 fractions of its length; None means evenly spread.
    """

    text: str
    quad: Points
    bounds: tuple[float, ...] | None = None

    def part(self, start: int, end: int) -> Points:
        """Return the piece of the quadrilateral that the characters from `start` to `end` occupy."""
        bounds = self.bounds or [index / len(self.text) for index in range(len(self.text) + 1)]
        return part(self.quad, bounds[start], bounds[end])


@dataclass(frozen=True)
class Sheet:
    """One page's layout and its lines; `line` recognises a line, or returns None when there is no text."""

    blocks: Sequence[Block]
    boxes: Sequence[Box]
    line: Callable[[int], Line | None]
    placement: Placement


def plain(sheet: Sheet) -> Iterator[str]:
    """Write the rows, cells separated by tabs, and a blank line between blocks."""
    lead = ""
    for block in sheet.blocks:
        for row in block.rows:
            text = _row_text(sheet, row)
            yield lead + text if text else ""
            lead = "\n" if text else lead
        lead = "\n\n" if lead else ""


def grounded(sheet: Sheet) -> Iterator[str]:
    """Write every line with its box."""
    lead = ""
    for block in sheet.blocks:
        for row in block.rows:
            for index in row:
                line = sheet.line(index)
                yield lead + _tag(line.text, [sheet.placement.box(line.quad)]) if line else ""
                lead = "\n" if line else lead


def markdown(sheet: Sheet) -> Iterator[str]:
    """Write every block with its kind, its box, and its text as Markdown."""
    lead = ""
    for block in sheet.blocks:
        cells = {}
        for row in block.rows:
            for index in row:
                line = sheet.line(index)
                if line:
                    cells[index] = line
            yield ""
        if cells:
            block = replace(block, kind="text") if _is_form(sheet, block) else block
            box = sheet.placement.box(np.concatenate([line.quad for line in cells.values()]))
            yield f"{lead}{_tag(block.kind, [box])}\n{_block_text(sheet, block)}"
            lead = "\n\n"


def find(sheet: Sheet, term: str) -> Iterator[str]:
    """Write one tag with the boxes of every occurrence, nothing when there is none.

    Case and white space do not count, and an occurrence may run on into the block's next line.
    """
    letters = "".join(term.split())
    pattern = re.compile(r"\s*".join(map(re.escape, letters)), re.IGNORECASE)
    boxes = []
    for block in sheet.blocks:
        lines = []
        for row in block.rows:
            lines += [line for line in map(sheet.line, row) if line]
            yield ""
        boxes += [sheet.placement.box(piece) for piece in _occurrences(lines, pattern)]
    if letters and boxes:
        yield _tag(" ".join(term.split()), boxes)


def redact(sheet: Sheet, search: Callable[[str], Sequence[tuple[int, int, str]]]) -> Iterator[str]:
    """Write plain text in which each (start, end, label) that `search` finds is replaced by its label and box."""

    def hidden(line: Line) -> str:
        pieces, at = [], 0
        for start, end, label in search(line.text):
            box = sheet.placement.box(line.part(start, end))
            pieces += [safe(line.text[at:start]), f"[{_tag(label, [box])}]"]
            at = end
        return "".join([*pieces, safe(line.text[at:])])

    lead = ""
    for block in sheet.blocks:
        for row in block.rows:
            text = _row_text(sheet, row, hidden)
            yield lead + text if text else ""
            lead = "\n" if text else lead
        lead = "\n\n" if lead else ""


def _occurrences(lines: Sequence[Line], pattern: re.Pattern[str]) -> Iterator[Points]:
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line.text) + 1)
    for match in pattern.finditer("\n".join(line.text for line in lines)):
        for line, begin in zip(lines, starts, strict=False):
            start, end = max(match.start() - begin, 0), min(match.end() - begin, len(line.text))
            if start < end:
                yield line.part(start, end)


def _tag(label: str, boxes: Sequence[Sequence[int]]) -> str:
    inner = ",".join("[" + ",".join(map(str, box)) + "]" for box in boxes)
    return f"<|ref|>{safe(label)}<|/ref|><|det|>[{inner}]<|/det|>"


def _row_text(sheet: Sheet, row: Row, write: Callable[[Line], str] | None = None) -> str:
    """Join a row's lines: cells by tabs, pieces of one line as words."""
    text, before = "", None
    for index in row:
        line = sheet.line(index)
        if line is None:
            continue
        piece = write(line) if write else safe(line.text)
        if before is not None:
            text += "\t" if is_cell_gap(sheet.boxes[before], sheet.boxes[index]) else glue(text, piece)
        text += piece
        before = index
    return text


def _block_text(sheet: Sheet, block: Block) -> str:
    if block.kind == "table":
        return _table(sheet, block)
    rows = [(row, text) for row in block.rows if (text := _row_text(sheet, row))]
    if block.kind == "text":
        return _text(sheet, block, rows)
    joined = rows[0][1]
    for _, text in rows[1:]:
        joined += glue(joined, text) + text
    return {"title": "# ", "sub_title": "## "}[block.kind] + joined


def _is_form(sheet: Sheet, block: Block) -> bool:
    """Say whether each row is a name that ends in a colon and its value: lines of text, not a table."""
    texts = [text for row in block.rows if (text := _row_text(sheet, row))]
    return block.kind == "table" and all(map(_NAME_AND_VALUE.fullmatch, texts))


def _text(sheet: Sheet, block: Block, rows: Sequence[tuple[Row, str]]) -> str:
    """Join lines into a paragraph; list items and lines broken on purpose stay lines of their own."""
    joined, listed = "", False
    before: Row = ()
    for row, text in rows:
        item = (listed or not joined) and bool(_BULLET.match(text) or _NUMBER.match(text))
        if item:
            text, listed = _BULLET.sub("- ", text, count=1) if _BULLET.match(text) else text, True
        if not joined:
            joined = text
        elif item or "\t" in text or _ends_early(sheet.boxes, block, before, row, text):
            joined += "\n" + text
        elif re.search(r"[^\W\d_]-$", joined) and text[0].islower():
            joined = joined[:-1] + text
        else:
            joined += glue(joined, text) + text
        before = row
    return joined


def _ends_early(boxes: Sequence[Box], block: Block, row: Row, after: Row, text: str) -> bool:
    """Say whether the first word after a line would still have fitted on it."""
    word = 1 if starts_cjk(text) else len(text.split()[0])
    width = boxes[after[-1]].right - boxes[after[0]].left
    needed = (word + 2) * width / len(text)
    return block.right - boxes[row[-1]].right > needed


def _table(sheet: Sheet, block: Block) -> str:
    """Write HTML, as the model does: Markdown tables need a heading row, and a page's may have none."""
    columns = table_columns(sheet.boxes, block.rows)
    rows = [_cells(sheet, row, columns) for row in block.rows]
    return "<table>" + "".join(f"<tr>{row}</tr>" for row in rows) + "</table>"


def _cells(sheet: Sheet, row: Row, columns: Sequence[tuple[float, float]]) -> str:
    """Write a row's cells, empty ones too; one that lies across columns takes all those that are free."""
    texts: dict[int, str] = {}
    last: dict[int, int] = {}
    for index in row:
        line = sheet.line(index)
        if line:
            box = sheet.boxes[index]
            # A cell lies on no column at all only where every cell of the table lies across others.
            on = [n for n, (left, right) in enumerate(columns) if left < box.right and box.left < right] or [0]
            texts[on[0]] = f"{texts.get(on[0], '')} {line.text}".strip()
            last[on[0]] = on[-1]
    cells, column = "", 0
    while column < len(columns):
        free = next((n for n in sorted(texts) if n > column), len(columns))
        wide = min(last.get(column, column) + 1, free) - column
        cells += f'<td colspan="{wide}">' if wide > 1 else "<td>"
        cells += f"{html.escape(texts.get(column, ''), quote=False)}</td>"
        column += wide
    return cells
