"""Tables found in the model's output, written as CSV or as Markdown.

The model writes tables as HTML, sometimes as GitHub pipe tables. html.parser does not read them here:
in Python releases we support it needs 9 s for 40 KB of "<a " (measured on 3.11.7, where time grows
with the square of the length) and raises on "<![" and on long character references.
"""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

MAX_COLUMNS = 256
"""Cells of a row beyond this many columns are left out; the same bounds what a colspan covers."""

MAX_CELLS = 200_000
"""Rows that would take the tables of one text beyond this many cells, blank ones included, are left
out, so that spans cannot turn a few kilobytes into gigabytes. An answer of 8,192 tokens writes at
most a few thousand cells."""

TABLE_SEPARATOR = "---"
"""The line between two tables in CSV."""

# "[^<>]*" ends at the next "<", so no two tags scan the same text.
TABLE_TAG = re.compile(r"<(/?)(table|tr|td|th)(?=[\s/>])([^<>]*)>", re.IGNORECASE)
_SPAN = re.compile(r"\b(colspan|rowspan)\s*=\s*[\"']?\s*([0-9]{1,9})", re.IGNORECASE)
_TABLE_EDGE = re.compile(r"<(/?)table(?=[\s/>])[^<>]*>", re.IGNORECASE)

# Names that are certainly markup: "<name>" and its like may be what the page says.
_MARKUP = re.compile(
    r"<(/?)(table|thead|tbody|tfoot|caption|colgroup|col|tr|td|th|br|p|div|ul|ol|li|center|span|font|a|"
    r"b|i|u|s|em|strong|small|big|code|mark|ins|del|sup|sub)(?=[\s/>])[^<>]*>",
    re.IGNORECASE,
)
_LINE_BREAKERS = frozenset({"table", "tr", "br", "p", "div", "ul", "ol", "li", "center", "caption"})
_OPENERS_AS_TEXT = {"sup": "^", "sub": "_", "td": " ", "th": " "}

# html.unescape raises on a reference of thousands of digits.
_REFERENCE = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_SPACES = re.compile(r"[ \t\r\n\f\v]+")
_UNESCAPED_PIPE = re.compile(r"(?<!\\)\|")
_RULE_CELL = re.compile(r"\s*:?-+:?\s*")
_LOOKS_LIKE_TAG = re.compile(r"<(?=[A-Za-z/])")


@dataclass(frozen=True)
class Table:
    """A rectangular grid of cell texts; a line break in a cell is a newline.

    A cell that spans rows or columns has its text at its top left and blanks in the rest, so that
    every text, and every amount, is there as often as the page shows it. Columns that would be blank
    only because of spans at the right edge are left out.
    """

    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class TableCell:
    text: str
    rowspan: int = 1
    colspan: int = 1


def extract_tables(markdown: str) -> tuple[Table, ...]:
    """Return the HTML and pipe tables of a text, in order.

    A table cut short keeps the rows that are there. In cells, `<br>` and blocks become line breaks,
    superscripts `^` and subscripts `_` before their text, other HTML markup (a nested table, too)
    just its text; entities are decoded. Time is linear in the length of the text; nothing raises.
    """
    tables: list[Table] = []
    budget = MAX_CELLS
    for is_html, part in table_parts(markdown):
        for rows in html_tables(part) if is_html else _pipe_tables(part):
            grid, spent = _grid(rows, budget)
            budget -= spent
            if grid:
                tables.append(Table(grid))
    return tuple(tables)


def to_csv(tables: Iterable[Table]) -> str:
    """Write tables as CSV with minimal quoting, a line `---` between two tables, no newline at the end.

    Cells are written as read, those beginning with `=`, `+`, `-` or `@` included: a quote before them
    would change what the page says ("-12.50"). Who opens the file in a spreadsheet imports it as text.
    """
    blocks = []
    for table in tables:
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        for row in table.rows:
            if row == (TABLE_SEPARATOR,):
                buffer.write(f'"{TABLE_SEPARATOR}"\n')  # quoted, it is no separator
            else:
                writer.writerow(row)
        blocks.append(buffer.getvalue()[:-1])
    return f"\n{TABLE_SEPARATOR}\n".join(blocks)


def to_markdown(tables: Iterable[Table]) -> str:
    """Write tables as GitHub tables with a blank line between two; the first row is the header.

    Pipes are escaped, line breaks become `<br>`, and what would read as HTML is escaped.
    """
    return "\n\n".join("\n".join(_markdown_lines(table)) for table in tables)


def _markdown_lines(table: Table) -> Iterator[str]:
    header, *body = table.rows
    yield _markdown_row(header)
    yield _markdown_row(["---"] * len(header))
    for row in body:
        yield _markdown_row(row)


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_markdown_cell(cell) for cell in cells) + " |"


def _markdown_cell(text: str) -> str:
    text = _REFERENCE.sub(lambda match: "&amp;" + match[0][1:], text)
    text = _LOOKS_LIKE_TAG.sub("&lt;", text)
    return text.replace("|", "\\|").replace("\n", "<br>")


