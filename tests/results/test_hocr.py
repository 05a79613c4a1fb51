"""hOCR: well-formed, with what the specification asks for, boxes inside boxes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from app.results.pages import PageResult
from tests.results.documents import HEIGHT, WIDTH, failed, figure, layout, page, tag, written

XHTML = "{http://www.w3.org/1999/xhtml}"


def parsed(data: bytes) -> Any:
    return etree.fromstring(data, etree.XMLParser(load_dtd=False, no_network=True, huge_tree=True))


def of_class(tree: Any, name: str) -> list[Any]:
    return tree.xpath(f"//*[@class='{name}']")


def bbox(element: Any) -> tuple[int, ...]:
    found = re.match(r"bbox (-?\d+) (-?\d+) (-?\d+) (-?\d+)(;|$)", element.get("title"))
    assert found, element.get("title")
    return tuple(map(int, found.groups()[:4]))


def test_lines_with_boxes_become_lines_of_words(tmp_path: Path) -> None:
    raw = f"{tag('Port of Kiel', 100, 100, 500, 110)}\n{tag('港口', 100, 120, 200, 130)}"
    tree = parsed(written(tmp_path, "hocr", [page(raw, mode="plain_ocr", dpi=144.0)]))
    assert [element.get("title") for element in of_class(tree, "ocr_page")] == [
        f"bbox 0 0 {WIDTH} {HEIGHT}; ppageno 0; scan_res 144 144"
    ]
    assert [bbox(line) for line in of_class(tree, "ocr_line")] == [(100, 200, 500, 220), (100, 240, 200, 260)]
    assert [(word.text, bbox(word)) for word in of_class(tree, "ocrx_word")] == [
        ("Port", (100, 200, 250, 220)),
        ("of", (271, 200, 342, 220)),
        ("Kiel", (362, 200, 500, 220)),
        ("港口", (100, 240, 200, 260)),
    ]


def test_it_declares_what_it_uses(tmp_path: Path) -> None:
    raw = layout(("header", "Ships"), ("text", "a b"), ("table", "<table><tr><td>1</td></tr></table>"), ("image", ""))
    tree = parsed(written(tmp_path, "hocr", [page(raw, figures=(figure(100, 300, 900, 380),)), failed(2)]))
    meta = {element.get("name"): element.get("content") for element in tree.iter(f"{XHTML}meta")}
    assert meta["ocr-system"].startswith("deepseek-ocr-service ")
    used = {element.get("class") for element in tree.iter() if element.get("class")}
    assert used <= set(meta["ocr-capabilities"].split())
    assert {"ocr_header", "ocr_table", "ocr_photo", "ocr_carea"} <= used
    assert len({element.get("id") for element in tree.iter() if element.get("id")}) == len(tree.xpath("//@id"))
    assert bbox(of_class(tree, "ocr_photo")[0]) == (100, 300, 900, 380)
    (said,) = of_class(tree, "ocr_page")[1]
    assert said.text == "Page 2 could not be read: Reading took too long. -- <b>"


def test_boxes_lie_inside_their_parents(tmp_path: Path) -> None:
    raw = layout(
        ("title", "# T"), ("text", "words and " * 60), ("table", "<table><tr><td>1</td><td>2</td></tr></table>")
    )
    tree = parsed(written(tmp_path, "hocr", [page(raw), page("No boxes here.\nNone.", 2, mode="plain_ocr")]))
    checked = 0
    for element in tree.iter():
        parent = element.getparent()
        if element.get("title") and parent is not None and parent.get("title"):
            inner, outer = bbox(element), bbox(parent)
            assert outer[0] <= inner[0] <= inner[2] <= outer[2]
            assert outer[1] <= inner[1] <= inner[3] <= outer[3]
            checked += 1
    assert checked > 130


def test_an_answer_about_the_page_has_no_place_on_it(tmp_path: Path) -> None:
    tree = parsed(written(tmp_path, "hocr", [page("A quay with ships.", mode="describe")]))
    assert of_class(tree, "ocr_line") == []
    assert "A quay with ships." in "".join(tree.itertext())


EVERYTHING = layout(
    *(("header", "Ships"), ("title", "# Harbour"), ("text", "a b & <c>\nd"), ("image", ""), ("equation", "\\[x\\]")),
    *(("table", "<table><tr><td>1</td><td>2</td></tr></table>"), ("footer", "p"), ("page_number", "1")),
)


@pytest.mark.parametrize(
    "pages",
    [
        [
            page(EVERYTHING, figures=(figure(100, 300, 900, 380),), dpi=144.0),
            failed(2),
            page("A quay.", 3, mode="describe"),
        ],
        [
            page("No boxes.\nNone.", mode="plain_ocr"),
            page(tag("Port of Kiel", 100, 100, 500, 110), 2, mode="plain_ocr"),
        ],
        [page("كتاب <b>\x00&", mode="plain_ocr")],
    ],
)
def test_a_validator_of_others_finds_it_valid(tmp_path: Path, pages: list[PageResult]) -> None:
    """hocr-spec, by the authors of the specification: classes, nesting, properties and metadata.

    It recommends the number of pages, which is not known before the last is written.
    """
    (tmp_path / "a.hocr").write_bytes(written(tmp_path, "hocr", pages))
    program = "from hocr_spec.cli import main; main()"
    command = [sys.executable, "-W", "ignore", "-c", program, "--profile", "standard", "a.hocr"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.splitlines() == [
        "[WARN] a.hocr Recommended metadata field 'ocr-number-of-pages' missing",
        "[OK] a.hocr Document is valid",
    ]
