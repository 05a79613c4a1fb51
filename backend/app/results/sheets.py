"""The pages that text is laid on: those of an uploaded PDF, or one made for each uploaded picture."""

from __future__ import annotations

import contextlib
import ctypes
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import pypdfium2
import pypdfium2.raw as pdfium
from PIL import Image, UnidentifiedImageError

from app.errors import ServiceError, UnreadablePdf
from app.ingest.choice import DEFAULT_DPI, PageChoice
from app.ingest.decode import decode
from app.ingest.limits import IngestLimits
from app.ingest.pdf import PdfFile
from app.results.ink import Ink
from app.results.pages import PageResult
from app.results.rect import Rect, Turn
from app.results.scans import Scans

Point = tuple[float, float]
Matrix = tuple[float, float, float, float, float, float]

_A4 = (595.0, 842.0)
_POINTS_PER_INCH = 72
_LIKELY_DPI = (50, 1200)
_SCREEN_DPI = 96
_SCREEN_PIXELS = 1000
_MOST_FRAMES = 100_000
_FORGET_AFTER = 50
"""Pages; PDFium keeps the pictures of those it has drawn until the file is closed."""
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Sheet:
    """A page of the PDF to be, and where the pixels of its result are on it.

    `origin` is the corner of pixel 0, 0; `across` and `down` lead from it to the next pixel, in the page's own units.
    """

    page: pypdfium2.PdfPage
    origin: Point
    across: Point
    down: Point
    ink: Ink | None = None

    def point(self, x: float, y: float) -> Point:
        """Return where a position in pixels is."""
        return (
            self.origin[0] + x * self.across[0] + y * self.down[0],
            self.origin[1] + x * self.across[1] + y * self.down[1],
        )

    def matrix(self, box: Rect, turn: Turn, length: float, descent: float) -> Matrix:
        """Return what brings text of size 1 and this length into a box, its descent inside."""
        corners = [(box.x1, box.y2), (box.x1, box.y1), (box.x2, box.y1), (box.x2, box.y2)]
        # Text begins at the lower left corner as the reader sees it.
        first = turn // 90
        start, above, _, ahead = (self.point(*corners[(first + n) % 4]) for n in range(4))
        along = ((ahead[0] - start[0]) / length, (ahead[1] - start[1]) / length)
        up = (above[0] - start[0], above[1] - start[1])
        return (*along, *up, start[0] + descent * up[0], start[1] + descent * up[1])

    def bounds(self, box: Rect) -> tuple[float, float, float, float]:
        """Return left, bottom, right and top of a box on the page."""
        (ax, ay), (bx, by) = self.point(box.x1, box.y1), self.point(box.x2, box.y2)
        return min(ax, bx), min(ay, by), max(ax, bx), max(ay, by)


class PdfSheets:
    """The pages of an uploaded PDF, all of them, read or not.

    Raises PasswordRequired, WrongPassword or UnreadablePdf.
    """

    def __init__(self, source: Path, password: str, max_pixels: int) -> None:
        self._source, self._password = source, password
        self._max_pixels = max_pixels
        # What is drawn is another copy than what is written to: it can be closed and forgotten in between.
        self._file = PdfFile(source, password)
        self._drawn = 0
        try:
            self.document = pypdfium2.PdfDocument(source, password=password or None)
        except pypdfium2.PdfiumError:
            self._file.close()
            raise UnreadablePdf from None

    def __enter__(self) -> PdfSheets:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.document.close()
        self._file.close()

    @contextlib.contextmanager
    def sheet(self, result: PageResult) -> Iterator[Sheet]:
        """Give the page that a result is about."""
        with contextlib.closing(self._open(result.number)) as page:
            # The drawing's corners on the page: cropped and turned as it was drawn.
            width, height = max(result.width, 1), max(result.height, 1)
            origin, right, bottom = (_to_page(page, width, height, *at) for at in ((0, 0), (width, 0), (0, height)))
            across = ((right[0] - origin[0]) / width, (right[1] - origin[1]) / width)
            down = ((bottom[0] - origin[0]) / height, (bottom[1] - origin[1]) / height)
            yield Sheet(page, origin, across, down, self._ink(result))

    def _open(self, number: int) -> pypdfium2.PdfPage:
        try:
            return self.document[number - 1]
        except (pypdfium2.PdfiumError, IndexError):
            raise UnreadablePdf(f"Page {number:,} of the PDF is damaged or missing.") from None

    def _ink(self, result: PageResult) -> Ink | None:
        if result.failure is not None:
            return None
        self._drawn += 1
        if self._drawn % _FORGET_AFTER == 0:
            self._file.close()
            self._file = PdfFile(self._source, self._password)
        try:
            drawn = self._file.render(result.number, result.dpi or DEFAULT_DPI, self._max_pixels)
        except ServiceError:  # the words then stand where they are reckoned
            return None
        return Ink(drawn) if (drawn.width, drawn.height) == (result.width, result.height) else None


