"""What kind of file an upload is, judged by its content alone: names and MIME types lie."""

from __future__ import annotations

import re

from app.errors import EmptyUpload, UnsupportedMediaType

ACCEPTED = "JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF, JPEG 2000 or HEIC, or a PDF"

# How much of a file tells its format. Readers of PDF look for its header within the first 1024 bytes
# (PDF 1.7, annex H, note 13).
HEAD_BYTES = 1024

_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II\x2a\x00", "TIFF"),
    (b"MM\x00\x2a", "TIFF"),
    (b"II\x2b\x00", "TIFF"),
    (b"MM\x00\x2b", "TIFF"),
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "JPEG2000"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
)

# ISO base media files differ only in their brands. AVIF comes first: a container brand (mif1, miaf)
# beside avif means AVIF, beside heic HEIC, and alone a HEIF file of some other codec.
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}

# "BM" alone starts too many texts; the size of the header after it takes one of these values.
_BMP_HEADER_SIZES = {12, 16, 40, 52, 56, 64, 108, 124}

_OTHERS: tuple[tuple[bytes, str], ...] = (
    (rb"%!PS|\xc5\xd0\xd3\xc6", "a PostScript file"),
    (rb"8BPS", "a Photoshop document"),
    (rb"PK(\x03\x04|\x05\x06|\x07\x08)", "a ZIP archive"),
    (rb"Rar!\x1a|7z\xbc\xaf\x27\x1c|\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|.{257}ustar", "an archive"),
    (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Microsoft Office document"),
    (rb"\{\\rtf", "an RTF document"),
    (rb"AT&TFORM", "a DjVu document"),
    (rb"\xff\x0a|\x00\x00\x00\x0cJXL ", "a JPEG XL picture"),
    (rb"\x00\x00[\x01\x02]\x00", "an icon"),
    (rb"gimp xcf", "a GIMP document"),
    (rb".{128}DICM", "a DICOM file"),
    (rb"P[1-7]\s", "a Netpbm picture"),
    (rb"....ftyp(crx )", "a camera raw file"),
    (rb"....(ftyp|moov|mdat)|\x1a\x45\xdf\xa3|RIFF....AVI |\x00\x00\x01[\xb3\xba]", "a video"),
    (rb"ID3|OggS|fLaC|RIFF....WAVE|\xff[\xf2\xf3\xfb]", "a sound recording"),
    (rb"data:image/", "a data: URL, which is text"),
    (rb"iVBORw0KGgo|/9j/|R0lGOD|UklGR|SUkq|TU0A|Qk0[0-9A-Za-z+/]{40}", "base64 text"),
)
_TEXTS: tuple[tuple[bytes, str], ...] = (
    (rb"<svg[\s>]", "an SVG drawing"),
    (rb"<!doctype html|<html[\s>]", "an HTML page"),
    (rb"<\?xml", "an XML file"),
)
_ZIPPED: tuple[tuple[bytes, str], ...] = (
    (b"word/", "a Word document (DOCX)"),
    (b"xl/", "an Excel workbook (XLSX)"),
    (b"ppt/", "a PowerPoint presentation (PPTX)"),
    (b"application/epub+zip", "an EPUB book"),
    (b"application/vnd.oasis.opendocument", "an OpenDocument file"),
)


def recognise_format(data: bytes) -> str:
    """Return the accepted format of `data` as Pillow names it, or "PDF".

    Raises EmptyUpload, or UnsupportedMediaType with what the file looks like.
    """
    if not data:
        raise EmptyUpload
    known = find_format(data[:HEAD_BYTES])
    if known is not None:
        return known
    looks_like = _describe(data)
    seen = f"The file looks like {looks_like}" if looks_like else "The file is of no known picture type"
    raise UnsupportedMediaType(f"{seen}. Send a picture as {ACCEPTED}.")


def find_format(head: bytes) -> str | None:
    """Return the accepted format of a file that begins with `head`, HEAD_BYTES of it; None where there is none."""
    for signature, name in _SIGNATURES:
        if head.startswith(signature):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADER_SIZES:
        return "BMP"
    if head[4:8] == b"ftyp":
        brands = _brands(head)
        if brands & _AVIF_BRANDS:
            return "AVIF"
        if brands & _HEIF_BRANDS:
            return "HEIF"
    return "PDF" if b"%PDF-" in head else None


def _brands(data: bytes) -> set[bytes]:
    """Return the major and compatible brands of an ftyp box: 4 bytes at 8, then every 4 from 16 on."""
    end = min(int.from_bytes(data[:4], "big"), 512)
    return {data[8:12], *(data[at : at + 4] for at in range(16, end, 4))}


def _describe(data: bytes) -> str | None:
    head = data[:4096]
    for pattern, name in _OTHERS:
        if re.match(pattern, head, re.DOTALL):
            if name != "a ZIP archive":
                return name
            return next((kind for mark, kind in _ZIPPED if mark in data), name)
    for pattern, name in _TEXTS:
        if re.search(pattern, head, re.IGNORECASE):
            return name
    if not re.search(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]", head):
        return "plain text"
    return None
