"""Pictures of a page: small ones to look at, and its figures; runs in the decoder's worker processes."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from PIL import Image

from app.ingest.choice import PageChoice
from app.ingest.decode import decode, is_pdf
from app.ingest.limits import IngestLimits
from app.ingest.pdf import PdfFile

HIGHEST = 16_000
"""Most pixels down: a strip that is narrow enough would else be as long as it likes, and JPEG ends at 65,535."""

BoxOfPixels = tuple[int, int, int, int]
"""x1, y1, x2, y2 of a box on a page, in its pixels; x2 and y2 are the first beyond it."""

_QUALITY, _FIGURE_QUALITY = 85, 90


def draw_picture(source: bytes | Path, limits: IngestLimits, choice: PageChoice, width: int) -> bytes:
    """Return as JPEG what `decode` gives, scaled down to at most `width` pixels across and HIGHEST down.

    What is here and there on the one is at the same share of width and height on the other. Raises what `decode` does.
    """
    if is_pdf(source):
        with PdfFile(source, choice.password) as pdf:
            across, down, _ = pdf.fit(choice.number, choice.dpi, limits.max_pixels)
            # Drawn small to begin with: faster than drawn large and scaled.
            image = Image.fromarray(pdf.draw(choice.number, *_shrink(across, down, width)))
    else:
        page = decode(source, limits, choice)
        size = _shrink(page.width, page.height, width)
        # It averages blocks of pixels before it scales by the rest.
        image = Image.fromarray(page.pixels).resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    return _to_jpeg(image, _QUALITY)


def crop_pictures(
    source: bytes | Path, limits: IngestLimits, choice: PageChoice, boxes: Sequence[BoxOfPixels]
) -> list[bytes]:
    """Return these parts of what `decode` gives as JPEG; each has at least one pixel. Raises what `decode` does."""
    pixels = decode(source, limits, choice).pixels
    return [_to_jpeg(Image.fromarray(pixels[y1:y2, x1:x2]), _FIGURE_QUALITY) for x1, y1, x2, y2 in boxes]


def _to_jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _shrink(across: int, down: int, width: int) -> tuple[int, int]:
    scale = min(1.0, width / across, HIGHEST / down)
    return max(1, round(across * scale)), max(1, round(down * scale))
