"""The searchable PDF: the upload's pages as they are, with their text placed invisibly where it stands.

PDFium opens the upload, so this runs in a worker process.
"""

from __future__ import annotations

import contextlib
import ctypes
import unicodedata
from collections import Counter
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

import pypdfium2
import pypdfium2.raw as pdfium

from app.errors import ServiceError
from app.ingest.decode import is_pdf
from app.results.document import Document, Options, Pictures
from app.results.glyphless import ADVANCE, DESCENT, GLYPHS, code, to_unicode, truetype
from app.results.lines import Line, Word, place, reads_from_right
from app.results.read import ReadPage
from app.results.rect import stretch
from app.results.scans import Scans
from app.results.sheets import Matrix, PdfSheets, PictureSheets, Sheet
from app.results.text import failure_sentence

_SAME_TEXT = 0.8
"""Share of a line's letters that the page has there already from which on the line is left out."""

MOST_WORDS = 400
"""Of one line; a line of more, which no page has, is placed as one, or a page of megabytes takes gigabytes."""

_NOTE = 24.0
"""Points of the note on a page that failed."""


class PdfWriter:
    """Adds the text of one page after the other, and saves with `close`.

    Raises what opening a damaged or encrypted PDF raises; `document.source` must be there.
    """

    def __init__(self, path: Path, document: Document, pictures: Pictures, options: Options) -> None:
        assert document.source is not None, "a searchable PDF is made of its upload"
        self._path = path
        self._options = options
        self._sheets: PdfSheets | PictureSheets
        with contextlib.ExitStack() as stack:
            if is_pdf(document.source):
                self._sheets = stack.enter_context(PdfSheets(document.source, document.password, options.max_pixels))
            else:
                scans = stack.enter_context(Scans(path.parent))
                self._sheets = stack.enter_context(PictureSheets(document.source, scans, options.max_pixels))
            self._open = stack.pop_all()
        self._fonts: dict[int, Any] = {}

    def add(self, page: ReadPage) -> None:
        """Put the text of one page on it; a page that failed gets a note that says why."""
        result = page.result
        if result.failure is not None:
            # It may be the page itself that is damaged; then it stays as it is.
            with contextlib.suppress(ServiceError), self._sheets.sheet(result) as sheet:
                _add_note(sheet, failure_sentence(result.number, result.failure.detail))
            return
        with self._sheets.sheet(result) as sheet:
            lines = [line for placed in place(result, page.content, sheet.ink) for line in placed.lines]
            if not self._options.add_to_existing_text:
                lines = _without_existing(sheet, lines)
            for line in lines:
                for word in line.words if len(line.words) <= MOST_WORDS else (Word(line.text, line.box),):
                    self._add_word(sheet, line, word)
            if lines:
                pdfium.FPDFPage_GenerateContent(sheet.page)

    def close(self) -> None:
        """Save the file."""
        with self._open:
            self._sheets.document.save(self._path)

    def abandon(self) -> None:
        """Let go of everything and save nothing."""
        self._open.close()

    def _add_word(self, sheet: Sheet, line: Line, word: Word) -> None:
        characters = [character for character in word.text if unicodedata.category(character) not in ("Cc", "Cs")]
        if reads_from_right(word.text):
            # As it is seen from the left, which is what readers expect and turn round.
            characters.reverse()
        start = 0
        for plane, group in groupby(characters, lambda character: ord(character) >> 16):
            codes = [code(character) for character in group]
            end = start + len(codes)
            box = stretch(word.box, line.turn, start / len(characters), end / len(characters))
            matrix = sheet.matrix(box, line.turn, len(codes) * ADVANCE, DESCENT)
            # A space behind a word ends it for every reader; a font holds one plane of Unicode, and the first has it.
            last = end == len(characters) and plane == 0
            self._add_text(sheet.page, plane, [*codes, 0x20] if last else codes, matrix)
            start = end

    def _add_text(self, page: pypdfium2.PdfPage, plane: int, codes: list[int], matrix: Matrix) -> None:
        if plane not in self._fonts:
            self._fonts[plane] = _load_font(self._sheets.document, plane)
        text = pdfium.FPDFPageObj_CreateTextObj(self._sheets.document, self._fonts[plane], 1.0)
        pdfium.FPDFText_SetCharcodes(text, (ctypes.c_uint32 * len(codes))(*codes), len(codes))
        pdfium.FPDFTextObj_SetTextRenderMode(text, pdfium.FPDF_TEXTRENDERMODE_INVISIBLE)
        pdfium.FPDFPageObj_Transform(text, *matrix)
        pdfium.FPDFPage_InsertObject(page, text)


def _load_font(document: pypdfium2.PdfDocument, plane: int) -> Any:
    font = truetype(f"Unseen{plane}")
    return pdfium.FPDFText_LoadCidType2Font(
        document,
        (ctypes.c_ubyte * len(font)).from_buffer_copy(font),
        len(font),
        to_unicode(plane),
        (ctypes.c_ubyte * len(GLYPHS)).from_buffer_copy(GLYPHS),
        len(GLYPHS),
    )


def _without_existing(sheet: Sheet, lines: list[Line]) -> list[Line]:
    """Leave out the lines whose letters the page has as text in the same place."""
    with contextlib.closing(sheet.page.get_textpage()) as existing:
        if existing.count_chars() <= 0:
            return lines
        return [line for line in lines if not _is_there(line, existing.get_text_bounded(*sheet.bounds(line.box)))]


def _is_there(line: Line, existing: str) -> bool:
    letters = _letters(line.text)
    return letters.total() > 0 and (letters & _letters(existing)).total() >= _SAME_TEXT * letters.total()


def _letters(text: Iterable[str]) -> Counter[str]:
    return Counter(character for character in text if character.isalnum())


def _add_note(sheet: Sheet, text: str) -> None:
    """Add a note that viewers show and printers leave out."""
    note = pdfium.FPDFPage_CreateAnnot(sheet.page, pdfium.FPDF_ANNOT_TEXT)
    if not note:
        return
    try:
        x, y = sheet.origin
        right, down = (_unit(sheet.across), _unit(sheet.down))
        corner = (x + _NOTE * (right[0] + down[0]), y + _NOTE * (right[1] + down[1]))
        area = pdfium.FS_RECTF(min(x, corner[0]), max(y, corner[1]), max(x, corner[0]), min(y, corner[1]))
        pdfium.FPDFAnnot_SetRect(note, area)
        encoded = (text + "\0").encode("utf-16-le", "replace")
        buffer = (ctypes.c_ushort * (len(encoded) // 2)).from_buffer_copy(encoded)
        pdfium.FPDFAnnot_SetStringValue(note, b"Contents", buffer)
        pdfium.FPDFAnnot_SetFlags(note, 0)
    finally:
        pdfium.FPDFPage_CloseAnnot(note)


def _unit(direction: tuple[float, float]) -> tuple[float, float]:
    length = max(abs(direction[0]), abs(direction[1])) or 1.0
    return direction[0] / length, direction[1] / length
