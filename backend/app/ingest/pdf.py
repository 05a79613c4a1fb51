"""Pages of a PDF as pixels; runs in the decoder's worker processes, since PDFium may crash, hang or burst."""

from __future__ import annotations

import contextlib
import math
import mmap
import re
from pathlib import Path
from types import TracebackType

import numpy as np
import pypdfium2
import pypdfium2.raw as pdfium
from numpy.typing import NDArray

from app.errors import PageOutOfRange, PasswordRequired, TooManyPixels, UnreadablePdf, WrongPassword
from app.ingest.choice import LOWEST_DPI
from app.page import Page

_POINTS_PER_INCH = 72

# Annotations are drawn, form fields after them; RGB in place of PDFium's BGR.
_DRAWING = pdfium.FPDF_ANNOT | pdfium.FPDF_REVERSE_BYTE_ORDER
_WHITE = 0xFFFFFFFF

# Where the last index of objects begins; each saved change appends objects and an index of its own (PDF 1.7, 7.5.6).
_LAST_INDEX = b"startxref"
_OBJECT = re.compile(rb"\d{1,10}\s{1,4}\d{1,5}\s{1,4}obj\b")


class PdfFile:
    """An open PDF that renders one page after the other and keeps none of them.

    `source` is the file's bytes or its path; a file is read as pages need it. Page numbers count
    from 1. Raises PasswordRequired, WrongPassword or UnreadablePdf.
    """

    def __init__(self, source: bytes | Path, password: str = "") -> None:
        self._document = _open(source, password)
        try:
            _refuse_cut_short(source)
            with contextlib.suppress(pypdfium2.PdfiumError):  # a damaged form leaves the rest of the page readable
                self._document.init_forms()
            self.page_count = len(self._document)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> PdfFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._document.close()

    def page_size(self, number: int) -> tuple[float, float]:
        """Return width and height in points of page `number` as it is shown: cropped and turned."""
        self._check_number(number)
        try:
            width, height = self._document.get_page_size(number - 1)
        except pypdfium2.PdfiumError:
            raise _damaged_page(number) from None
        if not (0 < width < math.inf and 0 < height < math.inf):
            raise _damaged_page(number)
        return float(width), float(height)

    def render(self, number: int, dpi: float, max_pixels: int) -> Page:
        """Return page `number` on white, with annotations and form fields.

        Where the page has more than `max_pixels` at `dpi`, it is rendered at the highest dpi that fits;
        raises TooManyPixels where that is below LOWEST_DPI.
        """
        width, height, fitting_dpi = self.fit(number, dpi, max_pixels)
        return Page(self.draw(number, width, height), "PDF", number, self.page_count, fitting_dpi)

    def fit(self, number: int, dpi: float, max_pixels: int) -> tuple[int, int, float]:
        """Return the width and height in pixels that `render` gives page `number`, and the dpi; raises TooManyPixels."""
        return _fit(self.page_size(number), dpi, max_pixels)

    def draw(self, number: int, width: int, height: int) -> NDArray[np.uint8]:
        """Return page `number`, one that there is, drawn over so many pixels."""
        try:
            pixels = np.empty((height, width, 3), np.uint8)
        except MemoryError:
            raise TooManyPixels from None
        try:
            page = self._document[number - 1]
        except pypdfium2.PdfiumError:
            raise _damaged_page(number) from None
        try:
            self._draw(page, pixels)
        finally:
            page.close()
        return pixels

    def _draw(self, page: pypdfium2.PdfPage, pixels: NDArray[np.uint8]) -> None:
        height, width, _ = pixels.shape
        # PDFium draws straight into the array.
        buffer = pixels.ctypes.data_as(pdfium.POINTER(pdfium.c_ubyte))
        bitmap = pdfium.FPDFBitmap_CreateEx(width, height, pdfium.FPDFBitmap_BGR, buffer, pixels.strides[0])
        if not bitmap:
            raise TooManyPixels
        try:
            pdfium.FPDFBitmap_FillRect(bitmap, 0, 0, width, height, _WHITE)
            area = (bitmap, page, 0, 0, width, height, 0, _DRAWING)
            pdfium.FPDF_RenderPageBitmap(*area)
            if page.formenv:
                pdfium.FPDF_FFLDraw(page.formenv, *area)
        finally:
            pdfium.FPDFBitmap_Destroy(bitmap)

    def _check_number(self, number: int) -> None:
        if not 1 <= number <= self.page_count:
            raise PageOutOfRange.of(number, self.page_count)


def _open(source: bytes | Path, password: str) -> pypdfium2.PdfDocument:
    try:
        return pypdfium2.PdfDocument(source, password=password or None)
    except pypdfium2.PdfiumError as error:
        code = error.err_code
    if code == pdfium.FPDF_ERR_PASSWORD:
        raise WrongPassword if password else PasswordRequired
    if code == pdfium.FPDF_ERR_SECURITY:
        raise UnreadablePdf(
            "The PDF is encrypted in a way that cannot be read. Save it without encryption and send that."
        )
    raise UnreadablePdf


def _refuse_cut_short(source: bytes | Path) -> None:
    """Raise UnreadablePdf for a file whose end is missing.

    PDFium opens what is left of it, and pages would come out without some of their text. A whole file
    ends with an index of its objects; after a cut there is none, or there are objects behind the last.
    """
    if isinstance(source, bytes):
        cut = _is_cut_short(source)
    else:
        with source.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            cut = _is_cut_short(data)
    if cut:
        raise UnreadablePdf(
            "The PDF is cut short: its end is missing. It is not read in part, because text would be missing. "
            "Send the whole file."
        )


def _is_cut_short(data: bytes | mmap.mmap) -> bool:
    index = data.rfind(_LAST_INDEX)
    return index < 0 or _OBJECT.search(data, index) is not None


def _fit(size: tuple[float, float], dpi: float, max_pixels: int) -> tuple[int, int, float]:
    """Return width and height in pixels of a page of `size` points, and the dpi, lowered where it has to be."""
    across, down = _pixels(size, dpi)
    if across * down > max_pixels:
        # The scale at which the page has at most max_pixels although both sides are rounded up:
        # (width * scale + 1) * (height * scale + 1) = max_pixels
        width, height = size
        slope = width + height
        scale = (math.sqrt(slope**2 + 4 * width * height * (max_pixels - 1)) - slope) / (2 * width * height)
        dpi = math.floor(scale * _POINTS_PER_INCH * 100) / 100
        across, down = _pixels(size, dpi)
    if dpi < LOWEST_DPI or across * down > max_pixels:
        inches = " x ".join(f"{side / _POINTS_PER_INCH:,.4g}" for side in size)
        raise TooManyPixels(
            f"The page measures {inches} inches: even at {LOWEST_DPI} dpi more than the {max_pixels / 1e6:,g} megapixels "
            "that are accepted. Print it to a smaller paper size as a new PDF."
        )
    return across, down, dpi


def _pixels(size: tuple[float, float], dpi: float) -> tuple[int, int]:
    width, height = (max(1, math.ceil(side * dpi / _POINTS_PER_INCH)) for side in size)
    return width, height


def _damaged_page(number: int) -> UnreadablePdf:
    return UnreadablePdf(
        f"Page {number:,} of the PDF is damaged or missing. Check that it opens in a viewer; other pages may be readable."
    )