def table_parts(markdown: str) -> Iterator[tuple[bool, str]]:
    """Cut a text into HTML tables, from `<table>` to its `</table>` or the end, and what is around them."""
    start = depth = 0
    for edge in _TABLE_EDGE.finditer(markdown):
        if not edge[1]:
            if depth == 0:
                yield False, markdown[start : edge.start()]
                start = edge.start()
            depth += 1
        elif depth > 0:
            depth -= 1
            if depth == 0:
                yield True, markdown[start : edge.end()]
                start = edge.end()
    yield depth > 0, markdown[start:]


def html_tables(text: str) -> Iterator[list[list[TableCell]]]:
    """Yield the rows of each table; a `<table>` inside a cell belongs to the cell, another one starts anew."""
    rows: list[list[TableCell]] = []
    row: list[TableCell] | None = None
    cell_start: int | None = None
    spans = (1, 1)
    nested = 0
    for tag in TABLE_TAG.finditer(text):
        closing, name = bool(tag[1]), tag[2].lower()
        if cell_start is not None and name == "table" and (nested or not closing):
            nested += -1 if closing else 1
            continue
        if nested:
            continue
        if cell_start is not None and row is not None:
            row.append(TableCell(plain_cell(text[cell_start : tag.start()]), *spans))
            cell_start = None
        if name in ("table", "tr"):
            row = None
        if name == "table":
            yield rows
            rows = []
        elif not closing:
            if row is None:
                row = []
                rows.append(row)
            if name != "tr":
                cell_start, spans = tag.end(), _spans(tag[3])
    if cell_start is not None and row is not None:
        row.append(TableCell(plain_cell(text[cell_start:]), *spans))
    yield rows


def _spans(attributes: str) -> tuple[int, int]:
    spans = {name.lower(): max(int(value), 1) for name, value in _SPAN.findall(attributes)}
    return spans.get("rowspan", 1), spans.get("colspan", 1)


def _pipe_tables(text: str) -> Iterator[list[list[TableCell]]]:
    """Yield the rows of each GitHub table: a header, a rule of as many cells, then lines that hold a pipe."""
    lines = text.split("\n")
    position = 0
    while position < len(lines) - 1:
        header, rule = lines[position], lines[position + 1]
        position += 1
        if "|" not in header or not _is_rule(rule, cells=len(_pipe_cells(header))):
            continue
        rows = [_pipe_cells(header)]
        position += 1
        while position < len(lines) and "|" in lines[position]:
            rows.append(_pipe_cells(lines[position]))
            position += 1
        yield [[TableCell(plain_cell(cell.replace("\\|", "|"))) for cell in row] for row in rows]


def _is_rule(line: str, cells: int) -> bool:
    parts = _pipe_cells(line)
    return "|" in line and len(parts) == cells and all(_RULE_CELL.fullmatch(part) for part in parts)


def _pipe_cells(line: str) -> list[str]:
    line = line.strip().removeprefix("|")
    if line.endswith("|") and not line.endswith("\\|"):
        line = line[:-1]
    return _UNESCAPED_PIPE.split(line)


def plain_cell(fragment: str) -> str:
    """Return the text of a piece of HTML: markup resolved, entities decoded, blanks collapsed, lines kept."""
    text = _MARKUP.sub(_markup_as_text, _SPACES.sub(" ", fragment))
    text = _REFERENCE.sub(lambda match: html.unescape(match[0]), text)
    lines = (_SPACES.sub(" ", line).strip() for line in text.split("\n"))
    return "\n".join(line for line in lines if line)


def _markup_as_text(tag: re.Match[str]) -> str:
    name = tag[2].lower()
    if name in _LINE_BREAKERS:
        return "\n"
    return "" if tag[1] else _OPENERS_AS_TEXT.get(name, "")


def _grid(rows: list[list[TableCell]], budget: int) -> tuple[tuple[tuple[str, ...], ...], int]:
    """Lay cells out in a rectangle of at most `budget` cells; return it and how much of the budget it took.

    A rowspan covers rows that were written and adds none, as in browsers. Rows without a cell of
    their own are left out.
    """
    lines: list[list[str]] = []
    covered_until: dict[int, int] = {}
    spent = 0
    for number, cells in enumerate(rows):
        line: list[str] = []
        column = 0
        for cell in cells:
            while covered_until.get(column, 0) > number:
                column += 1
            if column >= MAX_COLUMNS:
                break
            line += [""] * (column - len(line)) + [cell.text]
            end = min(column + cell.colspan, MAX_COLUMNS)
            if cell.rowspan > 1:
                covered_until.update(dict.fromkeys(range(column, end), number + cell.rowspan))
            column = end
        spent += column
        if spent > budget:
            break
        if cells:
            lines.append(line)
    width = max(map(len, lines), default=0)
    del lines[budget // max(width, 1) :]
    grid = tuple(tuple(line + [""] * (width - len(line))) for line in lines)
    return grid, max(spent, len(grid) * width)
