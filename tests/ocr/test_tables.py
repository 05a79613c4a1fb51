"""Tables: from the model's HTML and pipe tables to CSV and Markdown."""

from __future__ import annotations

import csv
import html
import io

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.ocr.tables import MAX_CELLS, MAX_COLUMNS, Table, extract_tables, to_csv, to_markdown
from tests.ocr.outputs import OUTPUT, grows_linearly

CELL = st.one_of(
    st.text(max_size=8), st.sampled_from(["", "a|b", "x\\|y\\", "<br>", "<b>", "&amp;", "---", "1 < 2", "=A1"])
)
GRIDS = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.lists(CELL, min_size=width, max_size=width), min_size=1, max_size=4)
)


def only_rows(markdown: str) -> tuple[tuple[str, ...], ...]:
    (table,) = extract_tables(markdown)
    return table.rows


def as_html(grid: list[list[str]]) -> str:
    cells = ("".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in grid)
    return "<table>" + "".join(f"<tr>{row}</tr>" for row in cells) + "</table>"


def test_a_table_as_the_model_writes_it() -> None:
    page = (
        "## Cargo\n\n<table><tr><td>Ship</td><td>Tons</td></tr><tr><td>Aurora &amp; Sons</td><td>1,200</td></tr>"
        "</table>\n\nText."
    )
    tables = extract_tables(page)
    assert tables == (Table((("Ship", "Tons"), ("Aurora & Sons", "1,200"))),)
    assert to_csv(tables) == 'Ship,Tons\nAurora & Sons,"1,200"'
    assert to_markdown(tables) == "| Ship | Tons |\n| --- | --- |\n| Aurora & Sons | 1,200 |"


def test_spans_leave_blanks_where_the_page_has_no_text() -> None:
    assert only_rows(
        '<table><tr><th rowspan="2">Port</th><th colspan=2>Tons</th></tr><tr><th>In</th><th>Out</th></tr>'
        "<tr><td>Kiel</td><td>7</td><td>9</td></tr><tr><td COLSPAN='3'>Source: own</td></tr></table>"
    ) == (("Port", "Tons", ""), ("", "In", "Out"), ("Kiel", "7", "9"), ("Source: own", "", ""))


def test_a_rowspan_that_covers_a_row_without_cells_ends_where_it_says() -> None:
    rows = "<tr><td rowspan=2>a</td><td>b</td></tr><tr></tr><tr><td>c</td><td>d</td></tr>"
    assert only_rows(f"<table>{rows}</table>") == (("a", "b"), ("c", "d"))


def test_short_rows_are_filled_up() -> None:
    assert only_rows("<table><tr><td>a</td></tr><tr><td>b</td><td>c</td></tr></table>") == (("a", ""), ("b", "c"))


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ("  a \n  b ", "a b"),
        ("a<br>b<BR/>c<br />d", "a\nb\nc\nd"),
        ("<p>a</p><p>b</p>", "a\nb"),
        ('<b>a</b> <span style="x">b</span>', "a b"),
        ("10<sup>3</sup> CO<sub>2</sub>", "10^3 CO_2"),
        ("&lt;b&gt; &quot;x&quot; &#65;&#x4e00;&nbsp;", '<b> "x" A一'),
        ("<name> a < b", "<name> a < b"),
        ("&unknown; &", "&unknown; &"),
        ("&#" + "9" * 5000 + ";", "&#" + "9" * 5000 + ";"),
        ("<table><tr><td>1</td><td>2</td></tr></table>", "1 2"),
        ("a|b", "a|b"),
        ("<!-- x --> <script>y", "<!-- x --> <script>y"),
    ],
)
def test_what_stands_in_a_cell_becomes_text(cell: str, text: str) -> None:
    assert only_rows(f"<table><tr><td>{cell}</td><td>next</td></tr></table>") == ((text, "next"),)


@pytest.mark.parametrize(
    ("end", "rows"),
    [
        ("", (("a", "b"), ("c", "d"))),
        ("</td>", (("a", "b"), ("c", "d"))),
        ("</td></tr><tr><td", (("a", "b"), ("c", "d"))),
        ("</td></tr><tr><td>", (("a", "b"), ("c", "d"), ("", ""))),
    ],
)
def test_a_table_cut_short_keeps_the_rows_that_are_there(end: str, rows: tuple[tuple[str, ...], ...]) -> None:
    assert only_rows("<table><tr><td>a</td><td>b</td></tr><tr><td>c</td><td>d" + end) == rows


def test_forgotten_closing_tags_are_supplied() -> None:
    assert only_rows("<table><tr><td>a<td>b<tr><td>c<td>d</table>") == (("a", "b"), ("c", "d"))
    assert only_rows("<table><td>a</td></tr><td>b</td></table>") == (("a",), ("b",))


def test_a_table_begun_before_the_last_was_closed_is_a_table_of_its_own() -> None:
    text = "<table><tr><td>a</td></tr><table><tr><td>b</td></tr></table></table>"
    assert extract_tables(text) == (Table((("a",),)), Table((("b",),)))


