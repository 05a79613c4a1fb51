"""DOCX, opened again with python-docx."""

from __future__ import annotations

import io
import time
import zipfile
from pathlib import Path
from typing import Any

import docx
import pytest
from docx.oxml.ns import qn
from lxml import etree

from app.results.document import Pictures
from app.results.pages import PageResult
from tests.results.documents import Album, failed, figure, layout, page, printed, tag, written


def opened(folder: Path, *pages: PageResult, pictures: Pictures | None = None) -> Any:
    return docx.Document(io.BytesIO(written(folder, "docx", pages, pictures=pictures)))


def test_headings_paragraphs_lists_and_styles(tmp_path: Path) -> None:
    raw = layout(("title", "# Harbour"), ("text", "one\ntwo **b** H<sub>2</sub>O\tx"), ("text", "1. a\n   - b"))
    found = opened(tmp_path, page(raw))
    assert [(paragraph.style.name, paragraph.text) for paragraph in found.paragraphs] == [
        ("Heading 1", "Harbour"),
        ("Normal", "one\ntwo b H2O\tx"),
        ("Normal", "1.\ta"),
        ("Normal", "•\tb"),
    ]
    runs = found.paragraphs[1].runs
    assert [run.text for run in runs if run.bold] == ["b"]
    assert [run.text for run in runs if run.font.subscript] == ["2"]
    assert found.core_properties.title == "Ships & <quays>"


def test_tables_are_real_and_their_cells_merged(tmp_path: Path) -> None:
    raw = "<table><tr><td rowspan=2>Port</td><td colspan=2>Tons</td></tr><tr><td>1</td><td>2</td></tr><tr><td>Kiel"
    (table,) = opened(tmp_path, page(raw)).tables
    assert [[cell.text for cell in row.cells] for row in table.rows] == [
        ["Port", "Tons", "Tons"],
        ["Port", "1", "2"],
        ["Kiel", "", ""],
    ]
    assert table.cell(0, 0)._tc is table.cell(1, 0)._tc
    assert table.style.name == "Table Grid"


def test_a_table_wider_than_word_opens_is_written_as_lines(tmp_path: Path) -> None:
    found = opened(tmp_path, page("<table><tr>" + "<td>x</td>" * 64 + "</tr></table>"))
    assert not found.tables
    assert found.paragraphs[0].text == "\t".join("x" * 64)


