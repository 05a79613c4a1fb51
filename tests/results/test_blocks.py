"""Blocks of a page: classes, lines with boxes, and text without."""

from __future__ import annotations

from app.ocr.grounding import Box
from app.results.blocks import Block, read_blocks
from tests.ocr.outputs import PAGE
from tests.results.documents import failed, layout, page, tag


def test_layout_output_becomes_blocks_of_their_kinds() -> None:
    assert read_blocks(page(PAGE, width=999, height=999)) == (
        Block("title", "# Harbour Report", "title", (Box("title", 205, 132, 790, 157),)),
        Block("text", "Twelve ships called in May.", "text", (Box("text", 115, 306, 882, 565),)),
        Block("figure", "", "image", (Box("image", 131, 620, 863, 840),), (1,)),
        Block(
            "caption",
            "<center>Figure 1: The quay. </center>",
            "image_caption",
            (Box("image_caption", 115, 853, 883, 887),),
        ),
    )


def test_figures_are_numbered_through_the_page_and_those_without_area_are_none() -> None:
    raw = (
        "<|ref|>image<|/ref|><|det|>[[1,1,9,9],[5,5,5,5],[20,20,30,30]]<|/det|>\nA note.\n\n"
        "<|ref|>figure<|/ref|><|det|>[[40,40,50,50]]<|/det|>"
    )
    assert [(block.kind, block.text, block.figures) for block in read_blocks(page(raw))] == [
        ("figure", "", (1, 2)),
        ("text", "A note.", ()),
        ("figure", "", (3,)),
    ]


def test_lines_with_boxes_say_which_follow_each_other() -> None:
    raw = f"{tag('One', 1, 1, 9, 2)}\n{tag('Two', 1, 3, 9, 4)}\n\n{tag('Three', 1, 6, 9, 7)}\nloose {tag('x', 1, 1, 2, 2)}"
    found = [(block.kind, block.text, block.goes_on) for block in read_blocks(page(raw, mode="plain_ocr"))]
    assert found == [("line", "One", False), ("line", "Two", True), ("line", "Three", False), ("text", "loose x", True)]


def test_text_without_tags_is_one_block_without_a_box() -> None:
    assert read_blocks(page("# A\n\nb\n\n\n\nc<|grounding|>", mode="plain_ocr")) == (Block("text", "# A\n\nb\n\nc"),)


def test_output_of_unknown_intent_has_classes_only_alone_on_a_line() -> None:
    raw = f"{tag('text', 1, 1, 9, 9)}\nWords {tag('title', 1, 1, 2, 2)} here"
    assert [(block.kind, block.text) for block in read_blocks(page(raw, mode="freeform"))] == [
        ("text", "Words title here")
    ]


def test_modes_of_tables_keep_the_tables() -> None:
    raw = layout(("text", "No."), ("table", "<table><tr><td>1</td></tr></table>"), ("text", "| a |\n| --- |\n| b |"))
    assert [block.text[:6] for block in read_blocks(page(raw, mode="tables_csv"))] == ["<table", "| a |\n"]


def test_data_for_programs_is_kept_as_it_is() -> None:
    assert read_blocks(page("```json\n{}\n```", mode="kv_json", text="{}")) == (Block("data", "{}"),)


def test_a_page_that_failed_has_no_blocks() -> None:
    assert read_blocks(failed(1)) == ()
