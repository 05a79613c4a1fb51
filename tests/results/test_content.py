"""What blocks say: headings, lists, tables, formulas, and text that only looks like markup."""

from __future__ import annotations

import pytest

from app.results.blocks import Block
from app.results.content import (
    LONGEST_MARKDOWN,
    Cell,
    Code,
    Formula,
    Heading,
    Item,
    Paragraph,
    Part,
    Span,
    Table,
    part_text,
    read_content,
)
from tests.ocr.outputs import grows_linearly


def parts(text: str) -> tuple[Part, ...]:
    return read_content(Block("text", text))


def one(text: str) -> tuple[Span, ...]:
    return (Span(text),)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("## Cargo", Heading(2, one("Cargo"))),
        ("a\nb", Paragraph(one("a\nb"))),
        ("```\nx  y\n```", Code("x  y")),
        ("\\[\na\n+ b\n\\]", Formula("a\n+ b")),
        ("see \\( a_1 * b * c \\).", Paragraph((Span("see "), Span("a_1 * b * c", formula=True), Span(".")))),
        ("never \\( closed", Paragraph(one("never \\( closed"))),
        ("10<sup>3</sup>", Paragraph((Span("10"), Span("3", frozenset({"sup"}))))),
        ("**a** b", Paragraph((Span("a", frozenset({"b"})), Span(" b")))),
        ("<script>x</script> <b", Paragraph(one("<script>x</script> <b"))),
        ("[x](javascript:y) ![z](http://q/)", Paragraph(one("[x](javascript:y) ![z](http://q/)"))),
        ("> not a quotation", Paragraph(one("> not a quotation"))),
        ("---", Paragraph(one("---"))),
        ("<center>Figure 1</center>", Paragraph(one("Figure 1"))),
        ("a<br>b", Paragraph(one("a\nb"))),
        ("    indented", Paragraph(one("indented"))),
        ("snake_case_name", Paragraph(one("snake_case_name"))),
    ],
)
def test_what_a_stretch_of_text_is(text: str, part: Part) -> None:
    assert parts(text) == (part,)


def test_lists_keep_their_numbers_and_depth() -> None:
    assert parts("7. a\n8. b\n   - c\n- d") == (
        Item(0, "7.", one("a")),
        Item(0, "8.", one("b")),
        Item(1, "-", one("c")),
        Item(0, "-", one("d")),
    )


def test_an_html_table_keeps_spans_and_what_stands_outside_its_cells() -> None:
    text = "<table><caption>Cargo</caption><tr><td rowspan=2>a \\(x\\)</td><td colspan='3'>b</td></tr><tr><td>c"
    cells = (Cell((Span("a "), Span("x", formula=True)), rowspan=2), Cell(one("b"), colspan=3))
    assert parts(text) == (Paragraph(one("Cargo")), Table((cells, (Cell(one("c")),))))


def test_a_pipe_table_is_a_table() -> None:
    assert parts("| a | b |\n| - | - |\n| 1 | |") == (
        Table(((Cell(one("a")), Cell(one("b"))), (Cell(one("1")), Cell(())))),
    )


def test_a_printed_line_is_no_markdown() -> None:
    assert read_content(Block("line", "# *5* \\(x\\)")) == (Paragraph(one("# *5* \\(x\\)")),)


def test_a_title_without_marks_is_a_heading() -> None:
    assert read_content(Block("title", "Cargo", "sub_title")) == (Heading(2, one("Cargo")),)


def test_text_too_long_for_markdown_is_kept_as_paragraphs() -> None:
    text = "*a*\n\n" * LONGEST_MARKDOWN
    assert parts(text)[:2] == (Paragraph(one("*a*")), Paragraph(one("*a*")))
    assert sum(len(part_text(part)) for part in parts(text)) == 3 * LONGEST_MARKDOWN


@pytest.mark.parametrize("piece", ["\\(", "\\[\n", "[", "*a_", "<sup>", " - a\n", "`", "&", "| a |\n", "<table><td>"])
def test_time_grows_with_the_length(piece: str) -> None:
    assert grows_linearly(parts, piece, 6_000)


def test_time_of_cells_grows_with_their_length() -> None:
    assert grows_linearly(lambda text: parts(f"<table><tr><td>{text}</td></tr></table>"), "\\(", 20_000)
