"""Reading order and blocks from the boxes of text lines alone, before a word is recognised.

Everything is relative to line heights, so the outcome does not depend on the picture's scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Literal

Kind = Literal["title", "sub_title", "text", "table"]
Row = tuple[int, ...]
Band = tuple[list[int], list[int], list[int]]
"""Lines across two columns, and below them the lines of the left and of the right column."""

_GUTTER = 0.6
"""Least white space between two columns, in line heights."""
_COLUMN_LINE = 7.0
"""Least median width of the lines in a text column, in line heights: below it, it is a column of cells."""
_CELL_GAP = 0.9
"""Least white space between two cells of a row, in line heights: below it, one line was detected in pieces."""
_TITLE, _SUB_TITLE = 1.4, 1.14
"""Least line height of headings, in heights of the page's ordinary lines; the detector flattens the differences."""


@dataclass(frozen=True)
class Box:
    """An upright rectangle; y grows downward."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        return self.right - self.left

    @property
    def height(self) -> float:
        return self.bottom - self.top

    @property
    def middle(self) -> float:
        return (self.top + self.bottom) / 2


@dataclass(frozen=True)
class Block:
    """Lines that belong together: rows from top to bottom, each the indices of its boxes from left to right.

    `right` is where the longest line of the block's column ends.
    """

    kind: Kind
    rows: tuple[Row, ...]
    right: float


def arrange(boxes: Sequence[Box]) -> list[Block]:
    """Put every box into exactly one block, blocks and rows in reading order."""
    body = _ordinary_height(boxes)
    regions = [_rows(boxes, region) for region in _columns(boxes, list(range(len(boxes))))]
    lines = sum(len(region) for region in regions)
    blocks = []
    for region in regions:
        right = max(boxes[item].right for row in region for item in row)
        for run in _paragraphs(boxes, region):
            blocks.append(Block(_kind(boxes, run, body, right, lines - len(run)), tuple(run), right))
    return blocks


def is_cell_gap(before: Box, after: Box) -> bool:
    """Say whether two neighbours of a row are cells of their own rather than pieces of one line."""
    return after.left - before.right >= _CELL_GAP * min(before.height, after.height)


def table_columns(boxes: Sequence[Box], rows: Sequence[Row]) -> list[tuple[float, float]]:
    """Return the x range of each column: the cells' ranges, merged where they overlap.

    A cell that most other rows divide, a heading's say, lies across columns and makes none.
    """
    spans = sorted((boxes[cell].left, boxes[cell].right) for row in rows for cell in row)
    single = [span for span in spans if not _lies_across(boxes, span, rows)] or spans
    columns = [single[0]]
    for left, right in single[1:]:
        if left < columns[-1][1]:
            columns[-1] = (columns[-1][0], max(right, columns[-1][1]))
        else:
            columns.append((left, right))
    return columns


def _lies_across(boxes: Sequence[Box], span: tuple[float, float], rows: Sequence[Row]) -> bool:
    """Say whether at least as many rows have several cells in `span` as have one, the cell's own row included."""
    found = [sum(boxes[cell].left < span[1] and span[0] < boxes[cell].right for cell in row) for row in rows]
    return 0 < sum(count > 1 for count in found) >= sum(count == 1 for count in found)


def _columns(boxes: Sequence[Box], items: list[int]) -> list[list[int]]:
    """Cut a region into regions without columns, in reading order."""
    for edge in _left_edges(boxes, items):
        bands = _bands(boxes, items, edge)
        if not any(_are_columns(boxes, left, right, edge) for _, left, right in bands):
            continue
        regions: list[list[int]] = []
        plain: list[int] = []
        for across, left, right in bands:
            plain += across
            if _are_columns(boxes, left, right, edge):
                regions += _columns(boxes, plain) + _columns(boxes, left) + _columns(boxes, right)
                plain = []
            else:
                plain += left + right
        return regions + _columns(boxes, plain)
    return [items] if items else []


def _left_edges(boxes: Sequence[Box], items: Sequence[int]) -> list[float]:
    """Return the x positions at which at least three lines begin, but not the region's own left edge."""
    if len(items) < 4:
        return []
    height = median(boxes[item].height for item in items)
    edges: list[list[float]] = []
    for left in sorted(boxes[item].left for item in items):
        if edges and left - edges[-1][0] <= 0.5 * height:
            edges[-1].append(left)
        else:
            edges.append([left])
    return [edge[0] for edge in edges[1:] if len(edge) >= 3]


