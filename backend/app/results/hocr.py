"""hOCR 1.2: XHTML that says where each line and word stands (https://kba.github.io/hocr-spec/1.2/)."""

from __future__ import annotations

import html
import math
from pathlib import Path

from app import __version__
from app.results.blocks import Kind
from app.results.document import Document, Options, Pictures
from app.results.html import guess_language
from app.results.lines import Line, PlacedBlock, place, reads_from_right
from app.results.pages import PageResult
from app.results.plain import open_text
from app.results.read import ReadPage
from app.results.rect import Rect
from app.results.text import failure_sentence, xml_text

_CAPABILITIES = (
    "ocr_page ocr_carea ocr_par ocr_line ocrx_word ocr_photo ocr_table ocr_header ocr_footer ocr_pageno ocrp_dir"
)
_FLOATS: dict[Kind, str] = {
    "table": "ocr_table",
    "header": "ocr_header",
    "footer": "ocr_footer",
    "page_number": "ocr_pageno",
}


class HocrWriter:
    """Writes a page to an `ocr_page`, its blocks to areas, their lines and words inside."""

    def __init__(self, path: Path, document: Document, pictures: Pictures, options: Options) -> None:
        self._file = open_text(path)
        title = _escaped(document.title)
        language = _escaped(options.language or guess_language(document))
        self._file.write(
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            '<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Transitional//EN" '
            '"http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd">\n'
            f'<html xmlns="http://www.w3.org/1999/xhtml" xml:lang="{language}" lang="{language}">\n<head>\n'
            f'<title>{title}</title>\n<meta http-equiv="Content-Type" content="text/html;charset=utf-8"/>\n'
            f'<meta name="ocr-system" content="deepseek-ocr-service {__version__}"/>\n'
            f'<meta name="ocr-langs" content="{language.partition("-")[0]}"/>\n'
            f'<meta name="ocr-capabilities" content="{_CAPABILITIES}"/>\n</head>\n<body>\n'
        )

    def add(self, page: ReadPage) -> None:
        """Write one page."""
        result = page.result
        resolution = f"; scan_res {result.dpi:g} {result.dpi:g}" if result.dpi else ""
        box = f"bbox 0 0 {result.width} {result.height}"
        self._file.write(
            f'<div class="ocr_page" id="page_{result.number}" title="{box}; ppageno {result.number - 1}{resolution}">\n'
        )
        if result.failure is not None:
            self._file.write(f"<p>{_escaped(failure_sentence(result.number, result.failure.detail))}</p>\n")
        for number, placed in enumerate(place(result, page.content), 1):
            self._add_block(result, placed, number)
        self._file.write("</div>\n")

    def close(self) -> None:
        """Finish the file."""
        self._file.write("</body>\n</html>\n")
        self._file.close()

    def abandon(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _add_block(self, result: PageResult, placed: PlacedBlock, number: int) -> None:
        key = f"{result.number}_{number}"
        if placed.block.kind == "figure":
            for index, box in enumerate(placed.block.boxes, 1):
                area = Rect(box.x1, box.y1, box.x2, box.y2)
                self._file.write(f'<div class="ocr_photo" id="photo_{key}_{index}" title="{_bbox(area)}"></div>\n')
        elif placed.lines:
            area = _around([line.box for line in placed.lines])
            kind = _FLOATS.get(placed.block.kind, "ocr_carea")
            direction = ' dir="rtl"' if reads_from_right(placed.block.text) else ""
            self._file.write(f'<div class="{kind}" id="block_{key}" title="{_bbox(area)}">\n')
            self._file.write(f'<p class="ocr_par" id="par_{key}"{direction} title="{_bbox(area)}">\n')
            for index, line in enumerate(placed.lines, 1):
                self._file.write(_line(line, f"{key}_{index}"))
            self._file.write("</p>\n</div>\n")
        elif placed.block.text.strip():
            # Text about the page, or of a page without a size: it has no place and is kept all the same.
            self._file.write(f"<p>{_escaped(placed.block.text)}</p>\n")


def _line(line: Line, key: str) -> str:
    # Counter-clockwise, as the specification counts.
    angle = f"; textangle {360 - line.turn}" if line.turn else ""
    words = " ".join(
        f'<span class="ocrx_word" id="word_{key}_{index}" title="{_bbox(word.box)}">{_escaped(word.text)}</span>'
        for index, word in enumerate(line.words, 1)
    )
    return f'<span class="ocr_line" id="line_{key}" title="{_bbox(line.box)}{angle}">{words}</span>\n'


def _bbox(box: Rect) -> str:
    return f"bbox {math.floor(box.x1)} {math.floor(box.y1)} {math.ceil(box.x2)} {math.ceil(box.y2)}"


def _around(boxes: list[Rect]) -> Rect:
    return Rect(
        min(box.x1 for box in boxes),
        min(box.y1 for box in boxes),
        max(box.x2 for box in boxes),
        max(box.y2 for box in boxes),
    )


def _escaped(text: str) -> str:
    return html.escape(xml_text(text))
