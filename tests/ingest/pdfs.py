"""PDF files made in code, for the tests of ingest and of the API."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

# Made with qpdf 11.3 from `pdf(letter("Vault number 4711"))`, the password being "tür":
# `qpdf --encrypt tür owner 256 -- plain.pdf encrypted.pdf`, which is AES-256.
ENCRYPTED = base64.b64decode(
    """
JVBERi0xLjcKJb/3ov4KMSAwIG9iago8PCAvRXh0ZW5zaW9ucyA8PCAvQURCRSA8PCAvQmFzZVZlcnNpb24gLzEuNyAvRXh0ZW5zaW9u
TGV2ZWwgOCA+PiA+PiAvUGFnZXMgMiAwIFIgL1R5cGUgL0NhdGFsb2cgPj4KZW5kb2JqCjIgMCBvYmoKPDwgL0NvdW50IDEgL0tpZHMg
WyAzIDAgUiBdIC9SZXNvdXJjZXMgPDwgL0ZvbnQgPDwgL0YgNCAwIFIgPj4gPj4gL1R5cGUgL1BhZ2VzID4+CmVuZG9iagozIDAgb2Jq
Cjw8IC9Db250ZW50cyA1IDAgUiAvTWVkaWFCb3ggWyAwIDAgNjEyIDc5MiBdIC9QYXJlbnQgMiAwIFIgL1R5cGUgL1BhZ2UgPj4KZW5k
b2JqCjQgMCBvYmoKPDwgL0Jhc2VGb250IC9IZWx2ZXRpY2EgL1N1YnR5cGUgL1R5cGUxIC9UeXBlIC9Gb250ID4+CmVuZG9iago1IDAg
b2JqCjw8IC9MZW5ndGggOTYgL0ZpbHRlciAvRmxhdGVEZWNvZGUgPj4Kc3RyZWFtCucbVizQYiCC0k3B3aF3E0qDht7lTNWK20W/EVud
SePsOmX8Dz4X6SLsMTIuXfOy2BcKE6WBuk97gFMnqa9AOFa3lNNaV+j+mlVdFD+mDBQ1ousQJVV93pSbLfddCfcAa2VuZHN0cmVhbQpl
bmRvYmoKNiAwIG9iago8PCAvQ0YgPDwgL1N0ZENGIDw8IC9BdXRoRXZlbnQgL0RvY09wZW4gL0NGTSAvQUVTVjMgL0xlbmd0aCAzMiA+
PiA+PiAvRmlsdGVyIC9TdGFuZGFyZCAvTGVuZ3RoIDI1NiAvTyA8YWM2ZTZjNDJkZTAxYTBjYzEzNGY1YzgwNDg0OWI0OGQ3YmJlMWYz
OWJhYzM0YmYzMjAwNjI0YzQ2MWY0YzU0N2IwMGJmMjZhNGI0YzdmMjY3NzQyNTljYTFhZDExMDk2PiAvT0UgPDAwM2EzZWVmYmJhMWZj
Zjg5NDZkNjdhYmI5MzEwYmRlZGFiOTVkYjUyZmU1ODczNDE1NzZlZDI4ODQxNWQzNzg+IC9QIC00IC9QZXJtcyA8NDNhNDE0ZTY4YTgw
OGZjMTAzZTdlZWJjNmMzYWZiY2E+IC9SIDYgL1N0bUYgL1N0ZENGIC9TdHJGIC9TdGRDRiAvVSA8N2IzYzNjM2I2ZWU0ZDk1YjZmYTlh
ODUwNDNjNzhhMTBhMmU1MWU4OWM0NDE4NzQzZjkwMjA3NTExNzk1Y2JjZDViMjg2MDIxZjBiNmMzMmE1MDUxNWU4NTI3ODg3Njk1PiAv
VUUgPGFmMWRiYTU2ZDk1OWU0MDU2MjVkNmU0YTBiZjFiNzY2M2JjMzA4NmJhNDVmNzMwY2I0YzFlOTZmMTY2ZDA3NzY+IC9WIDUgPj4K
ZW5kb2JqCnhyZWYKMCA3CjAwMDAwMDAwMDAgNjU1MzUgZiAKMDAwMDAwMDAxNSAwMDAwMCBuIAowMDAwMDAwMTMwIDAwMDAwIG4gCjAw
MDAwMDAyMjcgMDAwMDAgbiAKMDAwMDAwMDMxNiAwMDAwMCBuIAowMDAwMDAwMzg2IDAwMDAwIG4gCjAwMDAwMDA1NTIgMDAwMDAgbiAK
dHJhaWxlciA8PCAvUm9vdCAxIDAgUiAvU2l6ZSA3IC9JRCBbPDY3MjJjMTBiMDMzNGQ2ZTJkYTg2MWFjNzUwYzg5Njk2Pjw2NzIyYzEw
YjAzMzRkNmUyZGE4NjFhYzc1MGM4OTY5Nj5dIC9FbmNyeXB0IDYgMCBSID4+CnN0YXJ0eHJlZgoxMDk5CiUlRU9GCg==
"""
)
PASSWORD = "tür"

BLUE_CORNER = b"0 0 1 rg 0 0 20 20 re f "  # at the bottom left of the sheet


@dataclass(frozen=True)
class Sheet:
    """One page: what is drawn on it, its MediaBox in points, and further entries of its dictionary."""

    content: bytes = BLUE_CORNER
    box: tuple[float, float, float, float] = (0, 0, 200, 100)
    more: bytes = b""


def lines(*texts: str, at: tuple[int, int] = (72, 700), turn: bytes = b"1 0 0 1") -> bytes:
    """Return content that shows lines of 24 points, the first one's foot `at` that point."""
    shown = b" ".join(b"(%s) Tj T*" % text.encode("latin-1") for text in texts)
    return b"BT /F 24 Tf 40 TL %s %d %d Tm %s ET " % (turn, *at, shown)


