"""Where text stands on a page: lines, or a document with a heading, paragraphs and a table. Pixels, before any turn."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tools.tiny_reader.faces import Faces
from tools.tiny_reader.words import Bank, Words, cell_bank, draw_words, heading_bank, running_bank

BlockKind = Literal["line", "title", "text", "table"]
Rectangle = tuple[int, int, int, int]
"""Left, top, width and height."""

# From line to line: times the font's size, and times the smallest size of all. The second keeps a 64 px image token
# to about two lines: more text than that in one token is beyond the tiny reader.
_LEAST_PITCH = 1.15
_LEAST_STEP = 2.0


@dataclass(frozen=True)
class Style:
    """A face (index into Faces), a size, and spacing: pixels added after each character, and the space's factor."""

    face: int
    size: int
    tracking: float = 0.0
    word_space: float = 1.0


@dataclass(frozen=True)
class Setting:
    """Characters set in one style: ids, pen positions from the origin, the middles of their advances, and the width."""

    style: Style
    ids: NDArray[np.uint8]
    pens: NDArray[np.float32]
    middles: NDArray[np.float32]
    width: float


@dataclass(frozen=True)
class Run:
    """A setting and its origin: the pen's start and the ascender line, whole pixels."""

    setting: Setting
    x: int
    y: int


@dataclass(frozen=True)
class LaidBlock:
    """A block: its lines, each one run or, in a table, one per cell; and the box of a table's outer ruling."""

    kind: BlockKind
    lines: list[list[Run]]
    outline: Rectangle | None = None


@dataclass
class Layout:
    """What a page holds, blocks from top to bottom."""

    blocks: list[LaidBlock] = field(default_factory=list)
    rulings: list[Rectangle] = field(default_factory=list)


@dataclass(frozen=True)
class Sheet:
    """A sheet to lay out: its fonts, side, the margin to keep free, and the sizes in use."""

    faces: Faces
    side: int
    margin: int
    smallest: int
    largest: int

    @property
    def room(self) -> int:
        """The pixels between the margins."""
        return self.side - 2 * self.margin

    def ink(self, style: Style) -> tuple[int, int, int]:
        """Return a style's highest and lowest ink from the ascender line, and its overhang at the sides."""
        top, bottom, overhang = self.faces.extent[style.face, style.size - self.faces.sizes[0]].tolist()
        return top, bottom, overhang


class Stream:
    """Words to set, taken from the front."""

    def __init__(self, faces: Faces, words: Words) -> None:
        self.faces, self.words, self.at = faces, words, 0

    def take(self, style: Style, width: float, most_words: int = 1000) -> Setting | None:
        """Set the words that fit into `width` pixels, at least one, cut if it must be; None when none are left."""
        ends, start = self.words.ends, 0
        if self.at >= len(ends):
            return None
        if self.at:
            start = int(ends[self.at - 1])
        # No more characters than fit if all were narrow: a bound on the work.
        ids = self.words.ids[start : start + int(width / (0.2 * style.size)) + 2]
        pens, advance = _pens(self.faces, style, ids)
        last = ends[self.at : self.at + most_words] - (start + 2)
        rights = pens + advance
        count = int(rights[last[: last.searchsorted(len(ids))]].searchsorted(width, side="right"))
        if count:
            end = int(last[count - 1]) + 1
        else:
            end = max(1, min(int(rights.searchsorted(width, side="right")), int(last[0]) + 1))
        self.at += max(1, count)
        middles = pens[:end] + advance[:end] * np.float32(0.5)
        return Setting(style, ids[:end], pens[:end], middles, float(rights[end - 1]))


def lay_lines(dice: random.Random, rng: np.random.Generator, sheet: Sheet, count: int) -> Layout:
    """Lay out up to `count` lines, their block placed anywhere, each line's width and indent drawn."""
    styles = _line_styles(dice, sheet, count)
    sizes = [style.size for style in styles]
    pitch = min(dice.uniform(_LEAST_PITCH, 2.0), max(_LEAST_PITCH, sheet.room / (sum(sizes) + 1)))
    heights = [bottom - top for top, bottom, _ in map(sheet.ink, styles)]
    least = round(_LEAST_STEP * sheet.smallest)
    steps = [max(round(pitch * size), height + 1, least) for size, height in zip(sizes, heights, strict=True)]
    while len(steps) > 1 and sum(steps) > sheet.room:
        steps.pop()
    overhang = max(sheet.ink(style)[2] for style in styles)
    widest = sheet.room - 2 * overhang
    stream = _stream(rng, sheet, running_bank(), len(steps) * widest / (2.5 * min(sizes)))
    lines = _set_lines(dice, stream, styles[: len(steps)], widest)
    block = max(line.width for line in lines)
    left = sheet.margin + overhang + dice.random() * (widest - block)
    align = dice.choice((0.0, 0.0, 0.0, 0.5, 1.0, None))
    y = sheet.margin + round(dice.random() * (sheet.room - sum(steps[: len(lines)])))
    runs: list[list[Run]] = []
    for line, step in zip(lines, steps, strict=False):
        share = dice.random() if align is None else align
        runs.append([Run(line, int(left + share * (block - line.width)), y - sheet.ink(line.style)[0])])
        y += step
    return Layout([LaidBlock("line", runs)])


