"""Tables as CSV, a file for each."""

from __future__ import annotations

import csv
import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

from app.results.content import Table, plain_text
from app.results.document import Document, Options, Pictures
from app.results.grid import place_cells
from app.results.read import ReadPage
from app.results.text import utf8_text

BYTE_ORDER_MARK = "\ufeff"
"""First in each file: without it, spreadsheet programs open UTF-8 as the machine's old code page and break Chinese."""

_NUMBER = re.compile(r"[+-]?[\d.,' \u00a0]*\d[\d.,' \u00a0]*%?")
_FORMULA = re.compile(r"\s*[=+\-@\t\r|%＝＋－＠]")
_MARKERS = frozenset({"-", "+", "--", "—"})


class CsvWriter:
    """Writes a zip of one CSV file for each table, `page-N-table-M.csv`."""

    def __init__(self, path: Path, document: Document, pictures: Pictures, options: Options) -> None:
        self._zip = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED)

    def add(self, page: ReadPage) -> None:
        """Write the tables of one page."""
        for name, text in csv_files(page):
            self._zip.writestr(name, text)

    def close(self) -> None:
        """Finish the file."""
        self._zip.close()

    abandon = close


def csv_files(page: ReadPage) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of a CSV file for each table of a page; for a page that failed, of one that says so."""
    failure = page.result.failure
    if failure is not None:
        yield f"page-{page.result.number}-failed.csv", _encode([["could not be read", failure.detail]])
    tables = [part for _, parts in page.content for part in parts if isinstance(part, Table)]
    for number, table in enumerate(tables, 1):
        yield f"page-{page.result.number}-table-{number}.csv", _encode(_rows(table))


def _encode(rows: Iterator[list[str]] | list[list[str]]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer).writerows([harmless(utf8_text(cell)) for cell in row] for row in rows)
    return (BYTE_ORDER_MARK + buffer.getvalue()).encode()


def _rows(table: Table) -> Iterator[list[str]]:
    """Yield rectangular rows; a cell that spans others has its text at its top left and blanks in the rest."""
    for row in place_cells(table):
        line: list[str] = []
        for placed in row:
            line += [""] * (placed.column - len(line))
            line += [plain_text(placed.cell.spans) if placed.cell else "", *[""] * (placed.colspan - 1)]
        if line:
            yield line


def harmless(text: str) -> str:
    """Return a cell that no spreadsheet program runs as a formula: those that could be one get a quote in front.

    Numbers, signed or not, and lone signs stay as they are.
    """
    if not _FORMULA.match(text) or _NUMBER.fullmatch(text.strip()) or text.strip() in _MARKERS:
        return text
    return "'" + text