def letter(*texts: str) -> Sheet:
    """Return a page of letter size with lines on it."""
    return Sheet(lines(*texts), (0, 0, 612, 792))


def pdf(*sheets: Sheet, objects: Sequence[bytes] = (), catalog: bytes = b"", count: int | None = None) -> bytes:
    """Return a PDF of `sheets`.

    `objects` get the numbers from 4 on. `catalog` are further entries of the catalogue; `count` is the
    number of pages that the file claims to have.
    """
    first = 4 + len(objects)
    kids = b" ".join(b"%d 0 R" % (first + 2 * number) for number in range(len(sheets)))
    font = b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>"
    made = [
        b"<</Type/Catalog/Pages 2 0 R%s>>" % catalog,
        b"<</Type/Pages/Count %d/Kids[%s]/Resources<</Font<</F 3 0 R>>>>>>"
        % (len(sheets) if count is None else count, kids),
        font,
        *objects,
    ]
    for number, sheet in enumerate(sheets):
        box = b" ".join(b"%.2f" % side for side in sheet.box)
        content = b"%d 0 R" % (first + 2 * number + 1)
        made.append(b"<</Type/Page/Parent 2 0 R/MediaBox[%s]/Contents %s%s>>" % (box, content, sheet.more))
        made.append(stream(sheet.content))
    return assemble(made)


def stream(data: bytes, entries: bytes = b"") -> bytes:
    """Return a stream object; `entries` come before its length."""
    return b"<<%s/Length %d>>stream\n%s\nendstream" % (entries, len(data), data)


def drawing(content: bytes, width: int, height: int) -> bytes:
    """Return a form XObject, as the appearance of an annotation."""
    return stream(
        content, b"/Type/XObject/Subtype/Form/BBox[0 0 %d %d]/Resources<</Font<</F 3 0 R>>>>" % (width, height)
    )


def assemble(objects: Sequence[bytes]) -> bytes:
    """Return a file of objects numbered from 1 on, of which the first is the catalogue."""
    parts, offsets, at = [b"%PDF-1.7\n"], [], 9
    for number, body in enumerate(objects, 1):
        offsets.append(at)
        parts.append(b"%d 0 obj\n%s\nendobj\n" % (number, body))
        at += len(parts[-1])
    index = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    size = len(objects) + 1
    parts.append(b"xref\n0 %d\n0000000000 65535 f \n%s" % (size, index))
    parts.append(b"trailer<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n" % (size, at))
    return b"".join(parts)
