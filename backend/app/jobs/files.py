"""The folder of a task: the upload, the figures and the files that clients download."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

from app.errors import InvalidPath, TaskFileNotFound
from app.reader import Picture
from app.results.document import Options, figure_name
from app.results.pages import PageResult
from app.results.writers import FORMATS

_SOURCE, _PASSWORD, _IMAGES, _MADE, _SCRATCH = "source", "password", "images", "made", "scratch-"
_LONGEST_NAME = 100
_PICTURE = re.compile(r"images/page-[1-9][0-9]{0,9}-img-[1-9][0-9]{0,9}\.jpg")
# What no file system of a person's machine takes, and what changes the look of the text around it.
_UNFIT = re.compile(r'[\x00-\x1f\x7f-\x9f<>:"|?*\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]')


class TaskFolder:
    """Folder `task_id`, a UUID, under the data directory."""

    def __init__(self, data: Path, task_id: str) -> None:
        self.path = data / str(uuid.UUID(task_id))

    @property
    def source(self) -> Path:
        """The upload."""
        return self.path / _SOURCE

    @property
    def password_half(self) -> Path:
        """What is kept here of an encrypted upload's password."""
        return self.path / _PASSWORD

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

    def made(self, run: int, options: Options, file_name: str) -> Path:
        """Return where a file is kept that was written, with such options, of the pages of a run."""
        return self.path / _MADE / str(run) / _key(options) / file_name

    def make_scratch(self) -> Path:
        """Make a folder for files that are being written; raises OSError in a task that is gone."""
        return Path(tempfile.mkdtemp(dir=self.path, prefix=_SCRATCH))

    def remove_made(self, but: int) -> None:
        """Delete what was written of the pages of other runs."""
        for entry in (self.path / _MADE).glob("*"):
            if entry.name != str(but):
                shutil.rmtree(entry, ignore_errors=True)

    def size(self) -> int:
        """Return the bytes of all files."""
        return sum(path.stat().st_size for path in self.path.rglob("*") if path.is_file())

    def picture(self, name: str) -> Path:
        """Return a figure by its address within the task; raises TaskFileNotFound."""
        found = self.path / name
        if not _PICTURE.fullmatch(name) or not found.is_file():
            raise TaskFileNotFound
        return found


def check_path(name: str) -> None:
    """Raise InvalidPath for an address that leads out of its task."""
    if "\x00" in name or "\\" in name or any(part in ("", ".", "..") for part in name.split("/")):
        raise InvalidPath


def keep(file: Path, target: Path) -> None:
    """Move a file that was written to where it is kept."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file.replace(target)


def _key(options: Options) -> str:
    """Return a folder's name that no other options have."""
    if options == Options():
        return "plain"
    return hashlib.sha256(json.dumps(asdict(options), sort_keys=True).encode()).hexdigest()[:32]


def stem(upload: str) -> str:
    """Return what of an upload's name is fit for a file's name, without its ending; may be empty."""
    base = re.split(r"[/\\]", upload)[-1]
    return _UNFIT.sub("_", base.rpartition(".")[0] or base).strip(" .")[:_LONGEST_NAME]


def archive_name(upload: str) -> str:
    """Return the name under which the archive of an upload is offered."""
    return f"{name}_PDF_OCR_Result.zip" if (name := stem(upload)) else FORMATS["archive"].file_name


def rename_figures(page: PageResult, pictures: Iterable[Picture]) -> tuple[PageResult, tuple[Picture, ...]]:
    """Give the figures of a page names that no other page of the document has, in its text too."""
    names = {figure.name: figure_name(page.number, place) for place, figure in enumerate(page.figures, 1)}
    text = re.sub(r"\]\(([^()\s]+)\)", lambda link: f"]({names[link[1]]})" if link[1] in names else link[0], page.text)
    figures = tuple(replace(figure, name=names[figure.name]) for figure in page.figures)
    renamed = tuple(Picture(names[picture.name], picture.jpeg) for picture in pictures)
    return replace(page, text=text, figures=figures), renamed


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