def test_pipe_tables_are_found_among_html_tables_in_order() -> None:
    text = (
        "| a | b |\n|:--|--:|\n| 1 \\| 2 | x<br>y |\n| 3 |\n\n"
        "<table><tr><td>h</td></tr></table>\nc | d\n--- | ---\n4 | 5 | 6\nend"
    )
    assert extract_tables(text) == (
        Table((("a", "b"), ("1 | 2", "x\ny"), ("3", ""))),
        Table((("h",),)),
        Table((("c", "d", ""), ("4", "5", "6"))),
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a | b",
        "a | b\n- - -",
        "| a | b |\n|---|",
        "---|---\n",
        "a\n---\n",
        "<tr><td>a</td></tr>",
        "<table></table>",
    ],
)
def test_what_is_no_table_gives_none(text: str) -> None:
    assert extract_tables(text) == ()


def test_a_hostile_span_is_bounded_by_the_columns_it_may_cover() -> None:
    cell = '<td colspan="999999999" rowspan="999999999">a</td>'
    rows = only_rows(f"<table><tr>{cell}<td>lost</td></tr><tr><td>lost</td></tr></table>")
    assert rows == (("a",), ("",))
    (wide,) = only_rows("<table><tr>" + "<td>x</td>" * (MAX_COLUMNS + 5) + "</tr></table>")
    assert len(wide) == MAX_COLUMNS


def test_tables_of_one_text_never_take_more_than_the_stated_number_of_cells() -> None:
    table = f"<table><tr><td colspan={MAX_COLUMNS - 1}>a<td>b" + "<tr><td>c" * 3_000
    tables = extract_tables((table + "</table>") * 3)
    assert sum(len(table.rows) * len(table.rows[0]) for table in tables) == MAX_CELLS // MAX_COLUMNS * MAX_COLUMNS


def test_csv_quotes_only_what_needs_it_and_puts_a_line_between_tables() -> None:
    tables = [Table((("a", 'say "x"'), ("b\nc", "")))] * 2
    block = 'a,"say ""x"""\n"b\nc",'
    assert to_csv(tables) == f"{block}\n---\n{block}"


def test_csv_keeps_what_the_page_says_even_where_it_looks_like_a_formula() -> None:
    assert to_csv([Table((("-12.50", "+49 40", "=A1", "@x"),))]) == "-12.50,+49 40,=A1,@x"


def test_a_row_that_says_what_the_separator_says_is_quoted() -> None:
    assert to_csv([Table((("---",), ("a",)))]) == '"---"\na'


def test_markdown_escapes_pipes_line_breaks_and_what_would_read_as_html() -> None:
    assert to_markdown([Table((("a|b", "c\nd"), ("<b> & &amp;", "1 < 2")))]) == (
        "| a\\|b | c<br>d |\n| --- | --- |\n| &lt;b> & &amp;amp; | 1 < 2 |"
    )


def test_no_tables_are_written_as_nothing() -> None:
    assert to_csv([]) == ""
    assert to_markdown([]) == ""


@given(st.lists(GRIDS, max_size=3))
@example([[["a\x00b", "\x1c", "\u2028"]]])
def test_tables_written_as_markdown_are_read_back_the_same(grids: list[list[list[str]]]) -> None:
    tables = extract_tables("\n".join(map(as_html, grids)))
    assert len(tables) == len(grids)
    assert extract_tables(to_markdown(tables)) == tables


@given(GRIDS)
def test_a_table_written_as_csv_is_read_back_the_same(grid: list[list[str]]) -> None:
    tables = extract_tables(as_html(grid).replace("\x00", ""))
    rows = list(csv.reader(io.StringIO(to_csv(tables), newline="")))
    assert rows == [list(row) for row in tables[0].rows]


TABLE_TAGS = [
    "<table>",
    "</table>",
    "<tr>",
    "</tr>",
    "<td>",
    "</td>",
    "<td colspan=3 rowspan=2>",
    "<td rowspan=9999999>",
]
OTHERS = ["<th", ">", "<br>", "|", "-|-", "\n", "a", "&lt;", "| a |\n|---|\n"]
MARKUP = st.sampled_from([*TABLE_TAGS, *OTHERS])


@given(st.one_of(OUTPUT, st.lists(MARKUP, max_size=40).map("".join)))
def test_arbitrary_text_gives_rectangular_tables_and_never_raises(text: str) -> None:
    tables = extract_tables(text)
    for table in tables:
        assert table.rows
        assert len({len(row) for row in table.rows}) == 1
    assert to_markdown(tables).count("\n\n") == max(len(tables) - 1, 0)
    assert isinstance(to_csv(tables), str)


@pytest.mark.parametrize(
    "piece",
    [
        *("<table>", "</table>", "<tr>", "<td>", "<td ", "<td colspan", "<", "<!--", "<a ", "&#9", " "),
        *("| a ", "|\n", "a|b\n-|-\n"),
        *("<table><tr><td colspan=99999 rowspan=99999>", "<td colspan=99999><td><tr>", "<td rowspan=99999><tr>"),
    ],
)
def test_hostile_text_is_read_in_time_in_proportion_to_its_length(piece: str) -> None:
    assert grows_linearly(lambda text: extract_tables("<table><tr><td>" + text), piece, size=30_000)
    assert grows_linearly(extract_tables, piece, size=30_000)
