"""Where the words of a page stand: its lines with their boxes, and each line's words with theirs.

Engines give boxes of lines or of blocks, never of words. A block's text is laid over its lines, which are found
in the page's picture where there is one, else reckoned; a line's words are laid along it by what letters usually
measure, and moved to the gaps between the words in the picture.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from app.ocr.grounding import Box
from app.results.blocks import Block
from app.results.content import Part, part_text
from app.results.ink import Ink
from app.results.pages import PageResult
from app.results.rect import Rect, Turn, stretch

NOT_ON_THE_PAGE = frozenset({"describe", "kv_json", "figure_chart"})
"""Modes whose text is an answer about the page, not words that are printed on it."""

# In heights of a line, as sans and serif faces have them on average.
_WIDTHS = {
    **dict.fromkeys("ijl|!.,:;'`Iı·", 0.27),
    **dict.fromkeys('ftr()[]{}/\\-"*°', 0.35),
    **dict.fromkeys("ckszvxyJ?", 0.47),
    **dict.fromkeys("mw", 0.78),
    **dict.fromkeys("MW@%—", 0.9),
    **dict.fromkeys("OQGCDHNU&", 0.73),
    " ": 0.27,
}
_LINE_PITCH = 1.25
_WORD = re.compile(r"\S+")
_TALL = 1.5


@dataclass(frozen=True)
class Word:
    """A word and where it stands."""

    text: str
    box: Rect


@dataclass(frozen=True)
class Line:
    """A line of text, its box and its words in reading order."""

    text: str
    box: Rect
    words: tuple[Word, ...]
    turn: Turn = 0


@dataclass(frozen=True)
class PlacedBlock:
    """A block and its lines; none where nothing says where they are, or where it is a figure."""

    block: Block
    lines: tuple[Line, ...]


def place(
    page: PageResult, content: Iterable[tuple[Block, tuple[Part, ...]]], ink: Ink | None = None
) -> tuple[PlacedBlock, ...]:
    """Find the lines and words of a page's blocks, given with their parts; in its picture where `ink` has one."""
    content = tuple(content)
    if page.mode in NOT_ON_THE_PAGE or page.width < 1 or page.height < 1:
        return tuple(PlacedBlock(block, ()) for block, _ in content)
    blocks_turn = _blocks_turn([block for block, _ in content], ink)
    found = [(block, _lines_of(page, block, parts, ink, blocks_turn)) for block, parts in content]
    lines = [line for _, group in found for line in group]
    turn = _page_turn(lines)
    return tuple(
        PlacedBlock(block, tuple(_with_words(text, box, _turn(text, box, turn, page), ink) for text, box in group))
        for block, group in found
    )


def em_width(text: str) -> float:
    """Return how long a text is, in heights of its letters' square."""
    return sum(map(_width, text))


def _width(character: str) -> float:
    known = _WIDTHS.get(character)
    if known is not None:
        return known
    if character < "\u0300":
        return 0.65 if character.isupper() else 0.54
    if unicodedata.combining(character) or unicodedata.category(character) in ("Cf", "Mn"):
        return 0.0
    return 1.0 if unicodedata.east_asian_width(character) in "WF" else 0.55


def _blocks_turn(blocks: Sequence[Block], ink: Ink | None) -> Turn:
    """Say how the text of a page is turned of which only the boxes of blocks are known."""
    boxes = [_rect(block.boxes[0]) for block in blocks if block.kind not in ("figure", "line") and block.boxes]
    if ink is None or len(boxes) < 3:
        return 0
    to_the_left = sum(after.x2 <= before.x1 for before, after in pairwise(boxes))
    to_the_right = sum(before.x2 <= after.x1 for before, after in pairwise(boxes))
    # On upright pages blocks follow each other down, but for the step from one column to the next.
    if 2 * max(to_the_left, to_the_right) >= len(boxes) and ink.may_be_sideways():
        return 90 if to_the_left > to_the_right else 270
    return 180 if _go_up(boxes) else 0


def _go_up(boxes: Sequence[Rect]) -> bool:
    """Say whether boxes follow each other from the bottom of the page to its top."""
    up = sum(after.y2 <= before.y1 for before, after in pairwise(boxes))
    down = sum(before.y2 <= after.y1 for before, after in pairwise(boxes))
    return up > 1 and up > down


def _lines_of(
    page: PageResult, block: Block, parts: Iterable[Part], ink: Ink | None, turn: Turn
) -> list[tuple[str, Rect]]:
    if block.kind == "figure":
        return []
    rows = [line for part in parts for line in part_text(part).split("\n") if line.strip()]
    if not rows:
        return []
    boxes = [box for box in block.boxes if not box.empty]
    if block.kind == "line":
        return [(" ".join(rows), _rect(box)) for box in boxes]
    area = _rect(boxes[0]) if boxes else Rect(0, 0, page.width, page.height)
    bands = ink.lines(area, turn) if ink is not None else ()
    if not bands:
        bands = _even_bands(area, rows, page)
    texts = rows if len(rows) == len(bands) else _wrap(rows, [_length(band, turn) for band in bands])
    return [(text, band) for text, band in zip(texts, bands, strict=True) if text]


