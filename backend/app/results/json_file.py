"""JSON: everything that is known of each page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from app.ocr.grounding import Box
from app.results.content import Cell, Table, plain_text
from app.results.document import Document, Options, Pictures, figure_name
from app.results.pages import PageResult
from app.results.plain import open_text, page_markdown
from app.results.read import ReadPage


class JsonWriter:
    """Writes `{"title": ..., "pages": [...]}`, a page to a line."""

    def __init__(self, path: Path, document: Document, pictures: Pictures, options: Options) -> None:
        self._file = open_text(path)
        self._file.write(f'{{"title": {_dump(document.title)}, "pages": [')
        self._lead = "\n"
        self._changes = options.drop_running or options.join_hyphens or options.join_pages

    def add(self, page: ReadPage) -> None:
        """Write one page."""
        known = page_json(page.result)
        if self._changes:
            known["markdown"] = page_markdown(page)
        known |= {"mode": page.result.mode, "figures": _figures(page.result), "blocks": list(_blocks(page))}
        self._file.write(self._lead + _dump(known))
        self._lead = ",\n"

    def close(self) -> None:
        """Finish the file."""
        self._file.write("\n]}\n")
        self._file.close()

    def abandon(self) -> None:
        """Let go of the file."""
        self._file.close()


def page_json(page: PageResult) -> dict[str, Any]:
    """Return a page as clients read it; its `index` counts from 0."""
    return {
        "index": page.number - 1,
        "markdown": page.text,
        "raw_text": page.raw_text,
        "image_assets": [figure.name for figure in page.figures],
        "boxes": [{"label": box.label, "box": _corners(box)} for box in page.boxes],
        "image_dims": {"w": page.width, "h": page.height},
        "dpi": page.dpi,
        "finish_reason": page.finish_reason,
        "looped": page.looped,
        "attempts": page.attempts,
        "error": {"code": page.failure.code, "detail": page.failure.detail} if page.failure else None,
    }


def _figures(page: PageResult) -> list[dict[str, Any]]:
    return [
        {"name": figure_name(page.number, number), "box": _corners(figure.box)}
        for number, figure in enumerate(page.figures, 1)
    ]


def _blocks(page: ReadPage) -> Iterator[dict[str, Any]]:
    for block, parts in page.content:
        tables = [[[_cell(cell) for cell in row] for row in part.rows] for part in parts if isinstance(part, Table)]
        yield {
            "kind": block.kind,
            "label": block.label,
            "text": block.text,
            "boxes": [_corners(box) for box in block.boxes],
            "figures": [figure_name(page.result.number, number) for number in block.figures],
            "tables": tables,
        }


def _cell(cell: Cell) -> dict[str, Any]:
    return {"text": plain_text(cell.spans), "rowspan": cell.rowspan, "colspan": cell.colspan}


def _corners(box: Box) -> list[int]:
    return [box.x1, box.y1, box.x2, box.y2]


def _dump(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    # A lone surrogate has no bytes in UTF-8; escaped, it arrives as it was.
    return (
        text
        if text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)
        else json.dumps(value)
    )
