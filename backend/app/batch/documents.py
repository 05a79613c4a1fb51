"""Which files are to be read, where their results go, and which are done already."""

from __future__ import annotations

import glob
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from app.batch.arguments import FORMATS

# What is taken from a folder. A file that is named is read whatever it is called: the service knows it by its content.
SUFFIXES = frozenset(
    ".pdf .jpg .jpeg .jpe .png .webp .bmp .gif .tif .tiff .avif .jp2 .j2k .jpx .heic .heif".split()  # noqa: SIM905
)
_RECORDS = ".deepseek-ocr"
_FIGURE = re.compile(r"page-\d+-img-\d+\.jpg")
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Document:
    """A file to read, and the path of its results below the output folder, without a suffix."""

    path: Path
    name: Path


def find_documents(paths: Iterable[str], out: Path) -> tuple[list[Document], list[str]]:
    """Return the documents that paths, folders and patterns stand for, each once, and the paths that stand for none.

    Results keep the tree below a folder that was given. Two documents never share a name: the later one keeps its suffix.
    What an earlier run has written to `out` is not taken from a folder.
    """
    found: dict[Path, Document] = {}
    names: set[Path] = set()
    missing = []
    for given in paths:
        files = list(_files(given, out.resolve()))
        if not files:
            missing.append(given)
        for file, base in files:
            if file.resolve() in found:
                continue
            whole = file.relative_to(base)
            name = whole.with_suffix("")
            number = 1
            while name in names:
                number += 1
                name = whole if number == 2 else whole.with_name(f"{whole.name}-{number - 1}")
            names.add(name)
            found[file.resolve()] = Document(file, name)
    return list(found.values()), missing


def _files(given: str, out: Path) -> Iterator[tuple[Path, Path]]:
    """Yield files and the folder each one's name counts from."""
    path = Path(given)
    # Path.glob refuses absolute patterns.
    matches = [path] if path.exists() else [Path(match) for match in sorted(glob.glob(given, recursive=True))]  # noqa: PTH207
    for match in matches:
        if match.is_dir():
            inside = (file for file in sorted(match.rglob("*")) if file.suffix.lower() in SUFFIXES and file.is_file())
            results = out if out != match.resolve() else out / _RECORDS
            yield from ((file, match) for file in inside if not _is_result(file, results))
        elif match.is_file():
            yield match, match.parent


def _is_result(file: Path, results: Path) -> bool:
    """Say whether a file was written by a run whose output folder is `results`, or by one among the scans themselves."""
    figure = file.parent.name == "images" and _FIGURE.fullmatch(file.name)
    own = figure or file.name.endswith(f".{FORMATS['pdf']}") or _RECORDS in file.parts
    return bool(own) or file.resolve().is_relative_to(results)


def fingerprint(path: Path, options: Mapping[str, object]) -> str:
    """Return a digest of a file's bytes and how it is to be read; raises OSError."""
    digest = hashlib.sha256(json.dumps(dict(options), sort_keys=True).encode())
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


class Records:
    """What was written before, kept in the output folder: one small file for each document."""

    def __init__(self, out: Path) -> None:
        self.folder = out / _RECORDS

    def written(self, document: Document, digest: str) -> dict[str, str]:
        """Return the formats a document was written in, read like this and with no page failed, and how each was written."""
        try:
            record = json.loads(self._path(document).read_text("utf-8"))
            return dict(record["formats"]) if record["fingerprint"] == digest else {}
        except (OSError, ValueError, TypeError, KeyError):
            return {}

    def keep(self, document: Document, digest: str, written: Mapping[str, str]) -> None:
        """Note what a document is written in."""
        path = self._path(document)
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f"{path.name}.new")
        new.write_text(json.dumps({"fingerprint": digest, "formats": dict(written)}), "utf-8")
        new.replace(path)

    def _path(self, document: Document) -> Path:
        return self.folder / "done" / document.name.with_name(f"{document.name.name}.json")