class PictureSheets:
    """A new page for each picture of an upload, with the picture on it."""

    def __init__(self, source: Path, scans: Scans, max_pixels: int) -> None:
        self._source = source
        self._scans = scans
        self._limits = IngestLimits(max_pixels, _MOST_FRAMES, math.inf)
        self.document = pypdfium2.PdfDocument.new()

    def __enter__(self) -> PictureSheets:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.document.close()

    @contextlib.contextmanager
    def sheet(self, result: PageResult) -> Iterator[Sheet]:
        """Give a page with the picture on it, blank where the picture cannot be decoded."""
        try:
            picture = decode(self._source, self._limits, PageChoice(result.number))
        except ServiceError:
            if result.failure is None:
                raise
            with contextlib.closing(self.document.new_page(*_A4)) as page:
                yield Sheet(page, (0, _A4[1]), (1, 0), (0, -1))
            return
        header = _read_header(self._source, result.number)
        scale = _POINTS_PER_INCH / header.dpi(picture.width, picture.height)
        width, height = picture.width * scale, picture.height * scale
        if header.is_plain_jpeg and header.size == (picture.width, picture.height):
            access = self._scans.refer(self._source)
        else:
            access = self._scans.keep(picture)
        with contextlib.closing(self.document.new_page(width, height)) as page:
            image = pdfium.FPDFPageObj_NewImageObj(self.document)
            pdfium.FPDFImageObj_LoadJpegFile(None, 0, image, access)
            pdfium.FPDFPageObj_Transform(image, width, 0, 0, height, 0, 0)
            pdfium.FPDFPage_InsertObject(page, image)
            pdfium.FPDFPage_GenerateContent(page)
            yield Sheet(page, (0, height), (scale, 0), (0, -scale), Ink(picture))


@dataclass(frozen=True)
class _Header:
    """What a picture's file says beside its pixels; `resolution` is in dots per inch."""

    size: tuple[int, int] = (0, 0)
    is_plain_jpeg: bool = False
    resolution: float | None = None

    def dpi(self, width: int, height: int) -> float:
        """Return the dots per inch of the page: as stated where that is likely, else so that it is A4 or a screen."""
        if self.resolution is not None:
            return self.resolution
        longest = max(width, height)
        return _SCREEN_DPI if longest <= _SCREEN_PIXELS else longest * _POINTS_PER_INCH / _A4[1]


def _read_header(source: Path, number: int) -> _Header:
    """Read the header of a picture that was decoded without complaint."""
    try:
        with Image.open(source) as image:
            image.seek(number - 1)
            stated = image.info.get("dpi", (0, 0))
            # A picture for each direction of its own is beyond what a page's text needs.
            across = float(stated[0])
            turned = image.getexif().get(_ORIENTATION, 1) != 1
            plain = image.format in ("JPEG", "MPO") and image.mode in ("L", "RGB") and not turned
            likely = _LIKELY_DPI[0] <= across <= _LIKELY_DPI[1] and abs(across - float(stated[1])) < 1
            return _Header(image.size, plain, across if likely else None)
    except (OSError, UnidentifiedImageError, ValueError, TypeError, SyntaxError, ArithmeticError, LookupError):
        return _Header()


def _to_page(page: pypdfium2.PdfPage, width: int, height: int, x: int, y: int) -> Point:
    right, up = ctypes.c_double(), ctypes.c_double()
    pdfium.FPDF_DeviceToPage(page, 0, 0, width, height, 0, x, y, right, up)
    return right.value, up.value
