"""What must be known of a file before, or beyond what, Pillow looks at it; each reader stands on damaged bytes."""

from __future__ import annotations

import re

# In JPEG's compressed data, FF is followed by 00 or by a restart marker; any other pair ends the scan.
_JPEG_SCAN_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_SOS, _EOI, _FILL = 0xDA, 0xD9, 0xFF


def jpeg_is_cut_short(data: bytes) -> bool:
    """Say whether a JPEG's last scan has no end of image after it (ITU-T T.81, annex B).

    libjpeg reads the zeros of a half-finished download as picture, and they come out grey. What
    follows the end of the image does not matter; phones put videos there.
    """
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            return False  # not how segments lie; the decoder may know better
        kind = data[at + 1]
        if kind == _EOI:
            return False
        if kind == _FILL:
            at += 1
            continue
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if kind == _SOS:
            end = _JPEG_SCAN_END.search(data, at)
            if end is None:
                return True
            at = end.start()
    return data[at : at + 2] != bytes([0xFF, _EOI])


def gif_frames(data: bytes) -> int:
    """Count the pictures of a GIF by its block lengths (GIF89a, 15 to 26); Pillow counts in steps many times slower."""
    frames = 0
    try:
        at = 13 + _gif_palette_bytes(data[10])
        while data[at] in b",!":
            if data[at] == ord(","):
                frames += 1
                at += 11 + _gif_palette_bytes(data[at + 9])
            else:
                at += 2
            while data[at]:
                at += 1 + data[at]
            at += 1
    except IndexError:  # cut short; decoding the first frame tells whether that matters
        pass
    return frames


def _gif_palette_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def webp_canvas(data: bytes) -> tuple[int, int]:
    """Read width and height from a WebP's first chunk (RFC 9649, section 2); (0, 0) where there is none."""
    chunk = data[12:16]
    if chunk == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if chunk == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if chunk == b"VP8 ":
        return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF
    return 0, 0
