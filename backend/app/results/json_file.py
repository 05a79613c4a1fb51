"""JSON: everything that is known of each page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from app.ocr.grounding import Box
from app.results.content import Cell, Table, plain_text
from app.results.document import Document, Options, Pictures, figure_name
from app.results.plain import open_text
from app.results.read import ReadPage


class JsonWriter:
    """Writes `{"title": ..., "pages": [...]}`, a page to a line."""

    def __init__(self, path: Path, document: Document, pictures: Pictures, options: Options) -> None:
        self._file = open_text(path)
        self._file.write(f'{{"title": {_dump(document.title)}, "pages": [')
        self._lead = "\n"

    def add(self, page: ReadPage) -> None:
        """Write one page."""
        self._file.write(self._lead + _dump(page_json(page)))
        self._lead = ",\n"

    def close(self) -> None:
        """Finish the file."""
        self._file.write("\n]}\n")
        self._file.close()

    def abandon(self) -> None:
        """Let go of the file."""
        self._file.close()


def page_json(page: ReadPage) -> dict[str, Any]:
    """Return a page as values JSON has: what is kept of it, its figures by their names in the document, its blocks."""
    result = page.result
    figures = [
        {"name": figure_name(result.number, number), "box": _box(figure.box)}
        for number, figure in enumerate(result.figures, 1)
    ]
    blocks = []
    for block, parts in page.content:
        tables = [[[_cell(cell) for cell in row] for row in part.rows] for part in parts if isinstance(part, Table)]
        blocks.append(
            {
                "kind": block.kind,
                "label": block.label,
                "text": block.text,
                "boxes": [_box(box) for box in block.boxes],
                "figures": [figure_name(result.number, number) for number in block.figures],
                "tables": tables,
            }
        )
    return {**result.to_json(), "figures": figures, "blocks": blocks}


def _cell(cell: Cell) -> dict[str, Any]:
    return {"text": plain_text(cell.spans), "rowspan": cell.rowspan, "colspan": cell.colspan}


def _box(box: Box) -> dict[str, int]:
    return {"x1": box.x1, "y1": box.y1, "x2": box.x2, "y2": box.y2}


def _dump(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    # A lone surrogate has no bytes in UTF-8; escaped, it arrives as it was.
    return (
        text
        if text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)
        else json.dumps(value)
    )