def _line_styles(dice: random.Random, sheet: Sheet, count: int) -> list[Style]:
    """Return each line's style: mostly one for the page."""
    tracking, word_space = _spacing(dice)
    mixed_faces, mixed_sizes = dice.random() < 0.2, dice.random() < 0.2
    face, size = _face(dice, sheet.faces), dice.randint(sheet.smallest, sheet.largest)
    styles = []
    for _ in range(count):
        if mixed_faces:
            face = _face(dice, sheet.faces)
        if mixed_sizes:
            size = dice.randint(sheet.smallest, sheet.largest)
        styles.append(Style(face, size, tracking, word_space))
    return styles


def _set_lines(dice: random.Random, stream: Stream, styles: Sequence[Style], widest: int) -> list[Setting]:
    """Set a line for each style: full lines, lines of any length, or a few words each."""
    manner = dice.random()
    lines = []
    for style in styles:
        width = widest * (dice.uniform(0.7, 1.0) if manner < 0.45 else dice.uniform(0.05, 1.0))
        line = stream.take(style, widest if manner > 0.8 else width, dice.randint(1, 3) if manner > 0.8 else 1000)
        if line is not None:
            lines.append(line)
    return lines


@dataclass(frozen=True)
class _Frame:
    """A document's measures: sizes, steps between lines and gaps between blocks, and what it holds."""

    heading: Style
    body: Style
    pitch: int
    gap: int
    paragraphs: tuple[int, ...]
    rows: int
    columns: int
    padding: int

    def height(self, sheet: Sheet) -> int:
        head, body = (bottom - top for top, bottom, _ in map(sheet.ink, (self.heading, self.body)))
        text = sum(self.paragraphs) * self.pitch + (len(self.paragraphs) - 1) * self.gap
        table = self.gap + self.rows * (body + 2 * self.padding) + 2 if self.rows else 0
        return head + self.gap + text + table


def lay_document(dice: random.Random, rng: np.random.Generator, sheet: Sheet, most_lines: int) -> Layout:
    """Lay out a heading, one or two paragraphs of `most_lines` lines together at most and, on half, a table."""
    frame = _frame(dice, sheet, most_lines)
    overhang = max(sheet.ink(frame.body)[2], sheet.ink(frame.heading)[2])
    width = (sheet.room - 2 * overhang) * dice.uniform(0.6, 1.0)
    left = sheet.margin + overhang + int(dice.random() * (sheet.room - 2 * overhang - width))
    y = sheet.margin + int(dice.random() * (sheet.room - frame.height(sheet)))
    layout = Layout()
    heading = _stream(rng, sheet, heading_bank(), 8).take(frame.heading, width, dice.randint(1, 5))
    if heading is not None:
        top, bottom, _ = sheet.ink(frame.heading)
        x = left + int(dice.choice((0.0, 0.0, 0.5)) * (width - heading.width))
        layout.blocks.append(LaidBlock("title", [[Run(heading, x, y - top)]]))
        y += bottom - top + frame.gap
    stream = _stream(rng, sheet, running_bank(), sum(frame.paragraphs) * width / (2.5 * frame.body.size))
    for count in frame.paragraphs:
        layout.blocks.append(_lay_paragraph(dice, sheet, stream, frame, (left, y, width, count)))
        y += count * frame.pitch + frame.gap
    if frame.rows:
        _lay_table(dice, rng, sheet, frame, layout, (left, y, width))
    return layout


