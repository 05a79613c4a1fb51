"""Picture files made in code, for the tests of ingest."""

from __future__ import annotations

import base64
import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from app.ingest.limits import IngestLimits

LIMITS = IngestLimits(max_pixels=1_000_000, max_frames=10, decode_timeout=20)

RED, BLUE, WHITE, BLACK = (255, 0, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)

# Made with heif-enc 1.15.1 (libheif, x265): `heif-enc -q 90 -p preset=placebo -p chroma=444 corners.png`, the
# picture being `corners()`. pi_heif cannot encode.
HEIC = base64.b64decode(
    """
AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAa5tZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAA
AA5waXRtAAAAAAACAAAAEGlkYXQAAAAAAEAAIAAAADhpbG9jAQAAAERAAAIAAQAAAAAAAAHSAAEAAAAAAAAA8wACAAEAAAAAAAAA
AQAAAAAAAAAIAAAAOGlpbmYAAAAAAAIAAAAVaW5mZQIAAAEAAQAAaHZjMQAAAAAVaW5mZQIAAAAAAgAAZ3JpZAAAAADZaXBycAAA
ALdpcGNvAAAAd2h2Y0MBBAgAAAAAAAAAAAAe8AD8//j4AAAPAyAAAQAXQAEMAf//BAgAAAMAnjgAAAMAAB66AkAhAAEAKkIBAQQI
AAADAJ44AAADAAAekAQQILLdXIRNc3AgIGBAAAADAEAAAAMAQiIAAQAIRAHBdxgwCJAAAAAUaXNwZQAAAAAAAABAAAAAQAAAABRp
c3BlAAAAAAAAAEAAAAAgAAAAEHBpeGkAAAAAAwgICAAAABppcG1hAAAAAAAAAAIAAQKBAgACAgOEAAAAGmlyZWYAAAAAAAAADmRp
bWcAAgABAAEAAAD7bWRhdAAAAO8oAa8GOOPnve238zgf//5Wm+h/euKiflbpf0OaMj/Kqj//8ZHwqJknsVGm8QjZZx0EfCUU6MFH
nPsAbgcoBMIrqkCe11k75op/lXE2Ams/Hf5/iPtJ//Ulk/nkyHg90/mB7F9WGwkQCumoGAmSiaatfQyLllG0NT68T1xSg0y0yxao
7qyp/n4S+4dPI7w1aRxYZNUtjous/c8WC2xA6qP572RX2VJ3hlhFplPr5Y6P5AN4YC+5lra1+tLxiI41MtdaYaUlhUpb/hIXMari
tu4s7BNp9myijfp4lX9XwJv3oASFwAHy3YbDZad6vKR1gA==
"""
)


def encode(image: Image.Image, format_name: str, **options: Any) -> bytes:
    """Return `image` as a file of that format."""
    file = BytesIO()
    image.save(file, format_name, **options)
    return file.getvalue()


def corners(mode: str = "RGB") -> Image.Image:
    """A picture of 64 x 32 that differs in every turn: top left quarter red, bottom left blue, right half white."""
    image = Image.new("RGB", (64, 32), WHITE)
    image.paste(RED, (0, 0, 32, 16))
    image.paste(BLUE, (0, 16, 32, 32))
    return image.convert(mode)


def heic_turned(quarter_turns: int) -> bytes:
    """`HEIC` with its pixi property, which no decoder needs, replaced by a rotation (counter-clockwise)."""
    at = HEIC.index(b"pixi")
    return HEIC[:at] + b"irot" + bytes([quarter_turns]) + HEIC[at + 5 :]


def chunk(kind: bytes, body: bytes) -> bytes:
    """Return a PNG chunk."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    size: tuple[int, int], depth: int, colour_type: int, rows: bytes, *more: bytes, compressed: bytes | None = None
) -> bytes:
    """Return a PNG; `rows` hold the filter byte and the samples of each row, `more` are chunks before the pixels."""
    header = struct.pack(">IIBBBBB", *size, depth, colour_type, 0, 0, 0)
    pixels = zlib.compress(rows) if compressed is None else compressed
    chunks = (chunk(b"IHDR", header), *more, chunk(b"IDAT", pixels), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def tiff(samples: np.ndarray[Any, Any], *, bits: int, kind: int = 1, photometric: int = 1, raw: bytes = b"") -> bytes:
    """Return an uncompressed grey TIFF in the byte order of `samples`; `kind` is 1 unsigned, 2 signed, 3 float."""
    order = ">" if samples.dtype.byteorder == ">" else "<"
    body = raw or samples.tobytes()
    height, width = samples.shape
    tags = {
        256: width,
        257: height,
        258: bits,
        259: 1,
        262: photometric,
        273: 0,
        277: 1,
        278: height,
        279: 0,
        339: kind,
    }
    tags[273], tags[279] = 8 + 2 + 12 * len(tags) + 4, len(body)
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    return head + struct.pack(f"{order}H", len(tags)) + entries + struct.pack(f"{order}I", 0) + body
