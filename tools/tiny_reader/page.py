"""One page: what it says, where every glyph stands, how it looks, and where its words, lines and blocks are.

All of it is decided here; `compose` (many pages at once) and `paint` (Pillow) only draw it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tools.tiny_reader.faces import GLYPHS, Faces
from tools.tiny_reader.layout import BlockKind, LaidBlock, Layout, Run, Sheet, Style, lay_document, lay_lines
from tools.tiny_reader.look import Look, choose_look
from tools.tiny_reader.words import decode, seeded

Kind = Literal["lines", "document"]
Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 in pixels of the finished page."""

# Documents keep to smaller text, in pixels of the finished page.
_LARGEST_BODY = 28


@dataclass(frozen=True)
class TextRun:
    """What one call of ImageDraw.text draws before any turn or resize: origin at the left of the ascender line.

    `spaced` says that the plan stretches letters or words apart, which ImageDraw.text cannot do.
    """

    text: str
    font: str
    size: int
    x: int
    y: int
    spaced: bool


@dataclass(frozen=True)
class Line:
    """A line of text, the cells of a table's row joined by spaces; the box of its ink; its runs (indices into
    Page.runs, first and past the last) and the first of its words in Page.word_boxes."""

    text: str
    box: Box
    runs: tuple[int, int]
    first_word: int


@dataclass(frozen=True)
class Block:
    """A block, its lines, its box and, for a table, its rows of cell texts."""

    kind: BlockKind
    lines: tuple[Line, ...]
    box: Box
    rows: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Page:
    """A planned page of `side` x `side` pixels.

    Glyph arrays have one entry per character that is not a space, in reading order. `glyph` (int32) is the glyph's
    place in an Atlas of the same Faces; `x` and `y` (int16) are the top left of its ink on the sheet of
    `look.draw_side` pixels before any turn or resize, as are `rulings`, int16 (r, 4): left, top, width, height.
    `char_ids` (int16) counts in ALPHABET without the space; `char_xy` (n, 2), float32 pixels of the finished page,
    is the middle of the advance and of the line's x-height. `word_boxes` is float32 (words, 4), clipped to the page.
    """

    side: int
    look: Look
    runs: tuple[TextRun, ...]
    blocks: tuple[Block, ...]
    glyph: NDArray[np.int32]
    x: NDArray[np.int16]
    y: NDArray[np.int16]
    rulings: NDArray[np.int16]
    char_ids: NDArray[np.int16]
    char_xy: NDArray[np.float32]
    word_boxes: NDArray[np.float32]

    @property
    def lines(self) -> tuple[Line, ...]:
        """All lines, from top to bottom."""
        return tuple(line for block in self.blocks for line in block.lines)


def plan_page(
    rng: np.random.Generator, side: int, *, kind: Kind, max_lines: int, fonts: Faces, largest: int | None = None
) -> Page:
    """Decide everything about one page: 1 to `max_lines` lines, or a document of so many lines of running text.

    Letters are at most `largest` pixels high; without it, the largest size of `fonts`.
    """
    dice = seeded(int(rng.integers(1 << 62)))
    look = choose_look(dice, side)
    largest = min(largest or fonts.sizes[-1], _LARGEST_BODY if kind == "document" else fonts.sizes[-1])
    low, high = _draw_sizes(fonts, look.draw_side / side, largest)
    if low > high:  # no font size comes out right at this scale
        look = replace(look, draw_side=side)
        low, high = _draw_sizes(fonts, 1.0, max(largest, fonts.sizes[0]))
    # A turn moves the middle of an edge by this much, and a blur spreads a pixel or two.
    turned = math.sin(math.radians(abs(look.angle))) * look.draw_side / 2
    sheet = Sheet(fonts, look.draw_side, math.ceil(turned + 4 * look.draw_side / side), low, high)
    if kind == "document":
        return _finish(lay_document(dice, rng, sheet, max_lines), side, look, fonts)
    return _finish(lay_lines(dice, rng, sheet, dice.randint(1, max_lines)), side, look, fonts)


