"""Optional changes to a document's text: running heads left out, divided words and paragraphs joined."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace

from app.results.blocks import RUNNING, Block, read_blocks
from app.results.document import Options
from app.results.pages import PageResult

_EDGE_BLOCKS = 2
"""Blocks at each end of a page that can be its header or footer."""
_LONGEST_RUNNING = 200
_REPEATED = 0.3
"""Share of the pages, three at least, on which a header is the same but for its numbers."""
_LEAST_PAGES = 3

_NUMBER = re.compile(r"\d+|\b[ivxlc]+\b")
_ONLY_NUMBER = re.compile(
    r"\W*(?:page|seite|第)?\W*(?:\d{1,5}|[ivxlc]{1,7})\W*(?:(?:of|von|/|共)\W*\d{1,5})?\W*页?\W*", re.IGNORECASE
)
_HYPHEN = re.compile(r"(?<=[^\W\d_]{2})[-\u00ad\u2010]\n[ \t]*([^\W\d_]+)")
_DIVIDED_AT_END = re.compile(r"(?<=[^\W\d_]{2})[-\u00ad\u2010]\Z")
_SENTENCE_ENDS = re.compile(r"[.!?:;。！？：；…][\"'”’)\]»）】]*\Z")
_BEGINS_ANEW = re.compile(r"[#\-*•|<\\>`]|\d+[.)]\s")


def tidy(pages: Iterable[PageResult], options: Options) -> Iterator[tuple[PageResult, tuple[Block, ...]]]:
    """Yield each page with its blocks, changed as the options say; without options, as they were read."""
    running = find_running(pages) if options.drop_running else frozenset()
    read: Iterator[tuple[PageResult, tuple[Block, ...]]] = ((page, read_blocks(page)) for page in pages)
    if options.drop_running:
        read = ((page, drop_running(blocks, running)) for page, blocks in read)
    if options.join_hyphens:
        read = ((page, join_hyphens(blocks)) for page, blocks in read)
    return join_pages(read, options.join_hyphens) if options.join_pages else read


def find_running(pages: Iterable[PageResult]) -> frozenset[str]:
    """Return what repeats at the top or the bottom of pages, numbers written as #.

    Nothing where the layout names running heads: it names all of them, and what else repeats is text.
    """
    seen: Counter[str] = Counter()
    count = 0
    for page in pages:
        count += 1
        blocks = read_blocks(page)
        if any(block.kind in RUNNING for block in blocks):
            return frozenset()
        seen.update({_pattern(blocks[index]) for index in _edges(blocks)})
    least = max(_LEAST_PAGES, _REPEATED * count)
    return frozenset(pattern for pattern, times in seen.items() if pattern and times >= least)


def drop_running(blocks: tuple[Block, ...], running: frozenset[str]) -> tuple[Block, ...]:
    """Leave out headers, footers and page numbers: by their class, or at a page's ends by what repeats."""
    edges = set(_edges(blocks))
    return tuple(
        block
        for index, block in enumerate(blocks)
        if block.kind not in RUNNING and not (index in edges and _pattern(block) in running)
    )


def _edges(blocks: tuple[Block, ...]) -> list[int]:
    """Return which blocks can be a header or footer where no class says so."""
    texts = [index for index, block in enumerate(blocks) if block.kind in ("text", "line") and block.text]
    return sorted({*texts[:_EDGE_BLOCKS], *texts[-_EDGE_BLOCKS:]})


def _pattern(block: Block) -> str:
    text = block.text.strip()
    if len(text) > _LONGEST_RUNNING or "\n" in text:
        return ""
    if _ONLY_NUMBER.fullmatch(text):
        return "#"
    return _NUMBER.sub("#", text.casefold())


def join_hyphens(blocks: tuple[Block, ...]) -> tuple[Block, ...]:
    """Join words divided at the end of a line, inside a block and from one line to the next."""
    joined: list[Block] = []
    for block in blocks:
        if block.kind in ("text", "caption", "footnote"):
            block = replace(block, text=_HYPHEN.sub(_join_word, block.text))
        if joined and block.kind == joined[-1].kind == "line" and block.goes_on:
            before, first, rest = joined[-1].text, *_first_word(block.text)
            if _DIVIDED_AT_END.search(before) and _goes_on(first):
                # The word moves up whole, so that each line keeps its box.
                joined[-1] = replace(joined[-1], text=before[:-1] + first)
                block = replace(block, text=rest)
        joined.append(block)
    return tuple(block for block in joined if block.text or block.kind != "line")


def _join_word(found: re.Match[str]) -> str:
    return found[1] if _goes_on(found[1]) else f"-{found[1]}"


def _goes_on(word: str) -> bool:
    return word[:1].islower()


def _first_word(text: str) -> tuple[str, str]:
    first, _, rest = text.partition(" ")
    return first, rest


def join_pages(
    pages: Iterable[tuple[PageResult, tuple[Block, ...]]], hyphens: bool
) -> Iterator[tuple[PageResult, tuple[Block, ...]]]:
    """Move what continues the last paragraph of a page up to it, when a page ends in the middle of a sentence."""
    held: tuple[PageResult, tuple[Block, ...]] | None = None
    for page, blocks in pages:
        if held is not None:
            before, after = _join(held[1], blocks, hyphens) if page.number == held[0].number + 1 else (held[1], blocks)
            # A page of which nothing is left has nothing to join with the next one.
            yield held[0], before
            blocks = after
        held = page, blocks
    if held is not None:
        yield held


def _join(
    above: tuple[Block, ...], below: tuple[Block, ...], hyphens: bool
) -> tuple[tuple[Block, ...], tuple[Block, ...]]:
    last = _body(above, from_end=True)
    first = _body(below, from_end=False)
    if last is None or first is None:
        return above, below
    end, start = above[last].text, below[first].text
    if not end or not start or _SENTENCE_ENDS.search(end) or _BEGINS_ANEW.match(start) or start[0].isupper():
        return above, below
    if _DIVIDED_AT_END.search(end) and hyphens and _goes_on(start):
        end = end[:-1]
    elif end[-1].isascii() or start[0].isascii():
        end += " "
    above = (*above[:last], replace(above[last], text=end + start), *above[last + 1 :])
    return above, (*below[:first], *below[first + 1 :])


def _body(blocks: tuple[Block, ...], *, from_end: bool) -> int | None:
    """Return the first or last block if it is a paragraph; running heads and footnotes are passed over."""
    order = range(len(blocks) - 1, -1, -1) if from_end else range(len(blocks))
    for index in order:
        kind = blocks[index].kind
        if kind in ("text", "line"):
            return index if "<table" not in blocks[index].text else None
        if kind not in RUNNING and kind != "footnote":
            return None
    return None
