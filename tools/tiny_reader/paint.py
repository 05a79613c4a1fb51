"""Draw a planned page with Pillow alone, as a program of a user's would, and measure its boxes in the ink itself.

Shares nothing with `compose` but the plan: test pages drawn here show whether what was learnt there carries over.
Lines are set naturally: the letter and word spacing that a plan may ask for is left out.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from tools.tiny_reader import fonts
from tools.tiny_reader.look import Look, Shadow
from tools.tiny_reader.page import Block, Box, Line, Page, TextRun, around

# A pixel counts as ink from this coverage (of 255) on: what is fainter at an edge nobody would draw a box around.
_INK = 32


def paint(page: Page, seed: int, folder: Path | None = None) -> tuple[Image.Image, Page]:
    """Return the page as an RGB picture, and the page with the boxes measured in it.

    `seed` is the noise's; fonts are looked for in `folder`, else in the system.
    """
    painter = _Painter(page, folder)
    boxes = np.array([box for line in page.lines for box in painter.word_boxes(line)], np.float32)
    blocks = tuple(_measured(block, painter) for block in page.blocks)
    picture = _finish(painter.coverage(), page.look, page.side, seed)
    return picture, replace(page, blocks=blocks, word_boxes=boxes)


def _measured(block: Block, painter: _Painter) -> Block:
    lines = tuple(replace(line, box=painter.line_box(line)) for line in block.lines)
    # A table's box is its rulings', which are drawn to the planned pixel.
    return replace(block, lines=lines, box=block.box if block.rows else around([line.box for line in lines]))


@dataclass(frozen=True)
class _Painter:
    page: Page
    folder: Path | None

    def coverage(self) -> Image.Image:
        """Return all of the page's ink, turned and resized, L."""
        sheet = self._sheet()
        drawing = ImageDraw.Draw(sheet)
        for run in self.page.runs:
            drawing.text((run.x, run.y), run.text, fill=255, font=self._font(run))
        for x, y, width, height in self.page.rulings.tolist():
            drawing.rectangle((x, y, x + width - 1, y + height - 1), fill=255)
        return self._turned(sheet)

    def line_box(self, line: Line) -> Box:
        """Return the box of a line's ink."""
        sheet = self._sheet()
        drawing = ImageDraw.Draw(sheet)
        for run in self.page.runs[slice(*line.runs)]:
            drawing.text((run.x, run.y), run.text, fill=255, font=self._font(run))
        return self._ink_box(sheet)

    def word_boxes(self, line: Line) -> Iterator[Box]:
        """Yield the box of each word's ink, each word drawn alone where it stands in its line."""
        for run in self.page.runs[slice(*line.runs)]:
            font, start = self._font(run), 0
            for word in run.text.split(" "):
                sheet = self._sheet()
                x = run.x + font.getlength(run.text[:start])
                ImageDraw.Draw(sheet).text((x, run.y), word, fill=255, font=font)
                yield self._ink_box(sheet)
                start += len(word) + 1

    def _font(self, run: TextRun) -> ImageFont.FreeTypeFont:
        return ImageFont.truetype(str(fonts.find(run.font, self.folder)), run.size)

    def _sheet(self) -> Image.Image:
        return Image.new("L", (self.page.look.draw_side,) * 2)

    def _turned(self, sheet: Image.Image) -> Image.Image:
        if self.page.look.angle:
            sheet = sheet.rotate(self.page.look.angle, Image.Resampling.BICUBIC)
        if sheet.width != self.page.side:
            sheet = sheet.resize((self.page.side,) * 2, Image.Resampling.BICUBIC)
        return sheet

    def _ink_box(self, sheet: Image.Image) -> Box:
        box = self._turned(sheet).point(lambda value: 255 if value >= _INK else 0).getbbox()
        if box is None:
            raise ValueError("a line without ink")
        return box


def _finish(coverage: Image.Image, look: Look, side: int, seed: int) -> Image.Image:
    """Lay the ink on the paper, then blur, shadow, noise and JPEG as the look says."""
    picture = Image.composite(
        Image.new("RGB", (side, side), look.ink), Image.new("RGB", (side, side), look.paper), coverage
    )
    if look.blur:
        picture = picture.filter(ImageFilter.GaussianBlur(look.blur))
    if look.shadow or look.noise:
        values = np.asarray(picture).astype(np.float32)
        if look.shadow:
            values *= _light(look.shadow, side)[..., None]
        if look.noise:
            values += np.random.default_rng(seed).normal(0, look.noise, values.shape)
        picture = Image.fromarray(values.round().clip(0, 255).astype(np.uint8))
    return _through_jpeg(picture, look.jpeg) if look.jpeg else picture


def _light(shadow: Shadow, side: int) -> NDArray[np.float32]:
    place = (np.arange(side, dtype=np.float32) + 0.5) / side - 0.5
    along = math.cos(shadow.direction) * place[None] + math.sin(shadow.direction) * place[:, None]
    return (1 - shadow.strength / (1 + np.exp((shadow.middle - along) / shadow.width))).astype(np.float32)


def _through_jpeg(picture: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=quality)
    return Image.open(stream).convert("RGB")