def _draw_sizes(fonts: Faces, scale: float, largest: int) -> tuple[int, int]:
    """Return the font sizes to draw at, so that the finished page's are among `fonts.sizes` and at most `largest`."""
    return max(fonts.sizes[0], math.ceil(fonts.sizes[0] * scale)), min(fonts.sizes[-1], math.floor(largest * scale))


@dataclass(frozen=True)
class Turn:
    """From the sheet to the finished page: a turn about the centre, counter-clockwise, then a resize."""

    centre: float
    cosine: float
    sine: float
    scale: float

    @classmethod
    def of(cls, look: Look, side: int) -> Turn:
        """Return the turn and resize of a look for a page of `side` pixels."""
        angle = math.radians(look.angle)
        return cls(look.draw_side / 2, math.cos(angle), math.sin(angle), side / look.draw_side)

    def points(self, x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.float32]:
        """Move points; returns (n, 2)."""
        x, y = x - self.centre, y - self.centre
        moved = np.stack([x * self.cosine + y * self.sine, y * self.cosine - x * self.sine], -1)
        return ((moved + self.centre) * self.scale).astype(np.float32)

    def boxes(self, box: NDArray[np.float32]) -> NDArray[np.float32]:
        """Move boxes (n, 4) given by their corners; returns the boxes around the moved corners."""
        moved = np.empty_like(box)
        x, y = box[:, ::2] - self.centre, box[:, 1::2] - self.centre
        along, lean = x * self.cosine, y * self.sine
        moved[:, 0] = along[:, 0] + lean.min(1)
        moved[:, 2] = along[:, 1] + lean.max(1)
        along, lean = y * self.cosine, x * -self.sine
        moved[:, 1] = along[:, 0] + lean.min(1)
        moved[:, 3] = along[:, 1] + lean.max(1)
        moved += self.centre
        moved *= self.scale
        return moved


@dataclass(frozen=True)
class _Glyphs:
    """Every character of a page that is not a space: its run, place in the atlas, ink boxes, and centre."""

    ids: NDArray[np.uint8]
    place: NDArray[np.int32]
    left: NDArray[np.int16]
    top: NDArray[np.int16]
    box: NDArray[np.float32]
    xy: NDArray[np.float32]
    word_starts: NDArray[np.int64]
    run_starts: NDArray[np.int64]


def _place_glyphs(runs: list[Run], faces: Faces, turn: Turn) -> _Glyphs:
    """Place the glyphs of all runs, in order: pen positions rounded to whole pixels, as Pillow does."""
    settings = [run.setting for run in runs]
    lengths = np.array([len(setting.ids) for setting in settings])
    ids = np.concatenate([setting.ids for setting in settings])
    ink = np.flatnonzero(ids)
    table = np.array([_run_numbers(run, faces) for run in runs])
    owner = np.repeat(np.arange(len(runs)), lengths)[ink]
    first, x, y = table[owner].T
    ids = ids[ink] - np.uint8(1)
    place = first + ids
    left, top, width, height = faces.box.reshape(-1, 4)[place].T.astype(np.float32)
    pens = np.concatenate([setting.pens for setting in settings])[ink]
    left += np.floor(pens + x + 0.5)
    top += y
    middles = np.concatenate([setting.middles for setting in settings])[ink] + x
    heights = np.array([faces.middle[s.style.face, s.style.size - faces.sizes[0]] for s in settings])[owner] + y
    starts = np.empty(len(ink), bool)
    starts[0] = True
    run_changes = owner[1:] != owner[:-1]
    starts[1:] = (ink[1:] - ink[:-1] > 1) | run_changes
    return _Glyphs(
        ids=ids,
        place=place.astype(np.int32),
        left=left.astype(np.int16),
        top=top.astype(np.int16),
        box=turn.boxes(np.stack([left, top, left + width, top + height], -1)),
        xy=turn.points(middles, heights),
        word_starts=np.flatnonzero(starts),
        run_starts=np.concatenate(([0], np.flatnonzero(run_changes) + 1)),
    )