def _frame(dice: random.Random, sheet: Sheet, most_lines: int) -> _Frame:
    """Draw a document's measures and make them smaller until it fits the sheet."""
    plain = [face for face, bold in enumerate(sheet.faces.bold) if not bold] or list(range(len(sheet.faces.bold)))
    bolds = [face for face, bold in enumerate(sheet.faces.bold) if bold]
    face = dice.choice(plain)
    tracking, word_space = _spacing(dice)
    leading, growth, gap = dice.uniform(_LEAST_PITCH, 1.6), dice.uniform(1.3, 1.7), dice.uniform(0.5, 1.1)
    if bolds and dice.random() < 0.7:
        heading_face, growth = dice.choice(bolds), growth - 0.2
    else:
        heading_face = face
    paragraphs = [min(dice.randint(1, 4), most_lines)]
    if most_lines > paragraphs[0] and dice.random() < 0.5:
        paragraphs.append(min(dice.randint(1, 4), most_lines - paragraphs[0]))
    rows, columns = (dice.randint(2, 4), dice.randint(2, 3)) if dice.random() < 0.5 else (0, 0)
    size = dice.randint(sheet.smallest, sheet.largest)
    least = round(_LEAST_STEP * sheet.smallest)
    while True:
        body = Style(face, size, tracking, word_space)
        heading = Style(heading_face, min(round(size * growth), sheet.faces.sizes[-1]), tracking, word_space)
        top, bottom, _ = sheet.ink(body)
        pitch, padding = max(round(leading * size), bottom - top + 1, least), max(3, size // 4)
        frame = _Frame(heading, body, pitch, round(gap * size), tuple(paragraphs), rows, columns, padding)
        if frame.height(sheet) <= sheet.room:
            return frame
        if size > sheet.smallest:
            size -= 1
        elif rows:
            rows = columns = 0
        elif len(paragraphs) > 1:
            paragraphs.pop()
        else:
            paragraphs[0] -= 1


def _lay_paragraph(
    dice: random.Random, sheet: Sheet, stream: Stream, frame: _Frame, place: tuple[int, int, float, int]
) -> LaidBlock:
    left, y, width, count = place
    top, _, _ = sheet.ink(frame.body)
    lines: list[list[Run]] = []
    for number in range(count):
        ends_here = number == count - 1
        line = stream.take(frame.body, width * (dice.uniform(0.2, 1.0) if ends_here else 1.0))
        if line is not None:
            lines.append([Run(line, left, y - top + number * frame.pitch)])
    return LaidBlock("text", lines)


def _lay_table(
    dice: random.Random,
    rng: np.random.Generator,
    sheet: Sheet,
    frame: _Frame,
    layout: Layout,
    place: tuple[int, int, float],
) -> None:
    """Lay out a table with ruling lines: a full grid, or lines between the rows only."""
    left, y, width = place
    top, bottom, _ = sheet.ink(frame.body)
    pad, row_height = frame.padding, bottom - top + 2 * frame.padding
    column = int(width * dice.uniform(0.6, 1.0)) // frame.columns
    stream = _stream(rng, sheet, cell_bank(), 3 * frame.rows * frame.columns)
    aligns = [dice.choice((0.0, 0.0, 0.5, 1.0)) for _ in range(frame.columns)]
    lines: list[list[Run]] = []
    for row in range(frame.rows):
        runs = []
        for number, align in enumerate(aligns):
            cell = stream.take(frame.body, column - 2 * pad - 2, dice.choice((1, 1, 2)))
            if cell is not None:
                free = column - 2 * pad - 2 - cell.width
                x = left + number * column + pad + 2 + int(max(0.0, align * free))
                runs.append(Run(cell, x, y + row * row_height + pad + 2 - top))
        lines.append(runs)
    thick = dice.choice((1, 1, 2))
    across, down = frame.columns * column, frame.rows * row_height
    layout.rulings += [(left, y + row * row_height, across + thick, thick) for row in range(frame.rows + 1)]
    if dice.random() < 0.75:
        layout.rulings += [(left + n * column, y, thick, down + thick) for n in range(frame.columns + 1)]
    layout.blocks.append(LaidBlock("table", lines, (left, y, across + thick, down + thick)))


def _pens(faces: Faces, style: Style, ids: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return where the pen stands at each character, from 0, and each character's own advance."""
    table = faces.advance[style.face, style.size - faces.sizes[0]]
    if style.tracking or style.word_space != 1.0:
        table = table + np.float32(style.tracking)
        table[0] *= style.word_space
    advance = table[ids]
    steps = advance.copy()
    steps[:-1] += faces.kern[style.face][ids[:-1], ids[1:]] * np.float32(style.size)
    return steps.cumsum(dtype=np.float32) - steps, advance


def _stream(rng: np.random.Generator, sheet: Sheet, bank: Bank, words: float) -> Stream:
    return Stream(sheet.faces, draw_words(rng, bank, int(words) + 2))


def _face(dice: random.Random, faces: Faces) -> int:
    return dice.randrange(len(faces.names))


def _spacing(dice: random.Random) -> tuple[float, float]:
    """Return the pixels added after each character and the factor of a space's width; mostly none."""
    tracking = dice.random() if dice.random() < 0.25 else 0.0
    return tracking, dice.uniform(1.0, 1.8) if dice.random() < 0.3 else 1.0
