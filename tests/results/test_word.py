"""DOCX, opened again with python-docx."""

from __future__ import annotations

import io
import time
import zipfile
from pathlib import Path
from typing import Any

import docx
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


def test_formulas_are_kept_as_latex(tmp_path: Path) -> None:
    (paragraph,) = opened(tmp_path, page("\\[\\frac{a}{b}\\]")).paragraphs
    assert paragraph.text == "\\frac{a}{b}"
    assert paragraph.runs[0].font.name == "Cambria Math"


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
