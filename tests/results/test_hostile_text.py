"""Whatever a page says, every format comes out whole, and the words with it."""

from __future__ import annotations

import io
import json
import re
import time
import zipfile
from pathlib import Path

import docx
import lxml.html
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from lxml import etree

from app.results.pages import PageResult
from app.results.text import xml_text
from app.results.writers import FORMATS, write
from tests.ocr.outputs import OUTPUT
from tests.results.documents import document, failed, layout, page, printed, written

MARKUP = [
    "<table>",
    "<tr>",
    "<td\trowspan=9>",
    "</table>",
    "|",
    "\\(",
    "\\)",
    "\\[",
    "\\]",
    "\\frac{",
    "}",
    "#",
    "-",
    "<script>",
    "</p>",
    "<sub>",
    "```",
    "*",
    "_",
    "&lt;",
    "&#0;",
    "]]>",
]
CHARACTERS = "\n\x00\x0b\ud800\uffff\u202eא港"
TAGS = [
    "| - |\n",
    "<|ref|>text<|/ref|><|det|>[[1,2,3,4]]<|/det|>\n",
    "<|ref|>image<|/ref|><|det|>[[0,0,99,99]]<|/det|>",
]
PIECES = st.sampled_from([*MARKUP, *CHARACTERS, *TAGS])
HOSTILE = st.one_of(OUTPUT, st.lists(st.one_of(PIECES, st.text(max_size=4)), max_size=40).map("".join))
MODES = st.sampled_from(["markdown", "plain_ocr", "freeform", "tables_md", "kv_json", "describe", "unheard_of"])
ANY_PAGE = st.builds(
    lambda raw, mode, width: page(raw, mode=mode, text=raw, width=width), HOSTILE, MODES, st.sampled_from([0, 999])
)

every_text = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@every_text
@given(ANY_PAGE)
@example(page("<table><tr><td>" * 300, mode="markdown"))
@example(page("<sub>" * 3000, mode="plain_ocr"))
def test_hocr_is_well_formed(tmp_path: Path, read: PageResult) -> None:
    etree.fromstring(written(tmp_path, "hocr", [read]), etree.XMLParser(load_dtd=False, huge_tree=True))


@every_text
@given(ANY_PAGE)
def test_docx_opens_again(tmp_path: Path, read: PageResult) -> None:
    data = written(tmp_path, "docx", [read])
    for table in docx.Document(io.BytesIO(data)).tables:
        assert len({sum(cell.grid_span for cell in row._tr.tc_lst) for row in table.rows}) == 1


@every_text
@given(ANY_PAGE)
def test_html_is_what_a_parser_makes_of_it(tmp_path: Path, read: PageResult) -> None:
    """Nothing in it is closed, moved or thrown away, and nothing runs."""
    body = written(tmp_path, "html", [read]).decode().partition("<body>")[2].partition("</body>")[0]
    void = {"br", "img"}
    stack: list[str] = []
    for tag in re.finditer(r"<(/?)([a-z0-9]+)[^<>]*>", body):
        assert tag[2] not in ("script", "style", "a", "iframe", "svg", "link")
        if tag[1]:
            assert stack.pop() == tag[2]
        elif tag[2] not in void:
            stack.append(tag[2])
    assert stack == []
    assert re.sub(r"<(/?)([a-z0-9]+)[^<>]*>", "", body).count("<") == 0


@every_text
@given(ANY_PAGE)
def test_the_other_formats_come_out(tmp_path: Path, read: PageResult) -> None:
    written(tmp_path, "markdown", [read]).decode()
    written(tmp_path, "text", [read]).decode()
    assert json.loads(written(tmp_path, "json", [read]))["pages"][0]["raw_text"] == read.raw_text
    with zipfile.ZipFile(io.BytesIO(written(tmp_path, "csv", [read]))) as found:
        assert found.testzip() is None


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(HOSTILE)
def test_pdf_comes_out(tmp_path: Path, raw: str) -> None:
    source = tmp_path / "a.png"
    if not source.exists():
        printed(size=(99, 99)).save(source)
    path = tmp_path / "b.pdf"
    write(document(page(raw, width=99, height=99), source=source), "pdf", path)
    assert path.read_bytes()[:5] == b"%PDF-"


@every_text
@given(
    st.text(
        st.characters(blacklist_categories=("Cc", "Cs", "Zs", "Zl", "Zp"), blacklist_characters="<>&|\\*_`#~[]+-"),
        min_size=1,
    )
)
def test_no_word_is_lost(tmp_path: Path, word: str) -> None:
    read = page(
        f"Before {word} after.\n\n<table><caption>c{word}</caption><tr><td>{word}</td></tr></table>", mode="plain_ocr"
    )
    html = lxml.html.fromstring(written(tmp_path, "html", [read])).text_content()
    xml = etree.fromstring(written(tmp_path, "hocr", [read]))
    word_file = docx.Document(io.BytesIO(written(tmp_path, "docx", [read])))
    texts = [
        html,
        "".join(xml.itertext()),
        word_file.element.xpath("string(//w:body)"),
        written(tmp_path, "text", [read]).decode(),
    ]
    for text in texts:
        # A line may be broken before and behind a wide character.
        assert "".join(text.split()).count(xml_text(word)) >= 3


@pytest.mark.parametrize(
    "raw",
    [
        "word " * 200_000,
        "a\n\n" * 50_000,
        "<table>" + "<tr><td>a</td><td>b</td></tr>" * 10_000 + "</table>",
        "<table>" * 100_000,
        "\\(" * 200_000,
        "<|ref|>a<|/ref|><|det|>[[1,2,3,4]]<|/det|>\n" * 5_000,
    ],
    ids=["words", "paragraphs", "rows", "tables", "formulas", "lines"],
)
@pytest.mark.parametrize("name", ["markdown", "text", "html", "json", "csv", "docx", "hocr"])
def test_a_page_of_a_megabyte_takes_seconds(tmp_path: Path, name: str, raw: str) -> None:
    started = time.process_time()
    assert written(tmp_path, name, [page(raw, mode="plain_ocr")])
    assert time.process_time() - started < 20


def test_every_format_has_its_failed_pages(tmp_path: Path) -> None:
    for name in ("markdown", "text", "html", "json", "hocr"):
        assert "Reading took too long." in written(tmp_path, name, [failed(1)]).decode(), name


def test_the_zip_has_every_other_format(tmp_path: Path) -> None:
    source = tmp_path / "a.png"
    printed().save(source)
    read = page(layout(("table", "<table><tr><td>1</td></tr></table>")), width=600, height=400)
    path = tmp_path / "result.zip"
    write(document(read, failed(2), source=source), "zip", path)
    with zipfile.ZipFile(path) as found:
        assert sorted(found.namelist()) == sorted(
            [form.file_name for form in FORMATS.values() if form.name not in ("zip", "archive", "csv")]
            + ["tables/page-1-table-1.csv", "tables/page-2-failed.csv"]
        )
        for form in ("markdown", "text", "html", "json", "hocr"):
            alone = written(tmp_path, form, [read, failed(2)])
            assert found.read(FORMATS[form].file_name) == alone
    assert sorted(file.name for file in tmp_path.iterdir() if file.is_dir()) == []