def _bands(boxes: Sequence[Box], items: Sequence[int], edge: float) -> list[Band]:
    """Cut a region at the lines that cross the gutter left of `edge`, or stand alone above or below the columns."""
    height = median(boxes[item].height for item in items)
    rows = _rows(boxes, items)
    apart = _apart(boxes, rows)
    bands: list[Band] = [([], [], [])]
    for row in rows:
        for item in row:
            across, left, right = bands[-1]
            starts_left = boxes[item].left < edge - 0.3 * height
            crosses = starts_left and boxes[item].right > edge - _GUTTER * height
            begun = bool(left or right)
            ends_paragraph = across and not begun and len(row) == 1 and _follows(boxes, across[-1], item)
            if not (crosses or item in apart or ends_paragraph):
                (left if starts_left else right).append(item)
            elif begun:
                bands.append(([item], [], []))
            else:
                across.append(item)
    return bands


def _apart(boxes: Sequence[Box], rows: Sequence[Row]) -> set[int]:
    """Return the single lines above and below everything else: headings and page numbers."""
    found: set[int] = set()
    pitch = _line_pitch(boxes, rows) or 0.0
    for outermost, neighbour in ((rows[0], rows[1]), (rows[-1], rows[-2])) if len(rows) > 2 else ():
        near, far = sorted((_extent(boxes, outermost), _extent(boxes, neighbour)), key=lambda box: box.top)
        blank = far.top - near.bottom >= 0.5 * min(near.height, far.height)
        if len(outermost) == 1 and blank and far.middle - near.middle > 1.35 * pitch:
            found.add(outermost[0])
    return found


def _follows(boxes: Sequence[Box], before: int, after: int) -> bool:
    """Say whether a line begins right below another, as a paragraph's next line does."""
    upper, lower = boxes[before], boxes[after]
    height = min(upper.height, lower.height)
    return abs(upper.left - lower.left) <= 0.5 * height and lower.top - upper.bottom <= 0.5 * height


def _are_columns(boxes: Sequence[Box], left: Sequence[int], right: Sequence[int], edge: float) -> bool:
    """Say whether two sides of a gutter are columns to be read one after the other, not cells of rows.

    They are when both sides are running text, or when their lines do not stand side by side.
    """
    if len(left) < 3 or len(right) < 3:
        return False
    height = median(boxes[item].height for item in (*left, *right))
    if edge - max(boxes[item].right for item in left) < _GUTTER * height:
        return False
    first = [item for item in right if boxes[item].left <= edge + 2 * height]
    if _is_running_text(boxes, left) and _is_running_text(boxes, first):
        return True
    return _share_of_partners(boxes, left, right) < 0.5


def _is_running_text(boxes: Sequence[Box], items: Sequence[int]) -> bool:
    if len(items) < 3:
        return False
    widths = [boxes[item].width for item in items]
    height = median(boxes[item].height for item in items)
    full = max(boxes[item].right for item in items) - min(boxes[item].left for item in items)
    filled = sum(width >= 0.7 * full for width in widths)
    return median(widths) >= _COLUMN_LINE * height and filled >= 0.5 * len(items)


def _share_of_partners(boxes: Sequence[Box], left: Sequence[int], right: Sequence[int]) -> float:
    """Return which share of the shorter side's lines, where both sides are, have a line beside them."""
    few, many = sorted((left, right), key=len)
    top = max(min(boxes[item].top for item in side) for side in (left, right))
    bottom = min(max(boxes[item].bottom for item in side) for side in (left, right))
    beside = [item for item in few if top <= boxes[item].middle <= bottom]
    if len(beside) < 2:
        return 1.0  # one above the other: plain rows read them right
    partnered = sum(
        any(abs(boxes[other].middle - boxes[item].middle) <= 0.3 * boxes[item].height for other in many)
        for item in beside
    )
    return partnered / len(beside)


def _rows(boxes: Sequence[Box], items: Sequence[int]) -> list[Row]:
    """Group boxes that stand side by side, from top to bottom."""
    rows: list[list[int]] = []
    for item in sorted(items, key=lambda item: boxes[item].middle):
        if rows and _joins(boxes, rows[-1], item):
            rows[-1].append(item)
        else:
            rows.append([item])
    return [tuple(sorted(row, key=lambda item: boxes[item].left)) for row in rows]


