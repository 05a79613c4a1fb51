"""What the writers are given: a document, where its pictures are, and how to write it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from app.results.pages import PageResult


@dataclass(frozen=True)
class Document:
    """A document that was read.

    `pages` can be gone through more than once: a tuple, or an object that reads them from disk each time.
    `source` is the upload, which the searchable PDF is made of; the other formats need none.
    """

    title: str
    pages: Iterable[PageResult]
    source: Path | None = None
    password: str = field(default="", repr=False)


class Pictures(Protocol):
    """The pictures cut out of a document's pages."""

    def figure(self, page: int, number: int) -> bytes | None:
        """Return figure `number` of a page, both from 1 on, as JPEG; None where there is none."""


class NoPictures:
    """For a document whose pictures are not at hand: every figure is mentioned, none is shown."""

    def figure(self, page: int, number: int) -> bytes | None:
        """Return None."""
        return None


@dataclass(frozen=True)
class PagePictures:
    """The figures of a single page, in memory, in order."""

    jpegs: tuple[bytes, ...]

    def figure(self, page: int, number: int) -> bytes | None:
        """Return the figure's bytes, None where there are no more."""
        return self.jpegs[number - 1] if number <= len(self.jpegs) else None


@dataclass(frozen=True)
class FolderPictures:
    """Figures kept in a folder under the names that `figure_name` gives them."""

    folder: Path

    def figure(self, page: int, number: int) -> bytes | None:
        """Return the file's bytes, None where it is missing."""
        path = self.folder / figure_name(page, number)
        return path.read_bytes() if path.is_file() else None


@dataclass(frozen=True)
class Options:
    """How a document is written; the first three change its text and are off by default.

    `drop_running` leaves out headers, footers and page numbers, `join_hyphens` joins words divided at the end
    of a line, `join_pages` joins paragraphs that run over a page. `language` is a BCP 47 tag for HTML and hOCR,
    guessed from the script where empty. In a PDF, `add_to_existing_text` writes text even where the page has
    the same text already; `max_pixels` bounds the pages that are rendered to find words on them.
    """

    drop_running: bool = False
    join_hyphens: bool = False
    join_pages: bool = False
    language: str = ""
    add_to_existing_text: bool = False
    max_pixels: int = 200_000_000


def figure_name(page: int, number: int) -> str:
    """Return where a document's files have figure `number` of a page, both from 1 on."""
    return f"images/page-{page}-img-{number}.jpg"


@dataclass(frozen=True)
class StoredPages:
    """Pages kept in a file, one JSON object on each line: what `store` wrote. Read anew each time."""

    path: Path

    def __iter__(self) -> Iterator[PageResult]:
        with self.path.open(encoding="ascii") as file:
            for line in file:
                yield PageResult.from_line(line)

    @classmethod
    def store(cls, path: Path, pages: Iterable[PageResult]) -> StoredPages:
        """Write pages to a file, one at a time."""
        with path.open("w", encoding="ascii") as file:
            for page in pages:
                file.write(page.to_line())
        return cls(path)
