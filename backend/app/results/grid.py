"""Tables laid out: each cell at its row and column, spans bounded by what is there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from app.results.content import Cell, Table

MOST_COLUMNS = 1000
"""As in browsers (HTML, 4.9.11): a colspan beyond it covers no more."""


@dataclass(frozen=True)
class Placed:
    """A cell at its column, with spans that stay inside the table and clear of other cells; `cell` None continues one above."""

    column: int
    cell: Cell | None
    rowspan: int = 1
    colspan: int = 1


def place_cells(table: Table) -> Iterator[list[Placed]]:
    """Yield the cells of each row in order of columns, those covered from above included; a row may be empty."""
    rows = table.rows
    covered: list[tuple[int, int, int]] = []  # column, columns, last row
    for number, row in enumerate(rows):
        placed = [Placed(column, None, colspan=span) for column, span, last in covered if last >= number]
        taken = {column + n for column, span, last in covered if last >= number for n in range(span)}
        covered = [cover for cover in covered if cover[2] > number]
        column = 0
        for cell in row:
            while column in taken:
                column += 1
            colspan = 1
            while colspan < min(cell.colspan, MOST_COLUMNS) and column + colspan not in taken:
                colspan += 1
            rowspan = min(cell.rowspan, len(rows) - number)
            placed.append(Placed(column, cell, rowspan, colspan))
            if rowspan > 1:
                covered.append((column, colspan, number + rowspan - 1))
            column += colspan
        yield sorted(placed, key=lambda one: one.column)