def _run_numbers(run: Run, faces: Faces) -> tuple[int, int, int]:
    style: Style = run.setting.style
    size = style.size - faces.sizes[0]
    return (style.face * len(faces.sizes) + size) * len(GLYPHS), run.x, run.y


def _finish(layout: Layout, side: int, look: Look, faces: Faces) -> Page:
    """Turn a layout into a page: glyphs placed, texts written out, boxes moved to where the ink ends up."""
    turn = Turn.of(look, side)
    runs = [run for block in layout.blocks for line in block.lines for run in line]
    glyphs = _place_glyphs(runs, faces, turn)
    words = _boxes_around(glyphs.box, glyphs.word_starts).clip(0, side)
    run_words = glyphs.word_starts.searchsorted(glyphs.run_starts)
    texts = _texts(runs)
    return Page(
        side=side,
        look=look,
        runs=tuple(_text_run(text, run, faces) for text, run in zip(texts, runs, strict=True)),
        blocks=_blocks(layout, texts, words, run_words.tolist(), turn),
        glyph=glyphs.place,
        x=glyphs.left,
        y=glyphs.top,
        rulings=np.array(layout.rulings, np.int16).reshape(-1, 4),
        char_ids=glyphs.ids.astype(np.int16),
        char_xy=glyphs.xy,
        word_boxes=words,
    )


def _text_run(text: str, run: Run, faces: Faces) -> TextRun:
    style = run.setting.style
    spaced = style.tracking > 0 or style.word_space != 1.0
    return TextRun(text, faces.names[style.face], style.size, run.x, run.y, spaced)


def _texts(runs: list[Run]) -> list[str]:
    ids = [run.setting.ids for run in runs]
    ends = np.cumsum([0, *map(len, ids)]).tolist()
    text = decode(np.concatenate(ids))
    return [text[start:end] for start, end in pairwise(ends)]


def _boxes_around(boxes: NDArray[np.float32], starts: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the boxes around consecutive groups of boxes, which begin at `starts`."""
    return np.concatenate(
        [np.minimum.reduceat(boxes[:, :2], starts, axis=0), np.maximum.reduceat(boxes[:, 2:], starts, axis=0)], 1
    )


def _blocks(
    layout: Layout, texts: list[str], words: NDArray[np.float32], run_words: list[int], turn: Turn
) -> tuple[Block, ...]:
    counts = [len(line) for block in layout.blocks for line in block.lines]
    first_runs = np.cumsum([0, *counts]).tolist()
    boxes = _boxes_around(words, np.array([run_words[first] for first in first_runs[:-1]])).tolist()
    blocks, at = [], 0
    for laid in layout.blocks:
        lines = tuple(
            Line(
                " ".join(texts[first_runs[n] : first_runs[n + 1]]),
                tuple(boxes[n]),
                (first_runs[n], first_runs[n + 1]),
                run_words[first_runs[n]],
            )
            for n in range(at, at + len(laid.lines))
        )
        at += len(laid.lines)
        rows = tuple(tuple(texts[line.runs[0] : line.runs[1]]) for line in lines) if laid.kind == "table" else ()
        blocks.append(Block(laid.kind, lines, _block_box(laid, lines, turn), rows))
    return tuple(blocks)


def _block_box(laid: LaidBlock, lines: tuple[Line, ...], turn: Turn) -> Box:
    """Return the box around a table's rulings or around the ink of a block's lines."""
    if laid.outline is not None:
        left, top, width, height = laid.outline
        corners = np.array([[left, top, left + width, top + height]], np.float32)
        x1, y1, x2, y2 = turn.boxes(corners)[0].tolist()
        return x1, y1, x2, y2
    return around([line.box for line in lines])


def around(boxes: list[Box]) -> Box:
    """Return the box around some boxes."""
    x1, y1, x2, y2 = zip(*boxes, strict=True)
    return min(x1), min(y1), max(x2), max(y2)
