"""The table of formats, its documentation, and how a document is written."""

from __future__ import annotations

import pickle
from dataclasses import fields
from pathlib import Path

import pytest

from app.results.document import Document, FolderPictures, Options, StoredPages, figure_name
from app.results.pages import PageResult
from app.results.writers import FORMATS, write
from tests.pages import page as documentation
from tests.pages import rows, section
from tests.results.documents import document, failed, figure, layout, page


def test_every_format_and_option_is_documented() -> None:
    table = rows(documentation("docs/results.md").partition("## Options")[0])
    for form in FORMATS.values():
        assert table[form.name][0] == f"`{form.file_name}`"
    options = rows(section("docs/results.md", "## Options"))
    assert set(options) == {option.name for option in fields(Options)} - {"max_pixels"}


def test_stored_pages_come_back_as_they_were_each_time(tmp_path: Path) -> None:
    pages = [page("港 \ud800\n", figures=(figure(1, 2, 3, 4),), dpi=144.0), failed(2)]
    stored = StoredPages.store(tmp_path / "pages.jsonl", pages)
    assert list(stored) == list(stored) == pages
    assert list(pickle.loads(pickle.dumps(stored))) == pages


def test_figures_come_from_a_folder(tmp_path: Path) -> None:
    path = tmp_path / figure_name(2, 1)
    path.parent.mkdir()
    path.write_bytes(b"jpeg")
    pictures = FolderPictures(tmp_path)
    assert (pictures.figure(2, 1), pictures.figure(2, 2)) == (b"jpeg", None)


def test_the_password_is_in_no_log() -> None:
    assert "secret" not in repr(Document("Ships", (), None, "secret"))


def test_a_page_that_cannot_be_read_from_disk_leaves_no_half_file(tmp_path: Path) -> None:
    stored = StoredPages(tmp_path / "pages.jsonl")
    stored.path.write_text(page("a").to_line() + "cut")
    for name in ("markdown", "html", "docx", "csv", "hocr", "json", "text", "zip"):
        target = tmp_path / FORMATS[name].file_name
        with pytest.raises(ValueError, match="Expecting value"):
            write(Document("Ships", stored), name, target)
        assert [path.name for path in tmp_path.iterdir()] == ["pages.jsonl"], name


def test_pages_are_read_once_while_they_are_written(tmp_path: Path) -> None:
    """One parse, whatever is written of it: the parts are kept with the page."""
    from app.results.read import read_pages

    (read,) = read_pages(document(page(layout(("text", "a")))), Options())
    assert read.content is read.content


def test_an_older_page_without_mode_or_size_is_written(tmp_path: Path) -> None:
    for name in ("markdown", "html", "docx", "csv", "hocr", "json", "text"):
        write(document(PageResult(1, text="Words")), name, tmp_path / FORMATS[name].file_name)
    assert (tmp_path / "result.md").read_text() == "<!-- Page 1 -->\n\nWords\n"
