"""A document's pages as the writers get them: each page with its blocks, changed as the options say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from app.results.blocks import Block
from app.results.content import Part, read_content
from app.results.document import Document, Options
from app.results.pages import PageResult
from app.results.tidy import tidy


@dataclass(frozen=True)
class ReadPage:
    """One page and its blocks; what the blocks say is read once, for all writers."""

    result: PageResult
    blocks: tuple[Block, ...]

    @cached_property
    def content(self) -> tuple[tuple[Block, tuple[Part, ...]], ...]:
        """Each block with its parts."""
        return tuple((block, read_content(block)) for block in self.blocks)


def read_pages(document: Document, options: Options) -> Iterator[ReadPage]:
    """Yield the pages in order, holding two at most."""
    for page, blocks in tidy(document.pages, options):
        yield ReadPage(page, blocks)