def _joins(boxes: Sequence[Box], row: Sequence[int], item: int) -> bool:
    box = boxes[item]
    middle = sum(boxes[other].middle for other in row) / len(row)
    height = min(box.height, *(boxes[other].height for other in row))
    if box.middle - middle > 0.5 * height:
        return False
    return all(
        min(box.right, boxes[other].right) - max(box.left, boxes[other].left) < 0.5 * min(box.width, boxes[other].width)
        for other in row
    )


def _paragraphs(boxes: Sequence[Box], rows: list[Row]) -> list[list[Row]]:
    """Cut a column of rows where the spacing, the line height or the number of cells changes."""
    pitch = _line_pitch(boxes, rows)
    runs: list[list[Row]] = []
    for row in rows:
        if runs and _continues(boxes, runs[-1], row, pitch):
            runs[-1].append(row)
        else:
            runs.append([row])
    return _with_tables(boxes, runs)


def _continues(boxes: Sequence[Box], run: Sequence[Row], row: Row, pitch: float | None) -> bool:
    before, after = _extent(boxes, run[-1]), _extent(boxes, row)
    low, high = sorted((before.height, after.height))
    # The detector makes a box of few characters up to a third lower than a long line's.
    short = min(before.width, after.width) < 4 * high
    if high > (1.6 if short else 1.3) * low or min(before.right, after.right) <= max(before.left, after.left):
        return False
    if _cells(boxes, run[-1]) != _cells(boxes, row) and max(_cells(boxes, run[-1]), _cells(boxes, row)) > 1:
        return False
    advance = after.middle - before.middle
    return advance <= (1.35 * pitch if pitch is not None else 1.7 * high)


def _with_tables(boxes: Sequence[Box], runs: list[list[Row]]) -> list[list[Row]]:
    """Join neighbouring runs of rows with cells: a table's rows may differ in cells and spacing."""
    joined: list[list[Row]] = []
    for run in runs:
        if joined and all(_cells(boxes, side) > 1 for side in (joined[-1][-1], run[0])):
            before, after = _extent(boxes, joined[-1][-1]), _extent(boxes, run[0])
            if after.top - before.bottom <= 1.5 * max(before.height, after.height):
                joined[-1].extend(run)
                continue
        joined.append(run)
    return joined


def _line_pitch(boxes: Sequence[Box], rows: Sequence[Row]) -> float | None:
    """Return the usual distance from one line to the next, None when there are too few to tell."""
    extents = [_extent(boxes, row) for row in rows]
    steps = sorted(
        after.middle - before.middle
        for before, after in pairwise(extents)
        if max(before.height, after.height) <= 1.3 * min(before.height, after.height)
    )
    return steps[(len(steps) - 1) // 3] if len(steps) >= 3 else None


def _extent(boxes: Sequence[Box], row: Row) -> Box:
    return Box(
        min(boxes[item].left for item in row),
        median(boxes[item].top for item in row),
        max(boxes[item].right for item in row),
        median(boxes[item].bottom for item in row),
    )


def _cells(boxes: Sequence[Box], row: Row) -> int:
    return 1 + sum(is_cell_gap(boxes[before], boxes[after]) for before, after in pairwise(row))


def _ordinary_height(boxes: Sequence[Box]) -> float:
    """Return the height of the page's ordinary lines: the median by line width."""
    total = sum(box.width for box in boxes)
    reached = 0.0
    for box in sorted(boxes, key=lambda box: box.height):
        reached += box.width
        if reached >= total / 2:
            return box.height
    return 0.0


def _kind(boxes: Sequence[Box], run: Sequence[Row], body: float, right: float, others: int) -> Kind:
    """Judge a block by its cells and line heights; `right` is its column's edge, `others` the page's other rows."""
    cells = [_cells(boxes, row) for row in run]
    if len(run) >= 2 and min(cells) > 1:
        return "table"
    if len(run) > 3 or max(cells) > 1 or others < 2:
        return "text"
    extents = [_extent(boxes, row) for row in run]
    height = median(extent.height for extent in extents)
    if height >= _TITLE * body:
        return "title"
    # Short words have taller boxes than long lines, and a full line is seldom a heading.
    fits = all(4 * extent.height <= extent.width <= 0.9 * (right - extent.left) for extent in extents)
    return "sub_title" if len(run) == 1 and fits and height >= _SUB_TITLE * body else "text"
