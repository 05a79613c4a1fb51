"""Grounding tags: what is one, what stays text, and where its boxes are."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.ocr.grounding import Box, NormBox, Tag, Text, parse, pixel_boxes
from tests.ocr.outputs import OUTPUT, PAGE, grows_linearly, tag


def only_tag(raw: str) -> Tag:
    (segment,) = parse(raw)
    assert isinstance(segment, Tag)
    return segment


def test_a_page_of_four_blocks_keeps_every_block_and_all_the_text_between() -> None:
    """A pattern greedy across blocks, as the predecessors had, would make one broken tag of all this."""
    first, second, third, fourth = (line for line in PAGE.split("\n") if line.startswith("<|ref|>"))
    assert parse(PAGE) == (
        Tag("title", (NormBox(205, 132, 790, 157),), first),
        Text("\n# Harbour Report  \n\n"),
        Tag("text", (NormBox(115, 306, 882, 565),), second),
        Text("\nTwelve ships called in May.  \n\n"),
        Tag("image", (NormBox(131, 620, 863, 840),), third),
        Text("\n"),
        Tag("image_caption", (NormBox(115, 853, 883, 887),), fourth),
        Text("\n<center>Figure 1: The quay. </center>  "),
    )


def test_a_tag_may_have_several_boxes() -> None:
    assert only_tag(tag("[[1, 2, 3, 4], [5, 6, 7, 8],[9,10,11,12]]")).boxes == (
        NormBox(1, 2, 3, 4),
        NormBox(5, 6, 7, 8),
        NormBox(9, 10, 11, 12),
    )


def test_a_single_flat_box_is_accepted() -> None:
    assert only_tag(tag("[10,20,30,40]")).boxes == (NormBox(10, 20, 30, 40),)


def test_blank_space_between_the_parts_and_in_the_brackets_is_allowed() -> None:
    raw = "<|ref|> Total <|/ref|> \n\t<|det|>\n[ [ 1 ,\n2 , 3 , 4 ] , [5,6,7,8] ]\n<|/det|>"
    assert only_tag(raw) == Tag("Total", (NormBox(1, 2, 3, 4), NormBox(5, 6, 7, 8)), raw)


def test_decimals_are_read_as_they_are() -> None:
    assert only_tag(tag("[[0.5, 10., 20.25, 999.0]]")).boxes == (NormBox(0.5, 10, 20.25, 999),)


def test_numbers_beyond_the_scale_mean_the_edge() -> None:
    assert only_tag(tag("[[-7, 0, 1000, 123456789]]")).boxes == (NormBox(0, 0, 999, 999),)


def test_corners_in_the_wrong_order_are_swapped() -> None:
    assert only_tag(tag("[[30, 5, 10, 50]]")).boxes == (NormBox(10, 5, 30, 50),)
    assert only_tag(tag("[[10, 50, 30, 5]]")).boxes == (NormBox(10, 5, 30, 50),)


@pytest.mark.parametrize(
    "label",
    ["", "a\nb", "[[1,2,3,4]]", 'say "hi"', "it's", "a < b", "<|x|>", "<td>", "合计（元）", "🧾", "]]", "a|b", "\\d+"],
)
def test_a_label_may_hold_any_characters(label: str) -> None:
    raw = tag("[[1,2,3,4]]", label)
    assert only_tag(raw) == Tag(label, (NormBox(1, 2, 3, 4),), raw)


def test_an_opener_followed_by_another_was_never_closed_and_stays_text() -> None:
    whole = tag("[[1,2,3,4]]")
    assert parse("<|ref|>lost " + whole) == (Text("<|ref|>lost "), Tag("Total", (NormBox(1, 2, 3, 4),), whole))


def test_a_broken_tag_does_not_take_the_next_one_with_it() -> None:
    whole = tag("[[1,2,3,4]]")
    assert parse(tag("[[1,2,3]]", "bad") + whole) == (
        Text(tag("[[1,2,3]]", "bad")),
        Tag("Total", (NormBox(1, 2, 3, 4),), whole),
    )


@pytest.mark.parametrize(
    "raw",
    [
        "<|ref|>Total",
        "<|ref|>Total<|/ref|>",
        "<|ref|>Total<|/ref|><|det|>",
        "<|ref|>Total<|/ref|><|det|>[[1,2,3",
        "<|ref|>Total<|/ref|><|det|>[[1,2,3,4]]",
        "<|ref|>Total<|/ref|><|det|>[[1,2,3,4]]<|/det",
        "<|ref|>Total<|/ref|>x<|det|>[[1,2,3,4]]<|/det|>",
        "Total<|/ref|><|det|>[[1,2,3,4]]<|/det|>",
        "<|ref|>a<|det|>b<|/ref|><|det|>[[1,2,3,4]]<|/det|>",
        tag(""),
        tag("[]"),
        tag("[[]]"),
        tag("[["),
        tag("[[1,2,3]]"),
        tag("[[1,2,3,4,5]]"),
        tag("[[1,2,3,4]"),
        tag("[[1,2,3,4]]]"),
        tag("[[[1,2,3,4]]]"),
        tag("[[1,2,3,4][5,6,7,8]]"),
        tag("[[1,2,3,4],]"),
        tag("[[1,2,3,4],[5,6]]"),
        tag("[[1;2;3;4]]"),
        tag("[[1,2,3,x]]"),
        tag("[[1,2,3,nan]]"),
        tag("[[1,2,3,1e3]]"),
        tag("[[1,2,3,0x10]]"),
        tag("[[1,2,3,٤]]"),
        tag("[[1,2,3,1234567890]]"),
        tag("__import__('os')"),
    ],
)
def test_what_is_not_exactly_a_tag_stays_text(raw: str) -> None:
    assert parse(raw) == (Text(raw),)


def test_no_output_has_no_segments() -> None:
    assert parse("") == ()


@given(OUTPUT)
@example(PAGE)
def test_the_segments_joined_are_the_output_again(raw: str) -> None:
    segments = parse(raw)
    assert "".join(s.text if isinstance(s, Text) else s.source for s in segments) == raw
    assert all(s.text for s in segments if isinstance(s, Text))


@given(OUTPUT)
def test_the_text_between_tags_holds_no_further_tag(raw: str) -> None:
    for segment in parse(raw):
        if isinstance(segment, Text):
            assert parse(segment.text) == (segment,)
        else:
            assert parse(segment.source) == (segment,)


NUMBERS = st.integers(0, 999)


@given(
    st.text().filter(lambda text: "<|" not in text),
    st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=5),
)
def test_every_tag_that_is_written_is_read_back(label: str, boxes: list[tuple[int, int, int, int]]) -> None:
    raw = tag(str([list(box) for box in boxes]), label)
    expected = tuple(NormBox(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in boxes)
    assert parse("x" + raw + "y") == (Text("x"), Tag(label.strip(), expected, raw), Text("y"))


def test_boxes_are_in_pixels_of_the_picture_one_for_each_box_in_order() -> None:
    segments = parse("a" + tag("[[0,0,999,999],[500,250,750,998]]") + "b" + tag("[[100,200,300,400]]", "Sum"))
    assert pixel_boxes(segments, 1654, 2339) == [
        Box("Total", 0, 0, 1654, 2339),
        Box("Total", 827, 585, 1241, 2336),
        Box("Sum", 165, 468, 496, 936),
    ]


@given(OUTPUT, st.integers(1, 20_000), st.integers(1, 20_000))
@example(tag("[[999,999,999,999],[-5,-5,2000,2000]]"), 999, 7)
def test_boxes_lie_within_the_picture(raw: str, width: int, height: int) -> None:
    for box in pixel_boxes(parse(raw), width, height):
        assert 0 <= box.x1 <= box.x2 <= width
        assert 0 <= box.y1 <= box.y2 <= height


@pytest.mark.parametrize(
    "piece",
    [
        "<|ref|>",
        "<|/ref|>",
        "<|ref|>a<|/ref|><|det|>[[",
        "<|ref|>a<|/ref|><|det|>[[1,2,3,4],",
        "<|ref|>a<|/ref|>   ",
        "<|det|>[[",
        "<",
    ],
)
def test_hostile_output_takes_time_in_proportion_to_its_length(piece: str) -> None:
    assert grows_linearly(parse, piece, size=1_000_000)


def test_a_great_many_tags_are_read_in_time_in_proportion_to_their_number() -> None:
    assert grows_linearly(parse, tag("[[1,2,3,4]]"), size=100_000)


@pytest.mark.parametrize(
    "inside",
    ["9" * 2_000_000, "[" * 2_000_000, "[[1,2,3,4]," + " " * 2_000_000, "[[1,2,3,0." + "9" * 2_000_000],
    ids=["digits", "brackets", "blanks", "decimals"],
)
def test_megabytes_inside_one_tag_stay_text_and_cost_little(inside: str) -> None:
    raw = tag(inside)
    started = time.process_time()
    assert parse(raw) == (Text(raw),)
    assert time.process_time() - started < 1.0


def test_a_tag_of_many_boxes_is_read_in_linear_time() -> None:
    def read(numbers: str) -> tuple[NormBox, ...]:
        return only_tag(tag(f"[{numbers}[1,2,3,4]]")).boxes

    assert len(read("[1,2,3,4]," * 1000)) == 1001
    assert grows_linearly(read, "[1,2,3,4],", size=100_000)