def _length(band: Rect, turn: Turn) -> float:
    return band.x2 - band.x1 if turn in (0, 180) else band.y2 - band.y1


def _rect(box: Box) -> Rect:
    return Rect(box.x1, box.y1, box.x2, box.y2)


def _even_bands(area: Rect, rows: Sequence[str], page: PageResult) -> tuple[Rect, ...]:
    """Reckon the lines of a block: as many as let its letters be as high as their width asks for."""
    width, height = area.x2 - area.x1, area.y2 - area.y1
    count = round(math.sqrt(em_width(" ".join(rows)) * height / (_LINE_PITCH * width)))
    count = max(count, len(rows), 1)
    count = min(count, max(1, int(height)))
    pitch = height / count
    if count * pitch >= page.height and count > 1:  # text without boxes: it does not reach the page's edges
        pitch = min(pitch, 0.03 * page.height)
    return tuple(
        Rect(area.x1, area.y1 + pitch * n, area.x2, area.y1 + pitch * (n + 1 / _LINE_PITCH)) for n in range(count)
    )


def _wrap(rows: Sequence[str], capacities: Sequence[float]) -> list[str]:
    """Lay the words of `rows` over lines of these widths, in proportion; a line may stay empty."""
    pieces = [piece for row in rows for piece in _pieces(row)]
    total = sum(em_width(piece) for piece in pieces) or 1.0
    scale = sum(capacities) / total
    ends = list(accumulate(capacities))
    lines: list[list[str]] = [[] for _ in capacities]
    position, line = 0.0, 0
    for piece in pieces:
        width = em_width(piece) * scale
        middle = position + width / 2
        while line < len(ends) - 1 and middle > ends[line]:
            line += 1
        lines[line].append(piece)
        position += width
    return ["".join(line).strip() for line in lines]


def _pieces(row: str) -> list[str]:
    """Cut a row where a line may break: after each space, and around each wide character."""
    pieces, start = [], 0
    for index, (left, right) in enumerate(pairwise(row)):
        if left.isspace() or _width(left) >= 1.0 or _width(right) >= 1.0:
            pieces.append(row[start : index + 1])
            start = index + 1
    return [*pieces, row[start:] + ("" if _width(row[-1]) >= 1.0 else " ")]


def _page_turn(lines: Sequence[tuple[str, Rect]]) -> Turn:
    """Say how the page's text is turned; engines read turned pages and tell by the order of the lines alone."""
    letters = sum(len(text) for text, _ in lines)
    tall = [box for text, box in lines if _is_tall(text, box)]
    if 2 * sum(len(text) for text, box in lines if _is_tall(text, box)) > letters:
        to_the_left = sum(_sign(before.x1 - after.x1) for before, after in pairwise(tall))
        return 270 if to_the_left < 0 else 90
    return 180 if _go_up([box for text, box in lines if len(text) > 1 and not _is_tall(text, box)]) else 0


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _is_tall(text: str, box: Rect) -> bool:
    return len(text) > 1 and box.y2 - box.y1 > _TALL * (box.x2 - box.x1)


def _turn(text: str, box: Rect, page_turn: Turn, page: PageResult) -> Turn:
    if page_turn in (90, 270) or not _is_tall(text, box):
        return page_turn
    # A note along the edge of an upright page is read with its foot to the page's middle.
    return 270 if box.x1 + box.x2 < page.width else 90


def _with_words(text: str, box: Rect, turn: Turn, ink: Ink | None) -> Line:
    found = list(_WORD.finditer(text))
    spans = _spans(found, [_width(character) for character in text])
    typed = _spans(found, [_typed_width(character) for character in text])
    if reads_from_right(text):
        # Laid out from the left, as the picture is looked at, and turned back into reading order.
        found, spans, typed = found[::-1], _mirrored(spans), _mirrored(typed)
    if ink is not None:
        spans = ink.words(box, turn, [spans, typed])
    words = tuple(Word(word[0], stretch(box, turn, *span)) for word, span in zip(found, spans, strict=True))
    return Line(text, box, words[::-1] if reads_from_right(text) else words, turn)


def reads_from_right(text: str) -> bool:
    """Say whether a text is read from right to left: whether more of its letters are than are not."""
    kinds = [unicodedata.bidirectional(character) for character in text]
    return sum(kind in ("R", "AL") for kind in kinds) > kinds.count("L")


def _mirrored(spans: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(1 - end, 1 - start) for start, end in reversed(spans)]


def _spans(words: Sequence[re.Match[str]], widths: Sequence[float]) -> list[tuple[float, float]]:
    """Return start and end of each word as fractions of the line's length."""
    if not words:
        return []
    at = list(accumulate(widths, initial=0.0))
    first, last = at[words[0].start()], at[words[-1].end()]
    length = (last - first) or 1.0
    return [((at[word.start()] - first) / length, (at[word.end()] - first) / length) for word in words]


def _typed_width(character: str) -> float:
    """Return the width in a typewriter's face."""
    width = _width(character)
    return width if width in (0.0, 1.0) else 0.5