def test_figures_are_as_wide_as_on_the_page(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    printed().save(buffer, "JPEG")
    pages = page(layout(("image", "")), figures=(figure(100, 0, 900, 80),))
    (shape,) = opened(tmp_path, pages, pictures=Album(buffer.getvalue())).inline_shapes
    assert round(shape.width.inches, 2) == round(6 * 800 / 999, 2)
    for pictures in (None, Album(b"damaged"), Album(b"")):
        assert opened(tmp_path, pages, pictures=pictures).paragraphs[0].text == "[images/page-1-img-1.jpg]"


def test_pages_are_parted_and_failed_ones_are_there(tmp_path: Path) -> None:
    lines = f"{tag('One', 0, 0, 9, 9)}\n{tag('Two', 0, 9, 9, 9)}"
    found = opened(tmp_path, page(lines, mode="plain_ocr"), failed(2))
    assert [paragraph.text for paragraph in found.paragraphs] == [
        "One\nTwo",
        "",
        "Page 2 could not be read: Reading took too long. -- <b>",
    ]
    assert len(found.element.body.findall(f".//{qn('w:br')}[@{qn('w:type')}='page']")) == 1


def equations(folder: Path, raw: str) -> list[str]:
    """Each equation as nested names, with what it says."""

    def told(element: Any) -> str:
        name = etree.QName(element).localname
        if name == "r":
            return "".join(element.itertext())
        return f"{name}({' '.join(map(told, (part for part in element if not part.tag.endswith('Pr'))))})"

    found = opened(folder, page(raw)).element.body
    return [told(element) for element in found.iter(qn("m:oMath"))]


@pytest.mark.parametrize(
    ("latex", "equation"),
    [
        (r"\frac{a}{b}", "f(num(a) den(b))"),
        (r"x_i^2+\sqrt[3]{y}", "sSubSup(e(x) sub(i) sup(2)) + rad(deg(3) e(y))"),
        (r"\sum_{i=1}^{n} i = k", "nary(sub(i = 1) sup(n) e(i)) = k"),
        (r"\int_0^1 \left(x\right]", "nary(sub(0) sup(1) e(d(e(x))))"),
        (r"\hat{x}\overline{y}\underbrace{z}_n", "acc(e(x)) bar(e(y)) limLow(e(groupChr(e(z))) lim(n))"),
        (r"\begin{pmatrix}a&b\\c&d\end{pmatrix}", "d(e(m(mr(e(a) e(b)) mr(e(c) e(d)))))"),
        (r"\begin{cases}1&x\\0\end{cases}", "d(e(m(mr(e(1) e(x)) mr(e(0) e()))))"),
        (r"\boxed{\text{if }x}", "borderBox(e(if\u00a0 x))"),
        (r"((a)", "( d(e(a))"),
    ],
)
def test_formulas_are_equations_of_word(tmp_path: Path, latex: str, equation: str) -> None:
    assert equations(tmp_path, f"\\[{latex}\\]\n\nso \\({latex}\\) is") == [f"oMath({equation})"] * 2


def test_a_formula_on_its_own_lines_stands_alone_and_others_in_their_sentence(tmp_path: Path) -> None:
    alone, sentence = opened(tmp_path, page("\\[x\\]\n\nLet \\(y\\) be.")).paragraphs
    assert [etree.QName(child).localname for child in alone._p] == ["pPr", "oMathPara"]
    assert [etree.QName(child).localname for child in sentence._p] == ["r", "oMath", "r"]


@pytest.mark.parametrize("latex", ["\\frac", "\\sqrt{" * 60 + "x" + "}" * 60, "(" * 60 + "x" + ")" * 60, "x" * 2001])
def test_what_is_no_formula_or_too_deep_is_kept_as_latex(tmp_path: Path, latex: str) -> None:
    found = opened(tmp_path, page(f"\\[{latex}\\]"))
    assert found.paragraphs[0].text == latex
    assert found.paragraphs[0].runs[0].font.name == "Cambria Math"


def test_elements_stand_in_the_order_of_the_schema(tmp_path: Path) -> None:
    """In run properties fonts come before weight, in cell properties spans before merges."""
    raw = (
        "`x` ***y***<sup>2</sup>\n\n<table><tr><td rowspan=2 colspan=2>a</td><td>b</td></tr><tr><td>c</td></tr></table>"
    )
    data = written(tmp_path, "docx", [page(raw)])
    with zipfile.ZipFile(io.BytesIO(data)) as found:
        tree = etree.fromstring(found.read("word/document.xml"))
    order = {"rPr": ["rFonts", "b", "i", "strike", "u", "vertAlign"], "tcPr": ["gridSpan", "vMerge"]}
    for name, children in order.items():
        for element in tree.iter(qn(f"w:{name}")):
            places = [children.index(etree.QName(child).localname) for child in element]
            assert places == sorted(places)
    for cell in tree.iter(qn("w:tc")):
        assert cell[-1].tag == qn("w:p")


def test_a_table_of_ten_thousand_rows_takes_seconds(tmp_path: Path) -> None:
    started = time.process_time()
    raw = "<table>" + "<tr><td>a</td><td rowspan=2>b</td></tr><tr><td>c</td></tr>" * 5_000 + "</table>"
    (table,) = opened(tmp_path, page(raw)).tables
    assert len(table._tbl.tr_lst) == 10_000
    assert time.process_time() - started < 20
