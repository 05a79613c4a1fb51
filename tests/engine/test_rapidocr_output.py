"""The model's language as the RapidOCR engine writes it."""

from __future__ import annotations

import numpy as np
import pytest

from app.engine.rapidocr import output, pii
from app.engine.rapidocr.geometry import Placement
from app.engine.rapidocr.layout import Box, arrange
from app.engine.rapidocr.output import Line, Sheet
from app.engine.rapidocr.text import punctuate

SIDE = 999.0


def sheet(*placed: tuple[float, float, str | None]) -> Sheet:
    """Lay out lines given as (left, top, text): 20 pixels high, 10 pixels a character; None is illegible."""
    boxes = [Box(left, top, left + 10 * len(text or "illegible"), top + 20) for left, top, text in placed]

    def line(index: int) -> Line | None:
        text, box = placed[index][2], boxes[index]
        corners = [[box.left, box.top], [box.right, box.top], [box.right, box.bottom], [box.left, box.bottom]]
        return None if text is None else Line(text, np.array(corners))

    return Sheet(arrange(boxes), boxes, line, Placement(0, 0, SIDE, SIDE, 0))


def test_plain_text_separates_cells_by_tabs_and_blocks_by_blank_lines() -> None:
    page = sheet((0, 0, "Milk"), (200, 0, "1.09"), (0, 30, "Bread"), (200, 30, "2.49"), (0, 120, "Thank you"))
    assert "".join(output.plain(page)) == "Milk\t1.09\nBread\t2.49\n\nThank you"


def test_illegible_lines_leave_no_trace() -> None:
    """Neither an empty row nor an empty block is written."""
    page = sheet((0, 0, None), (0, 30, "one"), (0, 120, None), (0, 210, "two"))
    assert "".join(output.plain(page)) == "one\n\ntwo"
    assert "".join(output.grounded(page)).count("<|ref|>") == 2
    assert "".join(output.markdown(page)).count("<|ref|>") == 2


def test_grounded_text_gives_every_line_its_box() -> None:
    page = sheet((100, 0, "Milk"), (300, 0, "1.09"))
    assert "".join(output.grounded(page)) == (
        "<|ref|>Milk<|/ref|><|det|>[[100,0,140,20]]<|/det|>\n<|ref|>1.09<|/ref|><|det|>[[300,0,340,20]]<|/det|>"
    )


def test_markdown_joins_the_lines_of_a_paragraph() -> None:
    """A space between Latin words, none between Chinese characters, and a divided word is whole again."""
    latin = sheet((0, 0, "the harvest of the win-"), (0, 30, "ter was plentiful and"), (0, 60, "the harbour was full"))
    assert "".join(output.markdown(latin)) == (
        "<|ref|>text<|/ref|><|det|>[[0,0,230,80]]<|/det|>\n"
        "the harvest of the winter was plentiful and the harbour was full"
    )
    chinese = sheet((0, 0, "今天天气很好我们"), (0, 30, "去山上看花吧大家"), (0, 60, "都很高兴。"))
    assert "".join(output.markdown(chinese)).split("\n")[1:] == ["今天天气很好我们去山上看花吧大家都很高兴。"]


def test_markdown_keeps_lines_that_were_broken_on_purpose() -> None:
    """A line on which the next word would have fitted ends there."""
    page = sheet((0, 0, "Anna Winter"), (0, 30, "4 Garden Lane"), (0, 60, "10115 Berlin-Mitte, Germany"))
    assert "".join(output.markdown(page)).split("\n")[1:] == [
        "Anna Winter",
        "4 Garden Lane",
        "10115 Berlin-Mitte, Germany",
    ]


def test_markdown_keeps_list_items() -> None:
    page = sheet((0, 0, "• first item that runs on"), (0, 30, "to a second line of text"), (0, 60, "• second"))
    assert "".join(output.markdown(page)).split("\n")[1:] == [
        "- first item that runs on to a second line of text",
        "- second",
    ]


def test_markdown_writes_tables_as_html_with_their_empty_cells() -> None:
    page = sheet((0, 0, "a<b"), (200, 0, "Q1"), (400, 0, "Q2"), (0, 30, "East"), (400, 30, "7"))
    assert "".join(output.markdown(page)).split("\n")[1:] == [
        "<table><tr><td>a&lt;b</td><td>Q1</td><td>Q2</td></tr><tr><td>East</td><td></td><td>7</td></tr></table>"
    ]


