"""DOCX. The format is one XML tree, so all pages are in memory until `close`: about 5 KB each beside the figures."""

from __future__ import annotations

import re
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

import docx
from docx.image.exceptions import InvalidImageStreamError, UnexpectedEndOfFileError, UnrecognizedImageError
from docx.oxml import OxmlElement
from docx.oxml.ns import qn
from docx.shared import Inches

from app.results.blocks import Block
from app.results.content import Code, Formula, Heading, Item, Part, Span, Table, part_text
from app.results.document import Document, Options, Pictures, figure_name
from app.results.grid import place_cells
from app.results.omml import omml
from app.results.pages import PageResult
from app.results.read import ReadPage
from app.results.text import failure_sentence, xml_text

MOST_COLUMNS = 63
"""Word opens no table with more; such a table is written as lines with tabs."""

_LINE_WIDTH = 6.0
"""Inches between the margins of the template's page."""

_STYLES = {"b": ("w:b", None), "i": ("w:i", None), "u": ("w:u", "single"), "s": ("w:strike", None)}
_STYLES |= {"sup": ("w:vertAlign", "superscript"), "sub": ("w:vertAlign", "subscript")}
# The order that the schema asks for (ECMA-376 part 1, 17.3.2.28).
_STYLE_ORDER = ("b", "i", "s", "u", "sup", "sub")
_BREAKS = re.compile(r"([\n\t])")
_LONGEST_TITLE = 255


class WordWriter:
    """Writes headings, paragraphs, tables with their merged cells, figures, and a page break between two pages."""

    def __init__(self, path: Path, document: Document, pictures: Pictures, options: Options) -> None:
        self._path = path
        self._pictures = pictures
        self._document = docx.Document()
        self._document.core_properties.title = xml_text(document.title)[:_LONGEST_TITLE]
        self._document.core_properties.author = ""
        self._end = self._document.element.body.sectPr
        self._first = True

    def add(self, page: ReadPage) -> None:
        """Write one page."""
        if not self._first:
            self._append(_paragraph(_break("page")))
        self._first = False
        result = page.result
        if result.failure is not None:
            self._append(
                _paragraph(*_runs([Span(failure_sentence(result.number, result.failure.detail))]), style="IntenseQuote")
            )
        lines: list[Any] = []
        for block, parts in page.content:
            if lines and not (block.kind == "line" and block.goes_on):
                self._append(_paragraph(*lines))
                lines = []
            if block.kind == "line":
                lines += [*([_break()] if lines else []), *_runs([Span(block.text)])]
                continue
            for number in block.figures:
                self._append(self._figure(result, block, number))
            for part in parts:
                for element in _elements(part):
                    self._append(element)
        if lines:
            self._append(_paragraph(*lines))

    def close(self) -> None:
        """Save the file."""
        self._document.save(str(self._path))

    def abandon(self) -> None:
        """There is nothing to let go of."""

    def _append(self, element: Any) -> None:
        # python-docx looks for the end of the body each time, which takes as long as the document is.
        self._end.addprevious(element)

    def _figure(self, result: PageResult, block: Block, number: int) -> Any:
        name = figure_name(result.number, number)
        data = self._pictures.figure(result.number, number)
        boxes = [box for box in block.boxes if not box.empty]
        box = boxes[block.figures.index(number)] if len(boxes) == len(block.figures) else None
        share = (box.x2 - box.x1) / result.width if box is not None and result.width else 1.0
        try:
            inline = self._document.part.new_pic_inline(
                BytesIO(data or b""), width=Inches(max(0.2, min(1.0, share) * _LINE_WIDTH)), height=None
            )
        except (UnrecognizedImageError, InvalidImageStreamError, UnexpectedEndOfFileError, ZeroDivisionError):
            return _paragraph(*_runs([Span(f"[{name}]")]))
        run = OxmlElement("w:r")
        drawing = OxmlElement("w:drawing")
        drawing.append(inline)
        run.append(drawing)
        return _paragraph(run)


