"""Pictures on their way into a PDF: kept in a file, read by PDFium when it saves, one at a time."""

from __future__ import annotations

import ctypes
import tempfile
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import pypdfium2.raw as pdfium
from PIL import Image

from app.page import Page

_QUALITY = 85


class Scans:
    """Holds pictures as JPEG in one nameless file in `folder`; must outlive the document they are put into."""

    def __init__(self, folder: Path) -> None:
        self._file: BinaryIO = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - __exit__ closes it
        self._others: list[BinaryIO] = []
        self._kept: list[Any] = []

    def __enter__(self) -> Scans:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in (self._file, *self._others):
            file.close()

    def keep(self, page: Page) -> Any:
        """Keep a page's picture as JPEG, in grey where it has no colour; return what PDFium reads it by."""
        pixels = page.pixels
        grey = np.array_equal(pixels[:, :, 0], pixels[:, :, 1]) and np.array_equal(pixels[:, :, 0], pixels[:, :, 2])
        buffer = BytesIO()
        image = Image.fromarray(np.ascontiguousarray(pixels[:, :, 0]) if grey else pixels)
        image.save(buffer, "JPEG", quality=_QUALITY)
        start = self._file.seek(0, 2)
        self._file.write(buffer.getbuffer())
        return self._access(self._file, start, self._file.tell() - start)

    def refer(self, path: Path) -> Any:
        """Return what PDFium reads the JPEG file at `path` by, which is left where it is."""
        file = path.open("rb")
        self._others.append(file)
        return self._access(file, 0, path.stat().st_size)

    def _access(self, file: BinaryIO, start: int, length: int) -> Any:
        def read(_: Any, position: int, buffer: Any, size: int) -> int:
            file.seek(start + position)
            data = file.read(size)
            ctypes.memmove(buffer, data, len(data))
            return int(len(data) == size)

        access = pdfium.FPDF_FILEACCESS()
        access.m_FileLen = length
        access.m_GetBlock = type(access.m_GetBlock)(read)
        self._kept.append(access)
        return access
