"""The optional changes: running heads, divided words, paragraphs over two pages."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.results.document import Options
from app.results.pages import PageResult
from app.results.tidy import tidy
from tests.results.documents import failed, layout, page, tag, written


def texts(pages: list[PageResult], **options: bool) -> list[list[str]]:
    return [[block.text for block in blocks] for _, blocks in tidy(pages, Options(**options))]


def as_lines(number: int, *said: str) -> PageResult:
    raw = "\n".join(tag(text, 0, n, 9, n + 1) for n, text in enumerate(said))
    return page(raw, number, "plain_ocr")


def test_without_options_nothing_changes() -> None:
    pages = [page(layout(("header", "Ships"), ("text", "divi-\nded and"))), page(layout(("text", "so on.")), 2)]
    assert texts(pages) == [["Ships", "divi-\nded and"], ["so on."]]


def test_running_heads_go_by_their_class() -> None:
    raw = layout(("header", "Ships"), ("text", "Body."), ("page_number", "7"), ("footer", "Kiel"))
    assert texts([page(raw)], drop_running=True) == [["Body."]]


def test_where_the_layout_names_running_heads_nothing_else_is_taken_for_one() -> None:
    """Nor is a heading ever: chapters have names that differ by a number."""
    named = [layout(("header", "Ships"), ("title", f"# Chapter {n}"), ("text", "So.")) for n in range(1, 5)]
    assert texts([page(raw, n) for n, raw in enumerate(named, 1)], drop_running=True) == [
        [f"# Chapter {n}", "So."] for n in range(1, 5)
    ]
    unnamed = [layout(("text", "Ships"), ("title", f"# Chapter {n}"), ("text", f"{n} is {n}")) for n in range(1, 5)]
    assert texts([page(raw, n) for n, raw in enumerate(unnamed, 1)], drop_running=True) == [
        [f"# Chapter {n}"] for n in range(1, 5)
    ]


def test_running_heads_without_a_class_go_by_repeating() -> None:
    said = [("Kiel", "Oslo", "Riga"), ("wind", "rain", "snow"), ("one", "two", "three"), ("red", "blue", "green")]
    pages = [
        as_lines(n, f"Harbour Report {n}", *words, "Same everywhere", *words[::-1], f"- {n} -")
        for n, words in enumerate(said, 1)
    ]
    assert texts(pages, drop_running=True) == [[*words, "Same everywhere", *words[::-1]] for words in said]


def test_what_repeats_on_two_pages_only_stays() -> None:
    pages = [as_lines(1, "Intro", "a"), as_lines(2, "Intro", "b"), as_lines(3, "Other", "c")]
    assert texts(pages, drop_running=True) == texts(pages)


@pytest.mark.parametrize(
    ("read", "joined"),
    [
        ("a divi-\nded word", "a divided word"),
        ("a divi\u00ad\nded word", "a divided word"),
        ("the Rhine-\nMain area", "the Rhine-Main area"),
        ("pages 12-\n14", "pages 12-\n14"),
        ("a - \nb", "a - \nb"),
    ],
)
def test_divided_words_are_joined(read: str, joined: str) -> None:
    assert texts([page(layout(("text", read)))], join_hyphens=True) == [[joined]]


def test_a_word_divided_between_printed_lines_moves_up() -> None:
    assert texts([as_lines(1, "a divi-", "ded word", "end-", "less")], join_hyphens=True) == [
        ["a divided", "word", "endless"]
    ]


def test_a_paragraph_goes_on_over_a_page_and_its_footnotes() -> None:
    pages = [
        page(layout(("text", "It began in May and"), ("page_footnote", "1 A note."), ("page_number", "1"))),
        page(layout(("header", "Ships"), ("text", "ended in June."), ("text", "Next.")), 2),
    ]
    assert texts(pages, join_pages=True) == [
        ["It began in May and ended in June.", "1 A note.", "1"],
        ["Ships", "Next."],
    ]


@pytest.mark.parametrize(
    ("end", "start"),
    [("It ended.", "then"), ("It ended", "Then"), ("It was", "- an item"), ("It was", "# head"), ("港。", "口")],
)
def test_what_ends_or_begins_a_paragraph_is_not_joined(end: str, start: str) -> None:
    pages = [page(layout(("text", end))), page(layout(("text", start)), 2)]
    assert texts(pages, join_pages=True) == [[end], [start]]


def test_chinese_is_joined_without_a_space_and_divided_words_without_their_hyphen() -> None:
    pages = [page(layout(("text", "港口"))), page(layout(("text", "公司。")), 2)]
    assert texts(pages, join_pages=True) == [["港口公司。"], []]
    pages = [page(layout(("text", "a divi-"))), page(layout(("text", "ded word.")), 2)]
    assert texts(pages, join_pages=True, join_hyphens=True) == [["a divided word."], []]


def test_nothing_is_joined_across_a_page_that_is_missing() -> None:
    pages = [
        page(layout(("text", "It was"))),
        failed(2),
        page(layout(("text", "there.")), 3),
        page(layout(("text", "a")), 5),
    ]
    assert texts(pages, join_pages=True) == [["It was"], [], ["there."], ["a"]]


def test_options_reach_the_files(tmp_path: Path) -> None:
    raw = layout(("header", "Ships"), ("text", "divi-\nded"))
    options = Options(drop_running=True, join_hyphens=True)
    assert written(tmp_path, "markdown", [page(raw)], options).decode() == "<!-- Page 1 -->\n\ndivided\n"