def _elements(part: Part) -> Iterable[Any]:
    if isinstance(part, Table):
        widest = max((placed.column + placed.colspan for row in place_cells(part) for placed in row), default=0)
        if 0 < widest <= MOST_COLUMNS:
            # Word joins tables that nothing stands between.
            return [_table(part, widest), _paragraph()]
        return [_paragraph(*_runs([Span(line)])) for line in part_text(part).split("\n")]
    if isinstance(part, Formula):
        equation = omml(part.latex, display=True)
        runs = [equation] if equation is not None else _runs([Span(part.latex, formula=True)])
        return [_paragraph(*runs, centred=True)]
    if isinstance(part, Code):
        return [_paragraph(*_runs([Span(part.text, frozenset({"code"}))]))]
    if isinstance(part, Heading):
        return [_paragraph(*_runs(part.spans), style=f"Heading{part.level}")]
    if isinstance(part, Item):
        marker = "•" if part.marker == "-" else part.marker
        return [_paragraph(*_runs([Span(f"{marker}\t"), *part.spans]), depth=part.depth + 1)]
    return [_paragraph(*_runs(part.spans))]


def _table(table: Table, width: int) -> Any:
    element = OxmlElement("w:tbl")
    properties = OxmlElement("w:tblPr")
    properties.append(_valued("w:tblStyle", "TableGrid"))
    size = OxmlElement("w:tblW")
    size.set(qn("w:w"), "0")
    size.set(qn("w:type"), "auto")
    properties.append(size)
    grid = OxmlElement("w:tblGrid")
    for _ in range(width):
        grid.append(OxmlElement("w:gridCol"))
    element.append(properties)
    element.append(grid)
    for placed_row in place_cells(table):
        row = OxmlElement("w:tr")
        column = 0
        for placed in placed_row:
            for _ in range(placed.column - column):
                row.append(_cell((), 1, None))
            merge = "continue" if placed.cell is None else "restart" if placed.rowspan > 1 else None
            row.append(_cell(placed.cell.spans if placed.cell else (), placed.colspan, merge))
            column = placed.column + placed.colspan
        for _ in range(width - column):
            row.append(_cell((), 1, None))
        element.append(row)
    return element


def _cell(spans: Iterable[Span], colspan: int, merge: str | None) -> Any:
    cell = OxmlElement("w:tc")
    properties = OxmlElement("w:tcPr")
    if colspan > 1:
        properties.append(_valued("w:gridSpan", str(colspan)))
    if merge is not None:
        properties.append(_valued("w:vMerge", merge))
    cell.append(properties)
    cell.append(_paragraph(*_runs(spans)))
    return cell


def _paragraph(*runs: Any, style: str | None = None, centred: bool = False, depth: int = 0) -> Any:
    paragraph = OxmlElement("w:p")
    properties = OxmlElement("w:pPr")
    if style:
        properties.append(_valued("w:pStyle", style))
    if depth:
        indent = OxmlElement("w:ind")
        indent.set(qn("w:left"), str(360 * depth))
        indent.set(qn("w:hanging"), "360")
        properties.append(indent)
    if centred:
        properties.append(_valued("w:jc", "center"))
    if len(properties):
        paragraph.append(properties)
    for run in runs:
        paragraph.append(run)
    return paragraph


def _runs(spans: Iterable[Span]) -> list[Any]:
    runs = []
    for span in spans:
        if span.formula and (equation := omml(span.text, display=False)) is not None:
            runs.append(equation)
            continue
        run = OxmlElement("w:r")
        face = "Cambria Math" if span.formula else "Courier New" if "code" in span.styles else None
        properties = OxmlElement("w:rPr")
        if face:
            fonts = OxmlElement("w:rFonts")
            for name in ("w:ascii", "w:hAnsi"):
                fonts.set(qn(name), face)
            properties.append(fonts)
        for style in _STYLE_ORDER:
            if style in span.styles and not (style == "sub" and "sup" in span.styles):
                properties.append(_valued(*_STYLES[style]))
        if len(properties):
            run.append(properties)
        for piece in _BREAKS.split(xml_text(span.text).replace("\r", "\n")):
            if piece in ("\n", "\t"):
                run.append(OxmlElement("w:br" if piece == "\n" else "w:tab"))
            elif piece:
                text = OxmlElement("w:t")
                text.set("{http://www.w3.org/XML/1998/namespace}space", "preserve")
                text.text = piece
                run.append(text)
        runs.append(run)
    return runs


def _break(kind: str | None = None) -> Any:
    run = OxmlElement("w:r")
    line_break = OxmlElement("w:br")
    if kind:
        line_break.set(qn("w:type"), kind)
    run.append(line_break)
    return run


def _valued(name: str, value: str | None) -> Any:
    element = OxmlElement(name)
    if value is not None:
        element.set(qn("w:val"), value)
    return element
