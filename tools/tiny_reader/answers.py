"""What is asked about a page, and the right answer, in the words and tags of the published model."""

from __future__ import annotations

from collections import Counter
from typing import Literal

import numpy as np

from tools.tiny_reader.page import Block, Box, Page

Task = Literal["free", "boxes", "locate", "markdown"]

FREE_OCR = "Free OCR."
OCR_WITH_BOXES = "<|grounding|>OCR this image."
LOCATE = "Locate <|ref|>{term}<|/ref|> in the image."
DOCUMENT = "<|grounding|>Convert the document to markdown."

_SCALE = 999
# A term shorter than this is asked for only if the page has no longer one: nobody looks for "a".
_LEAST_TERM = 3


def answer(page: Page, task: Task, rng: np.random.Generator) -> tuple[str, str]:
    """Return the prompt of a task and what the page's reader should write; `rng` chooses what to locate."""
    if task == "free":
        return FREE_OCR, "\n".join(line.text for line in page.lines)
    if task == "boxes":
        return OCR_WITH_BOXES, "\n".join(tag(line.text, line.box, page.side) for line in page.lines)
    if task == "markdown":
        return DOCUMENT, "\n\n".join(_block_markdown(block, page.side) for block in page.blocks)
    term, box = _choose_term(page, rng)
    return LOCATE.format(term=term), tag(term, box, page.side)


def tag(label: str, box: Box, side: int) -> str:
    """Return a grounding tag; `box` is in pixels of a page of `side`, the tag's numbers are 0..999."""
    numbers = ", ".join(str(min(max(round(value / side * _SCALE), 0), _SCALE)) for value in box)
    return f"<|ref|>{label}<|/ref|><|det|>[[{numbers}]]<|/det|>"


def _block_markdown(block: Block, side: int) -> str:
    if block.kind == "table":
        rows = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in block.rows)
        return f"{tag('table', block.box, side)}\n<table>{rows}</table>"
    text = " ".join(line.text for line in block.lines)
    if block.kind == "title":
        return f"{tag('title', block.box, side)}\n# {text}"
    return f"{tag('text', block.box, side)}\n{text}"


def _choose_term(page: Page, rng: np.random.Generator) -> tuple[str, Box]:
    """Return a word or a line that stands on the page once, and its box; any line where none does."""
    words = [
        (word, _box(page, line.first_word + place))
        for line in page.lines
        for place, word in enumerate(line.text.split(" "))
    ]
    terms = _once(words) if rng.random() < 0.5 else []
    terms = [term for term in terms if len(term[0]) >= _LEAST_TERM] or terms
    lines = [(line.text, line.box) for line in page.lines]
    terms = terms or _once(lines) or lines
    return terms[int(rng.integers(len(terms)))]


def _once(terms: list[tuple[str, Box]]) -> list[tuple[str, Box]]:
    counts = Counter(text for text, _ in terms)
    return [(text, box) for text, box in terms if counts[text] == 1]


def _box(page: Page, word: int) -> Box:
    x1, y1, x2, y2 = page.word_boxes[word].tolist()
    return x1, y1, x2, y2
