"""The folder of a task: the upload, the figures and the files that clients download."""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from app.errors import InvalidPath, TaskFileNotFound
from app.reader import Picture
from app.results.document import figure_name
from app.results.pages import PageResult

MARKDOWN, RAW, ARCHIVE = "result.md", "raw.json", "result.zip"
_SOURCE, _IMAGES = "source", "images"
_LONGEST_NAME = 100


class TaskFolder:
    """Folder `task_id`, a UUID, under the data directory."""

    def __init__(self, data: Path, task_id: str) -> None:
        self.path = data / str(uuid.UUID(task_id))

    @property
    def source(self) -> Path:
        """The upload."""
        return self.path / _SOURCE

    def make(self) -> None:
        """Make the folder, for this user alone."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def remove(self) -> None:
        """Delete the folder and all in it. Idempotent."""
        shutil.rmtree(self.path, ignore_errors=True)

    def save_pictures(self, pictures: Iterable[Picture]) -> None:
        """Write figures under their names, which `rename_figures` gave."""
        for picture in pictures:
            target = self.path / picture.name
            target.parent.mkdir(mode=0o700, exist_ok=True)
            _write(target, picture.jpeg)

    def pictures(self) -> list[str]:
        """Return the names of the figures, by page and place."""
        found = (self.path / _IMAGES).glob("page-*-img-*.jpg")
        names = [f"{_IMAGES}/{path.name}" for path in found]
        return sorted(names, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])

    def write_results(self, pages: Iterable[PageResult]) -> int:
        """Write the files that clients download, page by page; return the bytes of all but the upload."""
        markdown, raw = self.path / f"{MARKDOWN}.new", self.path / f"{RAW}.new"
        with markdown.open("w", encoding="utf-8", errors="replace") as text, raw.open("w", encoding="utf-8") as data:
            _write_pages(pages, text, data)
        archive = self.path / f"{ARCHIVE}.new"
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as packed:
            packed.write(markdown, MARKDOWN)
            packed.write(raw, RAW)
            for name in self.pictures():  # JPEG does not get smaller
                packed.write(self.path / name, name, zipfile.ZIP_STORED)
        for made in (markdown, raw, archive):
            made.replace(made.with_suffix(""))
        return sum(path.stat().st_size for path in self._files() if path.name != _SOURCE)

    def find(self, name: str) -> Path:
        """Return the file that a client asks for by its address within the task.

        Raises InvalidPath for what leads elsewhere and TaskFileNotFound for what is not there.
        """
        parts = name.split("/")
        if "\x00" in name or "\\" in name or any(part in ("", ".", "..") for part in parts):
            raise InvalidPath
        found = self.path.joinpath(*parts)
        if not found.resolve().is_relative_to(self.path.resolve()):
            raise InvalidPath
        if found == self.source or not found.is_file():
            raise TaskFileNotFound
        return found

    def _files(self) -> Iterator[Path]:
        return (path for path in self.path.rglob("*") if path.is_file())


def archive_name(upload: str) -> str:
    """Return the name under which the archive of an upload is offered."""
    base = re.split(r"[/\\]", upload)[-1]
    stem = re.sub(r'[\x00-\x1f\x7f<>:"|?*]', "_", base.rpartition(".")[0] or base).strip(" .")[:_LONGEST_NAME]
    return f"{stem}_PDF_OCR_Result.zip" if stem else ARCHIVE


def rename_figures(page: PageResult, pictures: Iterable[Picture]) -> tuple[PageResult, tuple[Picture, ...]]:
    """Give the figures of a page names that no other page of the document has, in its text too."""
    names = {figure.name: figure_name(page.number, place) for place, figure in enumerate(page.figures, 1)}
    text = re.sub(r"\]\(([^()\s]+)\)", lambda link: f"]({names[link[1]]})" if link[1] in names else link[0], page.text)
    figures = tuple(replace(figure, name=names[figure.name]) for figure in page.figures)
    renamed = tuple(Picture(names[picture.name], picture.jpeg) for picture in pictures)
    return replace(page, text=text, figures=figures), renamed


def page_json(page: PageResult) -> dict[str, Any]:
    """Return a page as clients read it; its `index` counts from 0."""
    return {
        "index": page.number - 1,
        "markdown": page.text,
        "raw_text": page.raw_text,
        "image_assets": [figure.name for figure in page.figures],
        "boxes": [{"label": box.label, "box": [box.x1, box.y1, box.x2, box.y2]} for box in page.boxes],
        "image_dims": {"w": page.width, "h": page.height},
        "dpi": page.dpi,
        "finish_reason": page.finish_reason,
        "looped": page.looped,
        "attempts": page.attempts,
        "error": {"code": page.failure.code, "detail": page.failure.detail} if page.failure else None,
    }


def _write_pages(pages: Iterable[PageResult], text: TextIO, data: TextIO) -> None:
    data.write('{"pages": [')
    for place, page in enumerate(pages):
        if place:
            text.write("\n\n---\n\n")
        note = f" was not read: {page.failure.code}" if page.failure else ""
        text.write(f"<!-- Page {page.number}{note} -->")
        if page.text:
            text.write(f"\n\n{page.text}")
        data.write(",\n" if place else "\n")
        json.dump(page_json(page), data)
    text.write("\n")
    data.write("\n]}\n")


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    new = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        with new.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
