"""The formats, and one way to write a document in any of them."""

from __future__ import annotations

import contextlib
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from app.results.document import Document, NoPictures, Options, Pictures, figure_name
from app.results.hocr import HocrWriter
from app.results.html import HtmlWriter
from app.results.json_file import JsonWriter
from app.results.pdf import PdfWriter
from app.results.plain import MarkdownWriter, TextWriter
from app.results.read import ReadPage, read_pages
from app.results.tables_csv import CsvWriter, csv_files
from app.results.word import WordWriter


class Writer(Protocol):
    """Writes one file, page by page."""

    def add(self, page: ReadPage) -> None:
        """Write one page."""

    def close(self) -> None:
        """Finish the file."""

    def abandon(self) -> None:
        """Let go of everything; the file is not whole."""


@dataclass(frozen=True)
class Format:
    """A format by its name in the API: media type, name of the file, and what writes it.

    `streams` says that memory does not grow with the document. `needs_source` formats are made of the upload, which
    PDFium or Pillow opens: they are written in a worker process.
    """

    name: str
    media_type: str
    file_name: str
    writer: Callable[[Path, Document, Pictures, Options], Writer]
    streams: bool = True
    needs_source: bool = False


class ZipWriter:
    """Writes several formats, the figures and, with "csv" among `formats`, the tables into one zip."""

    formats: tuple[str, ...] = ("markdown", "text", "html", "json", "csv", "docx", "pdf", "hocr")

    def __init__(self, path: Path, document: Document, pictures: Pictures, options: Options) -> None:
        self._pictures = pictures
        with contextlib.ExitStack() as stack:
            self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=path.parent)))
            self._zip = stack.enter_context(zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED))
            self._files: list[tuple[Path, Writer]] = []
            for found in map(FORMATS.__getitem__, self.formats):
                if found.name != "csv" and (document.source or not found.needs_source):
                    file = self._folder / found.file_name
                    writer = found.writer(file, document, pictures, options)
                    stack.callback(writer.abandon)
                    self._files.append((file, writer))
            self._open = stack.pop_all()

    def add(self, page: ReadPage) -> None:
        """Write one page."""
        for _, writer in self._files:
            writer.add(page)
        for name, data in csv_files(page) if "csv" in self.formats else ():
            self._zip.writestr(f"tables/{name}", data)
        for number in range(1, len(page.result.figures) + 1):
            picture = self._pictures.figure(page.result.number, number)
            if picture is not None:
                self._zip.writestr(figure_name(page.result.number, number), picture, zipfile.ZIP_STORED)

    def close(self) -> None:
        """Finish the file."""
        with self._open:
            for file, writer in self._files:
                writer.close()
                self._zip.write(file, file.name)
                file.unlink()

    def abandon(self) -> None:
        """Let go of every file."""
        self._open.close()


class ArchiveWriter(ZipWriter):
    """Writes what front ends of the predecessor offer for download."""

    formats = ("markdown", "json")


FORMATS: dict[str, Format] = {
    found.name: found
    for found in (
        Format("markdown", "text/markdown; charset=utf-8", "result.md", MarkdownWriter),
        Format("text", "text/plain; charset=utf-8", "result.txt", TextWriter),
        Format("html", "text/html; charset=utf-8", "result.html", HtmlWriter),
        Format("json", "application/json", "raw.json", JsonWriter),
        Format("csv", "application/zip", "tables.zip", CsvWriter),
        Format(
            "docx",
            "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
            "result.docx",
            WordWriter,
            streams=False,
        ),
        Format("pdf", "application/pdf", "searchable.pdf", PdfWriter, needs_source=True),
        Format("hocr", "application/xhtml+xml; charset=utf-8", "result.hocr", HocrWriter),
        Format("archive", "application/zip", "result.zip", ArchiveWriter),
        Format("zip", "application/zip", "all.zip", ZipWriter, streams=False, needs_source=True),
    )
}
"""Every format, by its name."""


def write(
    document: Document,
    format_name: str,
    path: Path,
    pictures: Pictures | None = None,
    options: Options | None = None,
) -> None:
    """Write a document in one of FORMATS to `path`; otherwise like `write_all`."""
    write_all(document, {format_name: path}, pictures, options)


def write_all(
    document: Document,
    targets: Mapping[str, Path],
    pictures: Pictures | None = None,
    options: Options | None = None,
) -> None:
    """Write a document in several of FORMATS, reading each page once; `targets` has their paths.

    Every argument can be sent to a worker process. What text there is raises nothing. Raises KeyError for an unknown
    format, and for those that need the upload what opening it raises; without an upload, "zip" leaves the PDF out.
    Where one file cannot be finished, none is left.
    """
    options, pictures = options or Options(), pictures or NoPictures()
    try:
        with contextlib.ExitStack() as abandoning:
            writers = []
            for name, path in targets.items():
                writer = FORMATS[name].writer(path, document, pictures, options)
                abandoning.callback(_abandon, writer)
                writers.append(writer)
            for page in read_pages(document, options):
                for writer in writers:
                    writer.add(page)
            for writer in writers:
                writer.close()
            abandoning.pop_all()
    except BaseException:
        for path in targets.values():
            path.unlink(missing_ok=True)
        raise


def _abandon(writer: Writer) -> None:
    with contextlib.suppress(OSError):
        writer.abandon()
