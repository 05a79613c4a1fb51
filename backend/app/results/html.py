"""One HTML file with everything in it: no script, nothing fetched from anywhere."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Iterator
from pathlib import Path

import nh3

from app.results.blocks import RUNNING, Block
from app.results.content import Code, Formula, Heading, Item, Part, Span, Table
from app.results.document import Document, Options, Pictures, figure_name
from app.results.formulas import to_mathml
from app.results.grid import place_cells
from app.results.pages import PageResult
from app.results.plain import open_text
from app.results.read import ReadPage, read_pages
from app.results.text import failure_sentence, xml_text

_MATH = {
    "math",
    "semantics",
    "annotation",
    "mrow",
    "mi",
    "mn",
    "mo",
    "mtext",
    "mspace",
    "ms",
    "mfrac",
    "msqrt",
    "mroot",
    "mstyle",
    "merror",
    "mpadded",
    "mphantom",
    "menclose",
    "msub",
    "msup",
    "msubsup",
    "munder",
    "mover",
    "munderover",
    "mmultiscripts",
    "mtable",
    "mtr",
    "mtd",
    "mfenced",
}
_TEXT = {
    "p",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "br",
    "b",
    "i",
    "u",
    "s",
    "sup",
    "sub",
    "code",
    "pre",
    "ul",
    "li",
    "figure",
    "img",
    "figcaption",
    "div",
    "span",
}
_TABLE = {"table", "tbody", "tr", "td"}
_ATTRIBUTES = {
    **{tag: {"displaystyle", "mathvariant", "stretchy", "fence", "form", "separator"} for tag in _MATH},
    "math": {"display"},
    "mover": {"accent"},
    "munder": {"accentunder"},
    "munderover": {"accent", "accentunder"},
    "mo": {"stretchy", "fence", "form", "separator", "movablelimits", "symmetric", "minsize", "maxsize", "accent"},
    "mspace": {"width", "linebreak"},
    "mfrac": {"linethickness"},
    "mtable": {"columnalign", "rowspacing", "columnspacing", "displaystyle"},
    "mtd": {"columnalign"},
    "menclose": {"notation"},
    "annotation": {"encoding"},
    "td": {"rowspan", "colspan"},
    "img": {"src", "alt"},
    "p": {"class", "dir"},
    "div": {"class", "dir", "data-block"},
    "li": {"class"},
    "span": {"class", "data-block"},
}
_STYLE = """
:root{color-scheme:light dark}
body{font:1rem/1.5 system-ui,sans-serif;max-width:50rem;margin:auto;padding:1rem;overflow-wrap:anywhere}
section{border-bottom:1px solid #8888;padding:1rem 0}
table{border-collapse:collapse;display:block;overflow-x:auto;margin:1rem 0}
td{border:1px solid #8888;padding:.2rem .5rem;vertical-align:top;white-space:pre-line}
img{max-width:100%;background:#fff}
pre{white-space:pre-wrap}
ul{list-style:none;padding-left:1rem}
.deep{margin-left:2rem}
.aside,.page{opacity:.7;font-size:.85rem}
.failed{border-left:4px solid #c33;padding-left:.5rem}
"""


class HtmlWriter:
    """Writes a page to a section; figures are in the file, which can be sent and kept alone."""

    def __init__(self, path: Path, document: Document, pictures: Pictures, options: Options) -> None:
        self._pictures = pictures
        self._file = open_text(path)
        title = html.escape(xml_text(document.title))
        language = html.escape(options.language or guess_language(document))
        self._file.write(
            f'<!DOCTYPE html>\n<html lang="{language}">\n<head>\n<meta charset="utf-8">\n'
            '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
            "style-src 'unsafe-inline'\">\n"
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        )

    def add(self, page: ReadPage) -> None:
        """Write one page."""
        number = page.result.number
        self._file.write(f'<section id="page-{number}" aria-label="Page {number}">\n<p class="page">{number}</p>\n')
        for piece in _pieces(page, self._pictures):
            self._file.write(_sanitised(piece) + "\n")
        self._file.write("</section>\n")

    def close(self) -> None:
        """Finish the file."""
        self._file.write("</main>\n</body>\n</html>\n")
        self._file.close()

    def abandon(self) -> None:
        """Let go of the file."""
        self._file.close()


def page_html(result: PageResult, pictures: Pictures) -> str:
    """Return one page as sanitised HTML without a frame, its figures inside: for a page of one's own.

    What a block gave is inside an element whose data-block is the block's number, from 0 on, in `read_blocks`.
    """
    document = Document(title="", pages=(result,))
    page = next(read_pages(document, Options()))
    return "\n".join(_sanitised(piece) for piece in _pieces(page, pictures, numbered=True))


def _pieces(page: ReadPage, pictures: Pictures, *, numbered: bool = False) -> Iterator[str]:
    failure = page.result.failure
    if failure is not None:
        yield f'<p class="failed">{_escaped(failure_sentence(page.result.number, failure.detail))}</p>'
    for lines in _with_lines_joined(page):
        if lines[0][1].kind == "line":
            inner = (_numbered("span", number, _escaped(line.text), numbered) for number, line, _ in lines)
            yield f'<p dir="auto">{"<br>".join(inner)}</p>'
            continue
        number, block, parts = lines[0]
        figures = (_figure(page.result.number, figure, pictures) for figure in block.figures)
        body = "".join((*figures, *map(_part, parts)))
        shown = f'<div class="aside">{body}</div>' if block.kind in RUNNING and body else body
        yield _numbered("div", number, shown, numbered)


def _numbered(tag: str, number: int, inner: str, numbered: bool) -> str:
    return f'<{tag} data-block="{number}">{inner}</{tag}>' if numbered and inner else inner


def _figure(page: int, number: int, pictures: Pictures) -> str:
    data = pictures.figure(page, number)
    name = figure_name(page, number)
    if data is None:
        return f"<figure><figcaption>[{name}]</figcaption></figure>"
    return f'<figure><img alt="{name}" src="data:image/jpeg;base64,{base64.b64encode(data).decode()}"></figure>'


def guess_language(document: Document) -> str:
    """Return the language of the first page with text: by its script, so "en" for all that is Latin."""
    for page in document.pages:
        text = page.text or page.raw_text
        if text.strip():
            han = sum("\u4e00" <= character <= "\u9fff" for character in text)
            kana = sum("\u3040" <= character <= "\u30ff" for character in text)
            hangul = sum("\uac00" <= character <= "\ud7a3" for character in text)
            if max(han, kana, hangul) * 4 < len(text):
                return "en"
            return "ja" if kana * 10 > han else "ko" if hangul > han else "zh"
    return "en"


def _with_lines_joined(page: ReadPage) -> Iterator[list[tuple[int, Block, tuple[Part, ...]]]]:
    """Yield each block, with its number, alone; printed lines without a blank line between them together."""
    joined: list[tuple[int, Block, tuple[Part, ...]]] = []
    for number, (block, parts) in enumerate(page.content):
        if joined and not (block.kind == joined[0][1].kind == "line" and block.goes_on):
            yield joined
            joined = []
        joined.append((number, block, parts))
    if joined:
        yield joined


def _part(part: Part) -> str:
    if isinstance(part, Table):
        return _table(part)
    if isinstance(part, Formula):
        return f"<p>{mathml(part.latex, 'block')}</p>"
    if isinstance(part, Code):
        return f"<pre><code>{_escaped(part.text)}</code></pre>"
    inner = _spans(part.spans)
    if isinstance(part, Heading):
        return f"<h{part.level}>{inner}</h{part.level}>"
    if isinstance(part, Item):
        deep = ' class="deep"' if part.depth else ""
        return f"<ul><li{deep}>{_escaped('•' if part.marker == '-' else part.marker)} {inner}</li></ul>"
    return f'<p dir="auto">{inner}</p>'


def _table(table: Table) -> str:
    rows = []
    for row in place_cells(table):
        cells = []
        for placed in row:
            if placed.cell is not None:
                spans = f' rowspan="{placed.rowspan}"' if placed.rowspan > 1 else ""
                spans += f' colspan="{placed.colspan}"' if placed.colspan > 1 else ""
                cells.append(f"<td{spans}>{_spans(placed.cell.spans)}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table><tbody>{''.join(rows)}</tbody></table>"


def _spans(spans: Iterable[Span]) -> str:
    pieces = []
    for span in spans:
        if span.formula:
            pieces.append(mathml(span.text, "inline"))
            continue
        inner = _escaped(span.text).replace("\n", "<br>")
        for style in sorted(span.styles):
            inner = f"<{style}>{inner}</{style}>"
        pieces.append(inner)
    return "".join(pieces)


def _escaped(text: str) -> str:
    return html.escape(xml_text(text), quote=False)


def mathml(latex: str, display: str) -> str:
    """Return a formula as MathML with its LaTeX as annotation; what cannot be converted, as LaTeX in code style."""
    source = _escaped(latex)
    converted = to_mathml(latex)
    if converted is None:
        return f"<code>{source}</code>"
    _, _, inner = converted.partition(">")
    inner = inner.removesuffix("</math>")
    annotation = f'<annotation encoding="application/x-tex">{source}</annotation>'
    return f'<math display="{display}"><semantics>{inner}{annotation}</semantics></math>'


def _sanitised(piece: str) -> str:
    """Run the last check: all of this was escaped piece by piece, and nh3 removes what should have been."""
    return nh3.clean(
        piece,
        tags=_MATH | _TEXT | _TABLE,
        attributes=_ATTRIBUTES,
        url_schemes={"data"},
        link_rel=None,
        strip_comments=True,
    )
