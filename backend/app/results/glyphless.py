"""A font without a single drawn glyph, for text that is to be found and not seen."""

from __future__ import annotations

import struct

ADVANCE = 0.5
"""What every character of it measures, in its size."""

_UNITS = 1000
_ASCENT, _DESCENT = 800, -200

DESCENT = -_DESCENT / _UNITS
"""How far its box reaches below the baseline, in its size; the box is as high as its size."""

_PLANE = 0x10000
GLYPHS = bytes(2 * _PLANE)
"""CIDToGIDMap: glyph 0 for every character."""

_MAP = """/CIDInit /ProcSet findresource begin
12 dict begin
begincmap
/CIDSystemInfo << /Registry (Adobe) /Ordering (UCS) /Supplement 0 >> def
/CMapName /Adobe-Identity-UCS def
/CMapType 2 def
1 begincodespacerange
<0000> <FFFF>
endcodespacerange
{ranges}
endcmap
CMapName currentdict /CMap defineresource pop
end
end
"""
_RANGES_AT_ONCE = 100


def truetype(name: str) -> bytes:
    """Return it as a TrueType file: the tables that PDF readers ask of an embedded one (PDF 1.7, 9.9).

    PDFium takes two fonts of one name for the same font.
    """
    letters = name.encode("utf-16-be")
    names = b"".join(struct.pack(">6H", 3, 1, 0x0409, which, len(letters), 0) for which in (1, 6))
    advance = round(ADVANCE * _UNITS)
    tables = {
        b"cmap": struct.pack(">HHHHI", 0, 1, 3, 1, 12)
        + struct.pack(">7H", 4, 24, 0, 2, 2, 0, 0)
        + struct.pack(">5H", 0xFFFF, 0, 0xFFFF, 1, 0),
        b"glyf": bytes(4),
        b"head": struct.pack(
            ">IIIIHHQQ4hHHhhh",
            *(0x10000, 0x10000, 0, 0x5F0F3CF5, 0, _UNITS, 0, 0),
            *(0, _DESCENT, advance, _ASCENT, 0, 8, 2, 0, 0),
        ),
        b"hhea": struct.pack(">I3hH11hH", 0x10000, _ASCENT, _DESCENT, 0, advance, 0, 0, advance, 1, *[0] * 7, 1),
        b"hmtx": struct.pack(">Hhh", advance, 0, 0),
        b"loca": struct.pack(">3H", 0, 0, 0),
        b"maxp": struct.pack(">I14H", 0x10000, 2, *[0] * 4, 1, *[0] * 8),
        b"name": struct.pack(">3H", 0, 2, 6 + len(names)) + names + letters,
        b"post": struct.pack(">IIhhI4I", 0x30000, 0, 0, 0, 1, 0, 0, 0, 0),
    }
    directory, body = b"", b""
    start = 12 + 16 * len(tables)
    for key, table in tables.items():
        padded = table + bytes(-len(table) % 4)
        checksum = sum(struct.unpack(f">{len(padded) // 4}I", padded)) % 2**32
        directory += key + struct.pack(">III", checksum, start + len(body), len(table))
        body += padded
    return struct.pack(">I4H", 0x10000, len(tables), 128, 3, 16 * len(tables) - 128) + directory + body


def to_unicode(plane: int) -> bytes:
    """Return the map from the codes of `code` to the characters of one plane of Unicode."""
    if plane == 0:
        # Surrogates are no characters.
        ranges = ["<0000> <D7FF> <0000>", "<E000> <FFFF> <E000>"]
    else:
        ranges = []
        for high in range(256):
            first = chr(plane * _PLANE + high * 256).encode("utf-16-be").hex().upper()
            ranges.append(f"<{high:02X}00> <{high:02X}{'FE' if high == 255 else 'FF'}> <{first}>")
        ranges.append(f"<FFFF> <FFFF> <{chr(plane * _PLANE).encode('utf-16-be').hex().upper()}>")
    blocks = []
    for start in range(0, len(ranges), _RANGES_AT_ONCE):
        some = ranges[start : start + _RANGES_AT_ONCE]
        blocks += [f"{len(some)} beginbfrange", *some, "endbfrange"]
    return _MAP.format(ranges="\n".join(blocks)).encode("ascii")


def code(character: str) -> int:
    """Return the code of a character: its last 16 bits, but never 0, which readers take for no character."""
    return ord(character) % _PLANE or 0xFFFF
