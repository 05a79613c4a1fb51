"""HTML: one file, real tables, formulas as MathML, and nothing that runs or is fetched."""

from __future__ import annotations

from pathlib import Path

import lxml.html
import pytest

from app.results.document import Options
from app.results.html import mathml
from tests.results.documents import Album, failed, figure, layout, page, tag, written


def body(folder: Path, raw: str, mode: str = "markdown", **more: object) -> str:
    """What a page's section holds behind its number."""
    text = written(folder, "html", [page(raw, mode=mode, **more)]).decode()
    return text.partition('<p class="page">1</p>\n')[2].partition("</section>")[0].strip()


def test_headings_paragraphs_and_lists(tmp_path: Path) -> None:
    raw = layout(("title", "# A & B"), ("text", "one\ntwo **b**"), ("text", "1. x\n   - y"), ("page_number", "7"))
    assert body(tmp_path, raw).split("\n") == [
        "<h1>A &amp; B</h1>",
        '<p dir="auto">one<br>two <b>b</b></p>',
        '<ul><li>1. x</li></ul><ul><li class="deep">• y</li></ul>',
        '<div class="aside"><p dir="auto">7</p></div>',
    ]


def test_printed_lines_stand_in_one_paragraph(tmp_path: Path) -> None:
    raw = f"{tag('<One>', 0, 0, 9, 9)}\n{tag('Two', 0, 9, 9, 9)}\n\n{tag('Three', 0, 9, 9, 9)}"
    assert body(tmp_path, raw, "plain_ocr") == '<p dir="auto">&lt;One&gt;<br>Two</p>\n<p dir="auto">Three</p>'


def test_tables_keep_their_spans(tmp_path: Path) -> None:
    raw = "<table><tr><td rowspan=2>Port</td><td colspan=2>Tons</td></tr><tr><td>1</td><td onclick=x>2"
    assert body(tmp_path, raw) == (
        '<table><tbody><tr><td rowspan="2">Port</td><td colspan="2">Tons</td></tr>'
        "<tr><td>1</td><td>2</td></tr></tbody></table>"
    )


def test_a_span_larger_than_the_table_is_cut(tmp_path: Path) -> None:
    raw = "<table><tr><td rowspan=999999999 colspan=999999999>a</td></tr><tr><td>b</td></tr></table>"
    assert 'rowspan="2" colspan="1000">a<' in body(tmp_path, raw)


def test_formulas_are_mathml_with_their_latex(tmp_path: Path) -> None:
    assert body(tmp_path, "\\(x < 1\\)", "plain_ocr") == (
        '<p dir="auto"><math display="inline"><semantics><mrow><mi>x</mi><mo>&lt;</mo><mn>1</mn></mrow>'
        '<annotation encoding="application/x-tex">x &lt; 1</annotation></semantics></math></p>'
    )
    assert body(tmp_path, "\\[\n\\frac{a}{b}\n\\]", "plain_ocr").startswith(
        '<p><math display="block"><semantics><mrow><mfrac><mrow><mi>a</mi></mrow><mrow><mi>b</mi></mrow></mfrac></mrow>'
    )


@pytest.mark.parametrize("latex", ["\\frac", "a_b_c", "{" * 1500, "\\left(", "\\begin{x}", "x" * 5000, "^"])
def test_what_is_no_formula_is_shown_as_written(latex: str) -> None:
    assert latex in mathml(latex, "inline")


def test_figures_are_in_the_file(tmp_path: Path) -> None:
    pages = [page(layout(("image", "")), figures=(figure(1, 1, 9, 9),))]
    with_pictures = written(tmp_path, "html", pages, pictures=Album(b"\xff\xd8x")).decode()
    assert '<figure><img alt="images/page-1-img-1.jpg" src="data:image/jpeg;base64,/9h4"></figure>' in with_pictures
    assert (
        "<figure><figcaption>[images/page-1-img-1.jpg]</figcaption></figure>"
        in written(tmp_path, "html", pages).decode()
    )


def test_nothing_runs_and_nothing_is_fetched(tmp_path: Path) -> None:
    """What would do so stands there as text."""
    raw = (
        "<script>alert(1)</script> <img src=http://x/y onerror=z> [a](javascript:b) ![c](http://d/e) <svg onload=f>\n\n"
        "<table><tr><td><a href='javascript:g'>h</a><iframe src=i></td></tr></table> \\(\\href{javascript:j}{k}\\)"
    )
    tree = lxml.html.fromstring(written(tmp_path, "html", [page(raw, mode="plain_ocr")]))
    found = {element.tag for element in tree.iter() if isinstance(element.tag, str)}
    assert not found & {"script", "img", "a", "svg", "iframe", "link", "object"}
    assert not [
        name for element in tree.iter() for name in element.attrib if name in ("href", "src") or name[:2] == "on"
    ]
    text = tree.text_content()
    for said in ("<script>alert(1)</script>", "onerror=z", "[a](javascript:b)", "![c](http://d/e)", "<svg onload=f>"):
        assert said in text


def test_the_page_says_its_title_language_and_policy(tmp_path: Path) -> None:
    tree = lxml.html.fromstring(written(tmp_path, "html", [failed(1), page("港口公司的发票", 2, mode="plain_ocr")]))
    assert tree.get("lang") == "zh"
    assert tree.findtext("head/title") == "Ships & <quays>"
    assert tree.xpath("//meta[@http-equiv='Content-Security-Policy']/@content") == [
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    ]
    assert tree.xpath("string(//*[@class='failed'])") == "Page 1 could not be read: Reading took too long. -- <b>"
    assert 'lang="de-AT"' in written(tmp_path, "html", [page("a")], Options(language="de-AT")).decode()


@pytest.mark.parametrize("name", ["aligned", "split", "gathered"])
def test_aligned_lines_are_a_table(name: str) -> None:
    converted = mathml(f"\\begin{{{name}}} a &= b \\\\ c &= d \\end{{{name}}}", "block")
    assert converted.count("<mtr>") == 2
    assert f"\\begin{{{name}}} a &amp;= b" in converted
