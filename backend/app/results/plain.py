"""Markdown and plain text."""

from __future__ import annotations

from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path

from app.results.blocks import Block
from app.results.content import part_text
from app.results.document import Document, Options, Pictures, figure_name
from app.results.read import ReadPage
from app.results.text import failure_sentence, utf8_text


class MarkdownWriter:
    """Writes pages headed by a comment with their number and joined by `---`; figures are links."""

    def __init__(self, path: Path, document: Document, pictures: Pictures, options: Options) -> None:
        self._file = open_text(path)
        self._lead = ""

    def add(self, page: ReadPage) -> None:
        """Write one page."""
        self._file.write(f"{self._lead}<!-- Page {page.result.number} -->\n")
        if text := utf8_text(page_markdown(page)):
            self._file.write(f"\n{text}\n")
        self._lead = "\n---\n\n"

    def close(self) -> None:
        """Finish the file."""
        self._file.close()

    abandon = close


class TextWriter:
    """Writes the words alone: no marks, cells by tabs, and a form feed between two pages, as pdftotext does."""

    def __init__(self, path: Path, document: Document, pictures: Pictures, options: Options) -> None:
        self._file = open_text(path)
        self._lead = ""

    def add(self, page: ReadPage) -> None:
        """Write one page."""
        failure = page.result.failure
        if failure is not None:
            text = f"[{failure_sentence(page.result.number, failure.detail)}]"
        else:
            said = [(block, "\n".join(map(part_text, parts))) for block, parts in page.content]
            text = _joined([(block, text) for block, text in said if text])
        self._file.write(self._lead + utf8_text(text).replace("\f", " ") + "\n")
        self._lead = "\f"

    def close(self) -> None:
        """Finish the file."""
        self._file.close()

    abandon = close


def page_markdown(page: ReadPage) -> str:
    """Return a page as Markdown, without its number."""
    failure = page.result.failure
    if failure is not None:
        # Two hyphens would end the comment early.
        return f"<!-- {failure_sentence(page.result.number, failure.detail).replace('--', '- -')} -->"
    said = [(block, _block_markdown(block, page.result.number)) for block in page.blocks]
    return _joined([(block, text) for block, text in said if text])


def _block_markdown(block: Block, number: int) -> str:
    if block.kind == "figure":
        return "\n".join(f"![image]({figure_name(number, figure)})" for figure in block.figures)
    if block.kind == "data":
        fence = "`" * (3 if "```" not in block.text else _longest_run(block.text) + 1)
        return f"{fence}\n{block.text}\n{fence}"
    return block.text


def _longest_run(text: str) -> int:
    longest = run = 0
    for character in text:
        run = run + 1 if character == "`" else 0
        longest = max(longest, run)
    return longest


def _joined(blocks: Sequence[tuple[Block, str]]) -> str:
    pieces: list[str] = []
    for block, text in blocks:
        if pieces:
            pieces.append("\n" if block.goes_on else "\n\n")
        pieces.append(text)
    return "".join(pieces)


def open_text(path: Path) -> TextIOWrapper:
    """Open a file for UTF-8 whose line ends stay as they are."""
    return path.open("w", encoding="utf-8", newline="")
