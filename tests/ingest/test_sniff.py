"""What is no picture is refused with what it looks like and with what to send."""

from __future__ import annotations

import io
import zipfile

import pytest

from app.errors import EmptyUpload, UnsupportedMediaType
from app.ingest.sniff import recognise_format
from tests.ingest.pictures import HEIC, corners, encode


def zipped(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, "text")
    return file.getvalue()


def isobmff(major: bytes, *compatible: bytes) -> bytes:
    body = b"ftyp" + major + bytes(4) + b"".join(compatible)
    return (4 + len(body)).to_bytes(4, "big") + body + bytes(32)


@pytest.mark.parametrize(
    ("data", "looks_like"),
    [
        (b'<?xml version="1.0"?>\n<!-- drawn -->\n<svg xmlns="x">', "an SVG drawing"),
        (b"\xef\xbb\xbf<!DOCTYPE html><html>", "an HTML page"),
        (b'<?xml version="1.0"?><note/>', "an XML file"),
        (zipped("a.txt"), "a ZIP archive"),
        (zipped("[Content_Types].xml", "word/document.xml"), "a Word document (DOCX)"),
        (zipped("[Content_Types].xml", "xl/workbook.xml"), "an Excel workbook (XLSX)"),
        (zipped("[Content_Types].xml", "ppt/presentation.xml"), "a PowerPoint presentation (PPTX)"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "a PostScript file"),
        (b"8BPS\0\1", "a Photoshop document"),
        (b"\x1f\x8b\x08\0", "an archive"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Microsoft Office document"),
        (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "a JPEG XL picture"),
        (b"\x00\x00\x01\x00\x01\x00", "an icon"),
        (isobmff(b"isom", b"mp41"), "a video"),
        (isobmff(b"qt  "), "a video"),
        (b"\x1a\x45\xdf\xa3\x01", "a video"),
        (b"RIFF\0\0\0\0WAVEfmt ", "a sound recording"),
        (b"P6\n1 1\n255\n\0\0\0", "a Netpbm picture"),
        (b"data:image/png;base64,iVBORw0KGgo=", "a data: URL, which is text"),
        (b"iVBORw0KGgoAAAANSUhEUg==", "base64 text"),
        (b'{"image": 1}', "plain text"),
        ("只是文字".encode(), "plain text"),
    ],
)
def test_a_known_kind_of_file_is_named(data: bytes, looks_like: str) -> None:
    with pytest.raises(UnsupportedMediaType) as refusal:
        recognise_format(data)
    assert refusal.value.detail == (
        f"The file looks like {looks_like}. Send a picture as JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF, JPEG 2000 or HEIC, or a PDF."
    )


@pytest.mark.parametrize("data", [b"\0", b"\0\1\2\3\4\5\6\7" * 9, b"RIFF\0\0\0\0WEBX\0", b"BM\0\0\0\0" + bytes(20)])
def test_an_unknown_kind_of_file_is_refused_without_a_guess(data: bytes) -> None:
    with pytest.raises(UnsupportedMediaType) as refusal:
        recognise_format(data)
    assert refusal.value.detail == (
        "The file is of no known picture type. "
        "Send a picture as JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF, JPEG 2000 or HEIC, or a PDF."
    )


@pytest.mark.parametrize("junk", [0, 1, 1019])
def test_a_pdf_is_known_within_its_first_1024_bytes(junk: int) -> None:
    assert recognise_format(b"\n" * junk + b"%PDF-1.7\n") == "PDF"


def test_a_pdf_mentioned_later_is_text() -> None:
    with pytest.raises(UnsupportedMediaType, match="plain text"):
        recognise_format(b"x" * 1020 + b"%PDF-1.7\n")


def test_a_picture_that_mentions_pdf_stays_a_picture() -> None:
    assert recognise_format(encode(corners(), "JPEG", comment=b"%PDF-1.7")) == "JPEG"


def test_nothing_is_an_empty_upload() -> None:
    with pytest.raises(EmptyUpload):
        recognise_format(b"")


@pytest.mark.parametrize(
    ("brands", "format_name"),
    [
        ((b"heic", b"mif1"), "HEIF"),
        ((b"mif1", b"heic"), "HEIF"),
        ((b"mif1", b"avif", b"miaf"), "AVIF"),
        ((b"avis", b"msf1"), "AVIF"),
        ((b"mif1",), "HEIF"),
    ],
)
def test_heic_and_avif_are_told_apart_by_their_brands(brands: tuple[bytes, ...], format_name: str) -> None:
    assert recognise_format(isobmff(*brands)) == format_name


def test_the_embedded_heic_is_recognised() -> None:
    assert recognise_format(HEIC) == "HEIF"
