"""Glyph bitmaps and metrics of fonts, read once through Pillow so that composed pages look as Pillow draws them.

    python -m tools.tiny_reader.faces DIR     measure the training fonts and keep the result in DIR

A machine that is given DIR then sets text as this one does, though its Pillow may lack Raqm (it would not kern
OpenType fonts) and other fonts may be installed there.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ImageFont, features

from tools.tiny_reader import fonts
from tools.tiny_reader.words import ALPHABET

SIZES = tuple(range(14, 41))
"""Font sizes in pixels per em."""

GLYPHS = ALPHABET[1:]
"""The characters that leave ink: all but the space."""

_KERNING_SIZE = 100
_SAVED = "faces.npz"


@dataclass(frozen=True)
class Bitmap:
    """A glyph's ink: uint8 coverage (height, width), its left edge from the pen and its top from the ascender line."""

    ink: NDArray[np.uint8]
    left: int
    top: int


@dataclass(frozen=True)
class Faces:
    """Metrics of f fonts at s consecutive sizes, pixels unless said otherwise; rows of characters follow ALPHABET.

    `advance` is (f, s, 85) and `kern` (f, 85, 85), per em. `box` is (f, s, 84, 4) without the space: left, top, width
    and height of the ink, from the pen and the ascender line. `extent` is (f, s, 3): the highest and lowest ink of
    any character and how far ink reaches past its advance at either side. `middle` (f, s) is the middle of the "x".
    `ink` holds every glyph's uint8 coverage, row by row, one glyph after another in the order of `box`.
    """

    names: tuple[str, ...]
    bold: tuple[bool, ...]
    sizes: tuple[int, ...]
    folder: Path | None
    advance: NDArray[np.float32]
    kern: NDArray[np.float32]
    box: NDArray[np.int16]
    extent: NDArray[np.int16]
    middle: NDArray[np.float32]
    ink: NDArray[np.uint8]

    def path(self, face: int) -> Path:
        """Return the font file of a face."""
        return fonts.find(self.names[face], self.folder)


def load_faces(
    table: Sequence[fonts.Font] = fonts.TRAINING, folder: Path | None = None, sizes: Sequence[int] = SIZES
) -> Faces:
    """Draw and measure the characters of every font of `table` at every size; takes about 0.2 s a font.

    What was measured before and kept in `folder` is read instead, if it is of these fonts and sizes. Raises
    FileNotFoundError, naming the package, for a font that is not there.
    """
    saved = None if folder is None else _read(folder)
    wanted = tuple(font.file_name for font in table), tuple(sizes)
    if saved is not None and (saved.names, saved.sizes) == wanted:
        return saved
    measured = [_measure(fonts.find(font.file_name, folder), sizes) for font in table]
    advances, kerns, bitmaps = zip(*measured, strict=True)
    advance, glyphs = np.stack(advances), [glyph for font in bitmaps for glyph in font]
    box = np.array([(g.left, g.top, g.ink.shape[1], g.ink.shape[0]) for g in glyphs], np.int16)
    box = box.reshape(len(table), len(sizes), len(GLYPHS), 4)
    left, top, width, height = np.moveaxis(box.astype(np.int32), -1, 0)
    overhang = np.maximum(-left, left + width - np.ceil(advance[..., 1:]).astype(np.int32)).max(-1)
    extent = np.stack([top.min(-1), (top + height).max(-1), np.maximum(overhang, 0)], -1).astype(np.int16)
    x = GLYPHS.index("x")
    return Faces(
        names=tuple(font.file_name for font in table),
        bold=tuple(font.bold for font in table),
        sizes=tuple(sizes),
        folder=folder,
        advance=advance,
        kern=np.stack(kerns),
        box=box,
        extent=extent,
        middle=(top[..., x] + height[..., x] / 2).astype(np.float32),
        ink=np.concatenate([glyph.ink.ravel() for glyph in glyphs]),
    )


def save_faces(faces: Faces, folder: Path) -> None:
    """Keep what was measured in `folder`, for `load_faces` there."""
    np.savez_compressed(folder / _SAVED, **{name: value for name, value in asdict(faces).items() if name != "folder"})


def _read(folder: Path) -> Faces | None:
    if not (folder / _SAVED).is_file():
        return None
    with np.load(folder / _SAVED) as arrays:
        parts = {name: arrays[name] for name in arrays.files}
    names, bold, sizes = (tuple(parts.pop(name).tolist()) for name in ("names", "bold", "sizes"))
    return Faces(names=names, bold=bold, sizes=sizes, folder=folder, **parts)


def render_glyphs(path: Path, size: int) -> list[Bitmap]:
    """Draw every character of GLYPHS alone, anti-aliased, as ImageDraw.text does at a whole pixel."""
    font = ImageFont.truetype(str(path), size)
    return [_render(font, character) for character in GLYPHS]


def _render(font: ImageFont.FreeTypeFont, character: str) -> Bitmap:
    # getmask2 gives ImageDraw.text's own mask; it may have empty borders (the box includes the advance).
    mask, (left, top) = font.getmask2(character, mode="L", anchor="la")
    inside = mask.getbbox()
    if inside is None:
        raise ValueError(f"{font.getname()[0]} draws nothing for {character!r}")
    x1, y1, x2, y2 = inside
    width, height = mask.size
    ink = np.frombuffer(bytes(mask), np.uint8).reshape(height, width)
    return Bitmap(ink[y1:y2, x1:x2], left + x1, top + y1)


def _measure(path: Path, sizes: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.float32], list[Bitmap]]:
    advance = np.array([_advances(path, size) for size in sizes], np.float32)
    return advance, _kerning(path), [glyph for size in sizes for glyph in render_glyphs(path, size)]


def _advances(path: Path, size: int) -> list[float]:
    font = ImageFont.truetype(str(path), size)
    return [font.getlength(character) for character in ALPHABET]


def _kerning(path: Path) -> NDArray[np.float32]:
    """Return how much nearer (negative) the second character of each pair stands, per em."""
    font = ImageFont.truetype(str(path), _KERNING_SIZE)
    # Pillow without Raqm sets no ligatures and refuses to be told so.
    no_ligatures = ["-liga", "-clig", "-dlig"] if features.check("raqm") else None
    kern = np.zeros((len(ALPHABET), len(ALPHABET)), np.float32)
    alone = [font.getlength(character) for character in ALPHABET]
    if min(alone) == max(alone):  # fixed width
        return kern
    for first, a in enumerate(ALPHABET):
        kern[first] = [
            font.getlength(a + b, features=no_ligatures) - alone[first] - alone[second]
            for second, b in enumerate(ALPHABET)
        ]
    kern /= _KERNING_SIZE
    return kern


def main() -> None:
    """Measure the training fonts of the system and keep the result."""
    parser = argparse.ArgumentParser(description="Measure the fonts of the tiny reader's pages.")
    parser.add_argument("folder", type=Path, help="where to keep the result")
    save_faces(load_faces(), parser.parse_args().folder)


if __name__ == "__main__":
    main()
