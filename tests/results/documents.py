"""Documents for the tests of results, and readers of what was written."""

from __future__ import annotations

import html
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from app.ocr.grounding import Box
from app.ocr.render import Figure
from app.results.document import Document, Options, Pictures
from app.results.pages import PageFailure, PageResult
from app.results.writers import FORMATS, write

WIDTH, HEIGHT = 999, 1998
"""In pixels: a unit of the model's is one pixel across and two down."""

FAILED = PageFailure("recognition_timeout", "Reading took too long. -- <b>")
SANS = Path("/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf")


def tag(label: str, *box: int) -> str:
    """Write a tag."""
    return f"<|ref|>{label}<|/ref|><|det|>[{list(box)}]<|/det|>"


def layout(*blocks: tuple[str, str]) -> str:
    """Write blocks of a class each and their text, one below the other."""
    return "".join(f"{tag(kind, 100, 50 * n, 900, 50 * n + 40)}\n{text}\n\n" for n, (kind, text) in enumerate(blocks))


def page(raw: str, number: int = 1, mode: str = "markdown", **values: Any) -> PageResult:
    """A page that was read."""
    return PageResult(number, **{"raw_text": raw, "mode": mode, "width": WIDTH, "height": HEIGHT, **values})


def failed(number: int) -> PageResult:
    """A page that was not."""
    return PageResult(number, failure=FAILED)


def figure(*box: int) -> Figure:
    """A figure of a page."""
    return Figure("images/0.jpg", Box("image", *box))


def document(*pages: PageResult, source: Path | None = None) -> Document:
    """A document with a title that has to be escaped."""
    return Document("Ships & <quays>", pages, source)


def written(
    folder: Path,
    name: str,
    pages: Sequence[PageResult],
    options: Options | None = None,
    pictures: Pictures | None = None,
) -> bytes:
    """The bytes of a document in a format."""
    path = folder / FORMATS[name].file_name
    write(document(*pages), name, path, pictures, options)
    return path.read_bytes()


@dataclass(frozen=True)
class Album:
    """Pictures for the same figure of every page."""

    data: bytes

    def figure(self, page: int, number: int) -> bytes | None:
        """Return it."""
        return self.data


def pdf_words(path: Path) -> list[list[tuple[str, tuple[float, ...]]]]:
    """The words of each page with their boxes in points, as poppler finds them."""
    output = subprocess.run(["pdftotext", "-bbox", "-cropbox", path, "-"], capture_output=True, check=True, text=True)
    word = re.compile(r'<word xMin="(.*?)" yMin="(.*?)" xMax="(.*?)" yMax="(.*?)">(.*?)</word>')
    return [
        [
            (html.unescape(found[5]), tuple(round(float(found[n]), 1) for n in range(1, 5)))
            for found in word.finditer(part)
        ]
        for part in output.stdout.split("<page ")[1:]
    ]


def printed(*lines: tuple[str, int, int], size: tuple[int, int] = (600, 400)) -> Image.Image:
    """A white picture with lines of text, each at its left and top, 20 pixels high."""
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    for text, left, top in lines:
        draw.text((left, top), text, font=ImageFont.truetype(str(SANS), 20), fill="black")
    return image
