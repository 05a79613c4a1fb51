"""Reading order and blocks from boxes alone."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from app.engine.rapidocr.geometry import Placement, part, skew, straighten
from app.engine.rapidocr.layout import Block, Box, arrange

HEIGHT = 26.0


def line(left: float, top: float, width: float, height: float = HEIGHT) -> Box:
    return Box(left, top, left + width, top + height)


def order(blocks: list[Block]) -> list[int]:
    return [index for block in blocks for row in block.rows for index in row]


def column(left: float, top: float, rows: int, width: float = 300) -> list[Box]:
    return [line(left, top + 30 * row, width) for row in range(rows)]


def boxes() -> st.SearchStrategy[list[Box]]:
    whole = st.integers(0, 1000)
    size = st.integers(5, 400)
    return st.lists(st.builds(lambda x, y, w, h: Box(x, y, x + w, y + h), whole, whole, size, size), max_size=30)


@settings(deadline=None)
@given(boxes())
def test_every_line_appears_exactly_once(page: list[Box]) -> None:
    """No arrangement of boxes loses a line or reads one twice."""
    assert sorted(order(arrange(page))) == list(range(len(page)))


@settings(deadline=None)
@given(boxes(), st.sampled_from([0.25, 0.5, 2.0, 8.0]))
def test_scale_does_not_change_the_layout(page: list[Box], scale: float) -> None:
    """A page scanned at another resolution has the same blocks and rows."""
    scaled = [Box(b.left * scale, b.top * scale, b.right * scale, b.bottom * scale) for b in page]
    assert [(b.kind, b.rows) for b in arrange(scaled)] == [(b.kind, b.rows) for b in arrange(page)]


def test_two_columns_are_read_one_after_the_other() -> None:
    """The left column of running text is read to its end before the right one, though their lines align."""
    page = [box for pair in zip(column(0, 0, 5), column(340, 0, 5), strict=True) for box in pair]
    assert order(arrange(page)) == [0, 2, 4, 6, 8, 1, 3, 5, 7, 9]


def test_three_columns_are_read_from_left_to_right() -> None:
    """Columns are cut one gutter at a time."""
    page = column(340, 0, 4) + column(680, 0, 4) + column(0, 0, 4)
    assert order(arrange(page)) == [8, 9, 10, 11, 0, 1, 2, 3, 4, 5, 6, 7]


def test_a_heading_across_two_columns_is_read_before_both() -> None:
    """A heading, a second one between the columns' parts, and a page number each keep their place."""
    page = [
        line(150, 0, 340, 34),
        *column(0, 70, 4),
        *column(340, 70, 4),
        line(100, 220, 440, 34),
        *column(0, 280, 4),
        *column(340, 280, 4),
        line(310, 440, 20),
    ]
    assert order(arrange(page)) == list(range(19))


def test_a_last_line_of_a_full_width_paragraph_stays_with_it() -> None:
    """It crosses no gutter, and still it is not the first line of the left column."""
    page = [*column(0, 0, 3, 640), line(0, 90, 120), *column(0, 150, 4), *column(340, 150, 4)]
    blocks = arrange(page)
    assert blocks[0].rows == ((0,), (1,), (2,), (3,))
    assert order(blocks) == list(range(12))


def test_a_sidebar_of_short_lines_is_not_mixed_into_the_text() -> None:
    """Its lines stand beside the text but not on its lines."""
    text = column(0, 0, 8, 500)
    sidebar = [line(560, 11 + 37 * row, 90) for row in range(5)]
    assert order(arrange(text + sidebar)) == list(range(13))


def test_a_receipt_is_read_row_by_row() -> None:
    """Names on the left and prices on the right belong together."""
    names = [line(0, 30 * row, width) for row, width in enumerate((200, 120, 260, 90))]
    prices = [line(400, 30 * row, 60) for row in range(4)]
    blocks = arrange(names + prices)
    assert [(block.kind, block.rows) for block in blocks] == [("table", ((0, 4), (1, 5), (2, 6), (3, 7)))]


def test_a_table_with_an_empty_cell_keeps_its_rows() -> None:
    """A row with fewer cells is still a row of the table."""
    page = [line(x, 30 * row, 80) for row in range(3) for x in (0, 200, 400) if (row, x) != (1, 200)]
    assert [(block.kind, block.rows) for block in arrange(page)] == [("table", ((0, 1, 2), (3, 4), (5, 6, 7)))]


def test_a_line_detected_in_pieces_is_one_row_of_text() -> None:
    """Pieces closer than a line is high are words, not cells."""
    page = [line(0, 0, 200), line(210, 1, 150), *column(0, 30, 3, 400)]
    blocks = arrange(page)
    assert [(block.kind, block.rows) for block in blocks] == [("text", ((0, 1), (2,), (3,), (4,)))]


def test_spacing_cuts_paragraphs_and_height_makes_headings() -> None:
    """A wide gap starts a block; larger lines on a page of smaller ones are headings."""
    page = [line(0, 0, 200, 40), line(0, 60, 140, 32), *column(0, 110, 4), *column(0, 260, 4)]
    assert [(block.kind, len(block.rows)) for block in arrange(page)] == [
        ("title", 1),
        ("sub_title", 1),
        ("text", 4),
        ("text", 4),
    ]


def test_a_page_without_lines_has_no_blocks() -> None:
    assert arrange([]) == []


def quad(box: Box, angle: float = 0.0) -> np.ndarray:
    corners = np.array([[box.left, box.top], [box.right, box.top], [box.right, box.bottom], [box.left, box.bottom]])
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return corners @ turn.T


@settings(deadline=None)
@given(st.floats(-0.15, 0.15))
def test_a_skewed_page_is_straightened_before_it_is_arranged(angle: float) -> None:
    """Two aligned columns turned by a few degrees are read as when they are straight."""
    page = column(0, 0, 12, 600) + column(680, 0, 12, 600)
    quads = [quad(box, angle) for box in page]
    assert math.isclose(skew(quads), angle, abs_tol=1e-9)
    assert order(arrange(straighten(quads))) == list(range(24))


def test_a_part_of_a_line_is_cut_along_its_edges() -> None:
    corners = np.array([[0.0, 0.0], [100.0, 10.0], [100.0, 30.0], [0.0, 20.0]])
    assert part(corners, 0.25, 0.5).tolist() == [[25.0, 2.5], [50.0, 5.0], [50.0, 25.0], [25.0, 22.5]]


def test_boxes_are_mapped_back_to_the_page_as_given() -> None:
    """A box in the upper left of the upright page lies elsewhere on a page that was turned."""
    corners = quad(Box(10, 20, 60, 40))
    given_page = {turns: Placement(0, 0, 100, 200, turns).box(corners) for turns in range(4)}
    assert given_page == {
        0: [100, 100, 599, 200],
        1: [799, 100, 899, 599],
        2: [400, 799, 899, 899],
        3: [100, 400, 200, 899],
    }


def test_a_frame_around_the_page_does_not_move_its_boxes() -> None:
    assert Placement(50, 0, 100, 200, 0).box(quad(Box(50, 0, 150, 200))) == [0, 0, 999, 999]