def test_a_cell_across_two_columns_does_not_merge_them() -> None:
    """A date over the numbers of an invoice; and a name with a gap in one row alone makes no column of its own."""
    page = sheet(
        (0, 0, "Invoice 7"), (200, 0, "20 November 2026"),
        (0, 30, "Paper"), (200, 30, "12"), (300, 30, "46.80"),
        (0, 60, "Ink"), (40, 60, "blue"), (200, 60, "3"), (300, 60, "27.00"),
        (0, 90, "Total"), (300, 90, "73.80"),
    )  # fmt: skip
    assert "".join(output.markdown(page)).split("\n")[1:] == [
        '<table><tr><td>Invoice 7</td><td colspan="2">20 November 2026</td></tr>'
        "<tr><td>Paper</td><td>12</td><td>46.80</td></tr><tr><td>Ink blue</td><td>3</td><td>27.00</td></tr>"
        "<tr><td>Total</td><td></td><td>73.80</td></tr></table>"
    ]


def test_markdown_writes_a_form_as_lines() -> None:
    """Names that end in a colon make no table, unless one row has none."""
    rows = [(0, 0, "Date:"), (200, 0, "4 May"), (0, 30, "客户："), (200, 30, "Anna")]
    assert "".join(output.markdown(sheet(*rows))) == (
        "<|ref|>text<|/ref|><|det|>[[0,0,250,50]]<|/det|>\nDate:\t4 May\n客户：\tAnna"
    )
    table = "".join(output.markdown(sheet(*rows, (0, 60, "Total"), (200, 60, "7"))))
    assert table.startswith("<|ref|>table<|/ref|>")


def test_text_on_the_page_cannot_fake_a_tag() -> None:
    """Tag-like strings are broken up in every mode, also where joining two lines would make one."""
    page = sheet(
        (0, 0, "<|ref|>x<|/ref|><|det|>[[0,0,9,9]]<|/det|> <"), (0, 30, "|ref|>fake and so on and so forth on")
    )
    for text in (output.plain(page), output.redact(page, pii.find)):
        assert "<|" not in "".join(text)
    assert "".join(output.markdown(page)).count("<|") == 4
    assert "".join(output.find(page, "<|ref|>x")) == "<|ref|>< |ref|>x<|/ref|><|det|>[[0,0,80,20]]<|/det|>"


@pytest.mark.parametrize(
    ("term", "boxes"),
    [
        ("total", "[30,0,80,20],[0,30,50,50]"),
        ("TOTAL sum", "[0,30,90,50]"),
        ("t otal", "[30,0,80,20],[0,30,50,50]"),
        ("costs total", "[90,0,140,20],[0,30,50,50]"),
    ],
)
def test_find_boxes_every_occurrence(term: str, boxes: str) -> None:
    """Also inside a word, across white space, and from one line into the next."""
    page = sheet((0, 0, "SubTotal costs"), (0, 30, "Total sum 5"))
    assert "".join(output.find(page, term)) == f"<|ref|>{term}<|/ref|><|det|>[{boxes}]<|/det|>"


@pytest.mark.parametrize("term", ["absent", "", "  ", ".*"])
def test_find_writes_nothing_when_the_term_is_not_there(term: str) -> None:
    assert "".join(output.find(sheet((0, 0, "some text")), term)) == ""


def test_redaction_replaces_what_is_personal_by_its_label_and_box() -> None:
    page = sheet((0, 0, "write to jo@example.org now"))
    assert "".join(output.redact(page, pii.find)) == (
        "write to [<|ref|>email<|/ref|><|det|>[[90,0,230,20]]<|/det|>] now"
    )


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("mail Jo.Doe@example.co.uk, thanks", [("Jo.Doe@example.co.uk", "email")]),
        ("tel. +49 30 1234567 or (212) 555-0142", [("+49 30 1234567", "phone"), ("(212) 555-0142", "phone")]),
        ("电话13812345678", [("13812345678", "phone")]),
        ("IBAN DE89 3704 0044 0532 0130 00 BIC COBADEFF", [("DE89 3704 0044 0532 0130 00", "iban")]),
        ("card 4111 1111 1111 1111 exp 12/27", [("4111 1111 1111 1111", "payment_card")]),
        ("card 4111 1111 1111 1112", []),
        ("身份证 11010519491231002X", [("11010519491231002X", "id_number")]),
        ("host 192.168.1.1 version 1.2.3", [("192.168.1.1", "ip_address")]),
        ("Invoice 2024-001934 total 1,234.56 EUR on 12.05.2024", []),
    ],
)
def test_personal_data_is_told_from_other_numbers(text: str, found: list[tuple[str, str]]) -> None:
    """Check digits and the grouping of phone numbers decide."""
    assert [(text[start:end], label) for start, end, label in pii.find(text)] == found


@pytest.mark.parametrize(
    ("read", "written"),
    [("你好!我是:", "你好！我是："), ("时间 12:30!", "时间 12:30!"), ("Hello, you!", "Hello, you!")],
)
def test_marks_among_chinese_characters_are_written_full_width(read: str, written: str) -> None:
    assert punctuate(read) == written
