"""Rendering: from the model's output to text for people, boxes and figures."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.ocr.grounding import Box, Text, parse, pixel_boxes
from app.ocr.render import Figure, Labels, Rendered, render, strip_code_fence
from tests.ocr.outputs import CLEAN_OUTPUT, OUTPUT, PAGE, grows_linearly, tag

LABELS = st.sampled_from(["text", "layout", "auto"])


def text_of(raw: str, labels: Labels) -> str:
    return render(raw, labels=labels, width=999, height=999).text


def test_a_real_page_becomes_markdown_with_its_figure_linked() -> None:
    assert render(PAGE, labels="layout", width=1654, height=2339) == Rendered(
        text=(
            "# Harbour Report  \n\n"
            "Twelve ships called in May.  \n\n"
            "![image](images/0.jpg)\n"
            "<center>Figure 1: The quay. </center>"
        ),
        boxes=(
            Box("title", 339, 309, 1307, 367),
            Box("text", 190, 716, 1460, 1322),
            Box("image", 216, 1451, 1428, 1966),
            Box("image_caption", 190, 1997, 1461, 2076),
        ),
        figures=(Figure("images/0.jpg", Box("image", 216, 1451, 1428, 1966)),),
    )


def test_lines_read_with_boxes_become_the_lines() -> None:
    raw = tag("[[10,10,200,30]]", "Grand Total") + "\n" + tag("[[10,40,200,60]]", "合计：42 元") + "\n"
    assert render(raw, labels="text", width=1998, height=999) == Rendered(
        text="Grand Total\n合计：42 元",
        boxes=(Box("Grand Total", 20, 10, 400, 30), Box("合计：42 元", 20, 40, 400, 60)),
        figures=(),
    )


def test_a_picture_tag_of_several_boxes_gives_one_link_for_each_and_the_count_goes_on() -> None:
    raw = tag("[[0,0,10,10],[20,20,30,30]]", "image") + "\n\n" + tag("[[40,40,50,50]]", "figure")
    rendered = render(raw, labels="layout", width=999, height=999)
    assert rendered.text == "![image](images/0.jpg)\n![image](images/1.jpg)\n\n![image](images/2.jpg)"
    assert rendered.figures == (
        Figure("images/0.jpg", Box("image", 0, 0, 10, 10)),
        Figure("images/1.jpg", Box("image", 20, 20, 30, 30)),
        Figure("images/2.jpg", Box("figure", 40, 40, 50, 50)),
    )


def test_a_picture_without_area_gets_no_link_and_no_number_but_stays_among_the_boxes() -> None:
    raw = tag("[[5,5,5,9]]", "image") + "\n" + tag("[[1,2,3,4]]", "image")
    rendered = render(raw, labels="layout", width=999, height=999)
    assert rendered.text == "![image](images/0.jpg)"
    assert rendered.figures == (Figure("images/0.jpg", Box("image", 1, 2, 3, 4)),)
    assert len(rendered.boxes) == 2


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (f"a\n{tag('[[1,2,3,4]]', 'text')}\nb", "a\nb"),
        (f"a\n{tag('[[1,2,3,4]]', 'text')}  \nb", "a\nb"),
        (f"a\n\n{tag('[[1,2,3,4]]', 'table')}\n\n<table>", "a\n\n<table>"),
        (f"a\n{tag('[[1,2,3,4]]', 'title')}# b", "a\n# b"),
        (f"a {tag('[[1,2,3,4]]', 'text')}\nb", "a \nb"),
        (f"a\n{tag('[[1,2,3,4]]', 'table')}{tag('[[1,2,3,4]]', 'table_caption')}\nb", "a\nb"),
        (f"a\n{tag('[[1,2,3,4]]', 'aside_text')}\nb", "a\nb"),
        (f"a\n{tag('[[1,2,3,4]]', '')}\nb", "a\nb"),
    ],
)
def test_a_layout_class_disappears_with_its_line_break(raw: str, text: str) -> None:
    assert text_of(raw, "layout") == text


def test_a_label_that_cannot_be_a_class_is_kept_in_a_layout() -> None:
    assert text_of(f"a\n{tag('[[1,2,3,4]]', 'Grand Total')}\n{tag('[[1,2,3,4]]', '合计')}", "layout") == (
        "a\nGrand Total\n合计"
    )


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (f"{tag('[[1,2,3,4]]', 'text')}\nBody", "Body"),
        (f"Body\n  {tag('[[1,2,3,4]]', 'text')}  ", "Body"),
        (f"Body\n{tag('[[1,2,3,4]]', 'footer')}<｜end▁of▁sentence｜>", "Body"),
        (f"{tag('[[1,2,3,4]]', 'image')}\nBody", "![image](images/0.jpg)\nBody"),
        (f"The {tag('[[1,2,3,4]]', 'title')} is bold.", "The title is bold."),
        (f"{tag('[[1,2,3,4]]', 'text')}: bold", "text: bold"),
        (f"{tag('[[1,2,3,4]]', 'text')} {tag('[[1,2,3,4]]', 'table')}", "text table"),
        (f"{tag('[[1,2,3,4]]', 'Total')}\nBody", "Total\nBody"),
        (f"{tag('[[1,2,3,4]]', 'aside_text')}\nBody", "aside_text\nBody"),
    ],
)
def test_of_unknown_intent_only_known_classes_alone_on_their_line_are_layout(raw: str, text: str) -> None:
    assert text_of(raw, "auto") == text


def test_text_that_would_be_empty_is_the_labels_of_the_boxes() -> None:
    raw = f"{tag('[[1,2,3,4],[5,6,7,8]]', 'title')}\n{tag('[[1,2,3,4]]', '')}\n{tag('[[1,2,3,4]]', 'text')}\n"
    assert text_of(raw, "layout") == "title, title, text"


def test_output_without_anything_is_empty() -> None:
    assert render("", labels="text", width=10, height=10) == Rendered("", (), ())


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("a\n\n\nb\n\n\n\n\n\nc\n\nd\ne", "a\n\nb\n\nc\n\nd\ne"),
        ("a\n \n\t\n\nb", "a\n\nb"),
        ("  \n\n a  \n b \n", "a  \n b"),
        (r"x \coloneqq y, z \eqqcolon w", "x := y, z =: w"),
        (r"\coloneqqs \Coloneqq", r"\coloneqqs \Coloneqq"),
        ("<image>\n<|grounding|>Hello<｜end▁of▁sentence｜>", "Hello"),
        ("<image src=x> <|ref|>", "<image src=x> <|ref|>"),
    ],
)
def test_leftovers_are_cleaned_as_the_published_scripts_do(raw: str, text: str) -> None:
    assert text_of(raw, "text") == text


def test_a_truncated_tag_stays_in_the_text() -> None:
    cut = "Total due\n<|ref|>text<|/ref|><|det|>[[115, 30"
    assert text_of(cut, "layout") == cut


def test_a_tag_put_together_from_pieces_is_broken_by_a_space() -> None:
    inner = "<|ref|>a<|/ref|><|det|>[[1,2,3,4]]<|/det|>"
    rendered = render(inner.replace("ref|>a", "re<|grounding|>f|>a"), labels="text", width=999, height=999)
    assert rendered == Rendered("< |ref|>a< |/ref|>< |det|>[[1,2,3,4]]< |/det|>", (), ())


@given(OUTPUT, LABELS)
@example("<|r" + tag("[[1,2,3,4]]", "ef|>a") + "<|/ref|><|det|>[[1,2,3,4]]<|/det|>", "text")
def test_rendered_text_holds_no_tag_and_every_box_is_kept(raw: str, labels: Labels) -> None:
    rendered = render(raw, labels=labels, width=800, height=600)
    assert all(isinstance(segment, Text) for segment in parse(rendered.text))
    assert list(rendered.boxes) == pixel_boxes(parse(raw), 800, 600)


@given(CLEAN_OUTPUT, LABELS)
def test_rendering_rendered_text_changes_nothing(raw: str, labels: Labels) -> None:
    text = text_of(raw, labels)
    assert text_of(text, labels) == text


@given(CLEAN_OUTPUT, st.sampled_from(["layout", "auto"]), st.integers(1, 2000), st.integers(1, 2000))
def test_links_and_figures_are_the_same_numbers_from_zero(raw: str, labels: Labels, width: int, height: int) -> None:
    rendered = render(raw, labels=labels, width=width, height=height)
    links = re.findall(r"!\[image\]\((.*?)\)", rendered.text)
    assert links == [figure.name for figure in rendered.figures]
    assert links == [f"images/{number}.jpg" for number in range(len(links))]
    for figure in rendered.figures:
        assert figure.box in rendered.boxes
        assert not figure.box.empty


@pytest.mark.parametrize(
    "piece",
    [
        "\n",
        " \n",
        "\n ",
        " ",
        "<|grounding|>",
        "\\coloneqq",
        "<image",
        "<|ref|>a<|/ref|>",
        tag("[[1,2,3,4]]", "image") + "\n",
    ],
)
@pytest.mark.parametrize("labels", ["layout", "auto"])
def test_hostile_output_is_rendered_in_time_in_proportion_to_its_length(piece: str, labels: Labels) -> None:
    assert grows_linearly(lambda raw: text_of(raw, labels), piece, size=100_000)


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ('```json\n{"a": 1}\n```', '{"a": 1}'),
        ("\n```csv\na,b\n\n1,2\n```\n", "a,b\n\n1,2"),
        ("~~~\nx\n~~~", "x"),
        ("````\n```\nx\n```\n````", "```\nx\n```"),
        ('```json\n{"a": 1', '{"a": 1'),
        ("```", ""),
        ("```\n```", ""),
    ],
)
def test_the_code_fence_around_a_whole_text_is_taken_off(text: str, inside: str) -> None:
    assert strip_code_fence(text) == inside


@pytest.mark.parametrize(
    "text", ["", "a,b", "Here it is:\n```\nx\n```", "```\nx\n```\nDone.", "```\nx\n```\n```\ny\n```", "```x```"]
)
def test_other_texts_keep_their_fences(text: str) -> None:
    assert strip_code_fence(text) == text
