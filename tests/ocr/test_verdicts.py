"""Loops: what is one, and which repetitions of real pages are not."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.ocr.verdicts import TAIL, Loop, find_loop, is_looped
from tests.ocr.outputs import OUTPUT, PAGE, grows_linearly


def words(count: int, seed: int = 1) -> str:
    """Write `count` different-looking words with no pattern in them."""
    letters = random.Random(seed)
    return " ".join("".join(letters.choices("abcdefghijklmnop", k=letters.randint(2, 9))) for _ in range(count))


def table(rows: list[list[str]]) -> str:
    return "<table>" + "".join("<tr>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>" for row in rows) + "</table>"


def figures(rows: int, columns: int, highest: int) -> list[list[str]]:
    numbers = random.Random(2)
    return [[str(numbers.randint(0, highest)) for _ in range(columns)] for _ in range(rows)]


PROSE = words(120)
LOOPS = {
    "one character": "a" * 5_000,
    "one word": "the " * 1_000,
    "one CJK character": "的" * 3_000,
    "a sentence": "The ship left the harbour at noon. " * 200,
    "several lines": "Dear Sir,\nwe thank you for the letter.\n\n合计：42 元\n" * 150,
    "a long paragraph": (words(200, seed=3) + "\n\n") * 30,
    "blank cells": "<table><tr>" + "<td></td>" * 2_000,
    "blank rows": "<table>" + ("<tr>" + "<td></td>" * 12 + "</tr>") * 150,
    "line breaks": "x" + "\n" * 9_000 + ".",
    "dots": "Contents " + "." * 10_000,
    "the same tag": "<|ref|>text<|/ref|><|det|>[[12, 34, 56, 78]]<|/det|>\nFree\n" * 200,
    "numbered lines": "\n".join(f"Item {n}" for n in range(1, 600)),
    "numbered cells": "<table>" + "".join(f"<tr><td>{n}</td><td>0</td><td></td></tr>" for n in range(600)),
    "counting by fives": ", ".join(str(n) for n in range(0, 9_000, 5)),
    "two counters": "\n".join(f"Line {n} of page {n + 40}." for n in range(600)),
    "days": "\n".join(f"2021-{month:02}-{day:02}: closed" for month in range(1, 13) for day in range(1, 31)),
}


@pytest.mark.parametrize("name", sorted(LOOPS.keys() - {"line breaks"}))
def test_a_text_that_repeats_itself_without_end_is_looped_however_it_ended(name: str) -> None:
    assert is_looped(PROSE + LOOPS[name], finished=False)
    assert is_looped(PROSE + LOOPS[name], finished=True)


def test_an_endless_run_of_line_breaks_cut_off_is_a_loop() -> None:
    assert is_looped(PROSE + "\n" * 9_000, finished=False)


def test_a_loop_inside_a_table_is_seen_past_the_closing_tags_and_the_end_token() -> None:
    text = "<table><tr>" + "<td>N/A</td>" * 700 + "</tr></table>\n<｜end▁of▁sentence｜>"
    assert is_looped(text, finished=True)


PAGES = {
    "nothing": "",
    "a page with boxes": PAGE,
    "prose": words(3_000),
    "a table of figures": table(figures(150, 8, 9_999)),
    "a table of digits": table(figures(150, 8, 9)),
    "a table of zeros and ones": table(figures(150, 8, 1)),
    "a table of zeros": table([["0"] * 12] * 20),
    "a form of blank cells": table([[""] * 12] * 25),
    "a sign-up sheet": table([[str(n), "", "", ""] for n in range(1, 61)]),
    "a table of N/A": table([["N/A"] * 10] * 9),
    "contents with leaders": "\n".join(f"{words(2, seed=n)} {'.' * 60} {n * 7}" for n in range(60)),
    "contents without titles": "\n".join(f"Chapter {n} {'.' * 60} {n * 7}" for n in range(1, 60)),
    "a ruler": words(100) + "\n" + "-" * 200,
    "underscores": ("_" * 100 + "\n") * 40,
    "a hundred chart": table([[str(10 * row + n) for n in range(10)] for row in range(10)]),
    "a multiplication table": table([[str(a * b) for a in range(1, 26)] for b in range(1, 26)]),
    "a year of days": "\n".join(" ".join(str(day) for day in range(1, 32)) for _ in range(12)),
    "a legal list": "\n".join(f"({n}) the {words(12, seed=n)};" for n in range(1, 120)),
    "lorem ipsum": (words(66, seed=4) + "\n\n") * 4,
    "a chorus": "Row, row, row your boat,\ngently down the stream.\n" * 5,
    "code": "\n".join(f"    self.{words(1, seed=n)} = {words(1, seed=n)}" for n in range(120)),
}


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("finished", [True, False])
def test_a_real_page_that_repeats_itself_is_no_loop(name: str, finished: bool) -> None:
    assert find_loop(PAGES[name], finished=finished) is None


FINISHED_PAGES = {
    "a sheet of 65 labels": "Harbour Office\n12 Quay Street\n24103 Kiel\n\n" * 65,
    "an answer sheet": "\n".join(f"{n}. A B C D E" for n in range(1, 201)),
    "a page of one word": "Yes\n" * 60,
    "coupons": "Ten percent off your next cup of coffee\nValid until May\n\n" * 15,
    "a large blank form": table([[""] * 12] * 70),
}


@pytest.mark.parametrize("name", FINISHED_PAGES)
def test_a_page_of_many_equal_parts_is_no_loop_when_it_ended_by_itself(name: str) -> None:
    assert find_loop(FINISHED_PAGES[name], finished=True) is None


def test_cut_off_output_is_judged_more_severely_than_output_that_ended() -> None:
    text = PROSE + "\n" + "The ship left the harbour at noon.\n" * 50
    assert is_looped(text, finished=False)
    assert not is_looped(text, finished=True)


def test_a_loop_says_where_it_starts_how_long_its_unit_is_and_how_often_it_comes() -> None:
    assert find_loop(PROSE + ": " + "le quai\n" * 100, finished=False) == Loop(len(PROSE) + 2, 8, 100)


def test_a_loop_that_counts_says_so_with_each_number_as_one_character() -> None:
    text = PROSE + "".join(f"\nItem {n}" for n in range(1, 401))
    assert find_loop(text, finished=True) == Loop(len(PROSE), 7, 400)


def test_only_the_tail_of_a_long_text_is_looked_at() -> None:
    text = "le quai\n" * 10_000
    assert find_loop(text, finished=False) == Loop(len(text) - TAIL, 8, TAIL // 8)


def test_a_loop_that_the_text_came_out_of_is_no_loop_at_the_end() -> None:
    assert not is_looped("the " * 1_000 + PROSE, finished=False)


def test_a_number_of_thousands_of_digits_among_the_counted_ones_does_no_harm() -> None:
    assert is_looped("\n".join(f"Item {n}" for n in ["7" * 5_000, *range(2, 400)]), finished=True)


UNITS = st.text("abcdefgh 中文/|.\n", min_size=2, max_size=300).filter(lambda unit: any(map(str.isalpha, unit)))


@given(UNITS, st.integers(0, 20))
def test_any_unit_with_words_repeated_past_the_limits_is_a_loop(unit: str, more: int) -> None:
    unit += "x"
    repeats = max(6, -(-1_300 // len(unit))) + more
    assert is_looped(PROSE + unit * repeats, finished=False)


@given(st.text("abcdefgh 中文", min_size=1, max_size=300), st.integers(0, 20))
def test_any_unit_repeated_past_the_limits_for_ended_output_is_a_loop(unit: str, more: int) -> None:
    unit += "x"
    repeats = max(80, -(-700 // len(unit))) + more
    assert is_looped(PROSE + unit * min(repeats, TAIL), finished=True)


@given(st.text("abc de\n", min_size=1, max_size=20), st.integers(0, 500), st.integers(1, 9))
def test_any_unit_that_counts_three_hundred_times_is_a_loop(unit: str, first: int, step: int) -> None:
    text = "".join(f"{unit}x{first + step * n}" for n in range(302))
    assert is_looped(PROSE + text, finished=True)
    assert is_looped(PROSE + text, finished=False)


@given(st.integers(0, 10**6), st.integers(0, 4_000), st.booleans())
def test_words_without_a_pattern_are_no_loop(seed: int, count: int, finished: bool) -> None:
    assert not is_looped(words(count, seed), finished=finished)


@given(OUTPUT, st.booleans())
def test_short_output_is_never_a_loop(text: str, finished: bool) -> None:
    assert is_looped(text[:149], finished=finished) is False


@pytest.mark.parametrize("piece", ["a", "ab" * 40 + "c", "1 ", "<td></td>", "\n", "</td>"])
def test_the_verdict_takes_time_in_proportion_to_the_length(piece: str) -> None:
    """Beyond the tail a text costs nothing, so the sizes compared are within it."""
    assert grows_linearly(lambda text: find_loop(PROSE + text + "z", finished=False), piece, size=TAIL // 2)
    assert grows_linearly(lambda text: find_loop(PROSE + text, finished=True), piece, size=TAIL // 2)
