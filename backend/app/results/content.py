"""What a block says, as the parts that documents are made of; HTML, Word and plain text are written from these.

A page of a book has no links and no scripts: what reads like one is text and stays it. Markup that is not known
is text, too, so nothing that stands on a page gets lost.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token

from app.ocr.tables import TABLE_TAG, html_tables, plain_cell, table_parts
from app.results.blocks import Block

LONGEST_MARKDOWN = 100_000
"""Characters; a longer stretch of text, which no model writes for one page, is taken as plain paragraphs."""

_CLOSING = {"(": "\\)", "[": "\\]"}
_STYLES = {"b": "b", "strong": "b", "i": "i", "em": "i", "u": "u", "ins": "u", "s": "s", "del": "s", "strike": "s"}
_STYLES |= {"sup": "sup", "sub": "sub", "code": "code"}
_MARKUP = re.compile(
    r"<(/?)(br|p|div|center|span|font|b|strong|i|em|u|ins|s|del|strike|sup|sub|code|big|small|mark)"
    r"(?=[\s/>])[^<>]{0,500}>",
    re.IGNORECASE,
)
_LINE_BREAKERS = frozenset({"br", "p", "div", "center"})
_OPENER = re.compile(r"\\([(\[])")
_BLANK_LINE = re.compile(r"\n[ \t]*\n")
_TOKEN_STYLES = {"strong": "b", "em": "i", "s": "s"}


@dataclass(frozen=True)
class Span:
    """Text of one look; `styles` are of b, i, u, s, sup, sub, code. A `formula` is LaTeX without its brackets."""

    text: str
    styles: frozenset[str] = frozenset()
    formula: bool = False


Spans = tuple[Span, ...]


@dataclass(frozen=True)
class Paragraph:
    """A paragraph; newlines in it are line breaks."""

    spans: Spans


@dataclass(frozen=True)
class Heading:
    """A heading of level 1 to 6."""

    level: int
    spans: Spans


@dataclass(frozen=True)
class Item:
    """One item of a list; `marker` is "-" or a number with its point, `depth` counts from 0."""

    depth: int
    marker: str
    spans: Spans


@dataclass(frozen=True)
class Code:
    """Lines to be kept as they are."""

    text: str


@dataclass(frozen=True)
class Formula:
    """A formula on lines of its own, as LaTeX without its brackets."""

    latex: str


@dataclass(frozen=True)
class Cell:
    """A cell of a table and how many rows and columns it claims, at least one."""

    spans: Spans
    rowspan: int = 1
    colspan: int = 1


@dataclass(frozen=True)
class Table:
    """Rows of cells as written: a cell that spans others is there once."""

    rows: tuple[tuple[Cell, ...], ...] = field(repr=False)


Part = Paragraph | Heading | Item | Code | Formula | Table


def read_content(block: Block) -> tuple[Part, ...]:
    """Return the parts of a block; nothing raises."""
    if block.kind == "data":
        return (Code(block.text),)
    if block.kind == "line":
        return (Paragraph((Span(block.text),)),) if block.text else ()
    parts: list[Part] = []
    for is_table, text in table_parts(block.text):
        if is_table:
            parts += _read_table(text)
        elif len(text) > LONGEST_MARKDOWN:
            parts += [Paragraph((Span(piece.strip("\n")),)) for piece in _BLANK_LINE.split(text) if piece.strip()]
        elif text.strip():
            parts += _read_tokens(_MARKDOWN.parse(text))
    if block.kind == "title" and len(parts) == 1 and isinstance(parts[0], Paragraph):
        return (Heading(1 if block.label == "title" else 2, parts[0].spans),)
    return tuple(parts)


def plain_text(spans: Iterable[Span]) -> str:
    """Return what spans say, formulas as LaTeX."""
    return "".join(_bracketed(span) if span.formula else span.text for span in spans)


def _bracketed(span: Span) -> str:
    return f"\\({span.text}\\)"


def part_text(part: Part) -> str:
    """Return a part as plain text: cells by tabs, one row to a line."""
    if isinstance(part, Table):
        return "\n".join("\t".join(plain_text(cell.spans).replace("\n", " ") for cell in row) for row in part.rows)
    if isinstance(part, Formula):
        return f"\\[{part.latex}\\]"
    if isinstance(part, Code):
        return part.text
    text = plain_text(part.spans)
    return f"{'  ' * part.depth}{part.marker} {text}" if isinstance(part, Item) else text


def _read_table(text: str) -> Iterator[Part]:
    if outside := _outside_cells(text):
        yield Paragraph((Span(outside),))
    for rows in html_tables(text):
        table = [tuple(Cell(_with_formulas(cell.text), cell.rowspan, cell.colspan) for cell in row) for row in rows]
        if any(table):
            yield Table(tuple(table))


def _outside_cells(text: str) -> str:
    """Return what stands in a table and in none of its cells, such as a caption."""
    pieces = []
    start, in_cell, nested = 0, False, 0
    for tag in TABLE_TAG.finditer(text):
        closing, name = bool(tag[1]), tag[2].lower()
        if not in_cell:
            pieces.append(text[start : tag.start()])
        if in_cell and name == "table" and (nested or not closing):
            nested += -1 if closing else 1
        elif not nested:
            in_cell = not closing and name in ("td", "th")
        start = tag.end()
    if not in_cell:
        pieces.append(text[start:])
    return plain_cell(" ".join(piece for piece in pieces if piece.strip()))


def _with_formulas(text: str) -> Spans:
    spans: list[Span] = []
    said = at = 0
    missing: set[str] = set()
    while opener := _OPENER.search(text, at):
        closing = _CLOSING[opener[1]]
        end = -1 if closing in missing else text.find(closing, opener.end())
        at = opener.end()
        if end < 0:
            missing.add(closing)
        elif latex := text[at:end].strip():
            spans += [Span(text[said : opener.start()]), Span(latex, formula=True)]
            said = at = end + len(closing)
    return tuple(span for span in [*spans, Span(text[said:])] if span.text)


def _read_tokens(tokens: Sequence[Token]) -> Iterator[Part]:
    lists: list[str] = []
    marker = ""
    heading = 0
    row: list[Cell] | None = None
    rows: list[tuple[Cell, ...]] = []
    for token in tokens:
        if token.type in ("bullet_list_open", "ordered_list_open"):
            lists.append(token.type)
        elif token.type in ("bullet_list_close", "ordered_list_close"):
            lists.pop()
        elif token.type == "list_item_open":
            marker = token.info + token.markup if lists[-1] == "ordered_list_open" else "-"
        elif token.type == "list_item_close":
            if marker:
                yield Item(len(lists) - 1, marker, ())
            marker = ""
        elif token.type == "heading_open":
            heading = int(token.tag[1:])
        elif token.type == "heading_close":
            heading = 0
        elif token.type == "table_open":
            rows = []
        elif token.type == "tr_open":
            row = []
        elif token.type == "tr_close":
            rows.append(tuple(row or ()))
            row = None
        elif token.type == "table_close":
            yield Table(tuple(rows))
        elif token.type == "formula_block":
            yield Formula(token.content)
        elif token.type in ("fence", "code_block"):
            yield Code(token.content.removesuffix("\n"))
        elif token.type == "inline":
            spans = _read_inline(token.children or [])
            if row is not None:
                row.append(Cell(spans))
            elif heading:
                yield Heading(heading, spans)
            elif marker:
                yield Item(len(lists) - 1, marker, spans)
                marker = ""
            elif len(spans) == 1 and spans[0].formula and token.content.startswith("\\["):
                yield Formula(spans[0].text)
            elif spans:
                yield Paragraph(spans)


def _read_inline(tokens: Sequence[Token]) -> Spans:
    spans: list[Span] = []
    styles: list[str] = []

    def say(text: str) -> None:
        look = frozenset(styles)
        if spans and spans[-1].styles == look and not spans[-1].formula:
            spans[-1] = Span(spans[-1].text + text, look)
        elif text:
            spans.append(Span(text, look))

    for token in tokens:
        kind, _, edge = token.type.rpartition("_")
        if edge == "open" and kind in _TOKEN_STYLES:
            styles.append(_TOKEN_STYLES[kind])
        elif edge == "close" and kind in _TOKEN_STYLES:
            _forget(styles, _TOKEN_STYLES[kind])
        elif token.type in ("softbreak", "hardbreak"):
            say("\n")
        elif token.type == "formula":
            spans.append(Span(token.content, formula=True))
        elif token.type == "code_inline":
            spans.append(Span(token.content, frozenset({*styles, "code"})))
        else:
            _say_markup(token.content, styles, say)
    if spans and not spans[0].formula:
        spans[0] = Span(spans[0].text.lstrip(), spans[0].styles)
    if spans and not spans[-1].formula:
        spans[-1] = Span(spans[-1].text.rstrip(), spans[-1].styles)
    return tuple(span for span in spans if span.text)


def _say_markup(text: str, styles: list[str], say: Callable[[str], None]) -> None:
    end = 0
    for tag in _MARKUP.finditer(text):
        say(text[end : tag.start()])
        end = tag.end()
        name = tag[2].lower()
        if name in _LINE_BREAKERS:
            say("\n" if name == "br" else "")
        elif name in _STYLES and tag[1]:
            _forget(styles, _STYLES[name])
        elif name in _STYLES:
            styles.append(_STYLES[name])
    say(text[end:])


def _forget(styles: list[str], style: str) -> None:
    if style in styles:
        styles.reverse()
        styles.remove(style)
        styles.reverse()


def _formula_inline(state: StateInline, silent: bool) -> bool:
    """Read `\\( \\)` and `\\[ \\]`; one that is never closed stays text."""
    closing = _CLOSING.get(state.src[state.pos + 1 : state.pos + 2]) if state.src[state.pos] == "\\" else None
    if closing is None:
        return False
    # Searched for in vain once in each text, or many openers would each read all that follows.
    end = -1 if state.env.get(closing) is state.src else state.src.find(closing, state.pos + 2)
    if end < 0:
        state.env[closing] = state.src
    latex = state.src[state.pos + 2 : max(end, 0)].strip()
    if not silent and latex:
        state.push("formula", "math", 0).content = latex
    elif not silent:
        state.pending += state.src[state.pos : state.pos + 2]
    state.pos = end + 2 if latex else state.pos + 2
    return True


def _formula_block(state: StateBlock, line: int, last: int, silent: bool) -> bool:
    """Read `\\[` at the start of a line to `\\]` at the end of one, before lists and headings see what is between."""
    start = state.bMarks[line] + state.tShift[line]
    if not state.src.startswith("\\[", start) or state.env.get("no formula after", len(state.src)) <= start:
        return False
    end = state.src.find("\\]", start + 2, state.eMarks[last - 1])
    if end < 0:
        state.env["no formula after"] = start
        return False
    closes = line
    while state.eMarks[closes] < end:
        closes += 1
    latex = state.src[start + 2 : end].strip()
    if not latex or state.src[end + 2 : state.eMarks[closes]].strip():
        return False
    if not silent:
        token = state.push("formula_block", "math", 0)
        token.block = True
        token.content = latex
        state.line = closes + 1
    return True


def _reader() -> MarkdownIt:
    reader = MarkdownIt("zero")
    reader.enable(["table", "fence", "list", "heading", "backticks", "emphasis", "escape", "newline", "entity"])
    reader.inline.ruler.before("escape", "formula", _formula_inline)
    reader.block.ruler.before("fence", "formula_block", _formula_block, {"alt": ["paragraph", "list"]})
    return reader


_MARKDOWN = _reader()
