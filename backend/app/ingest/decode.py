"""A file to one of its pages; runs in the decoder's worker processes."""

from __future__ import annotations

import contextlib
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import pi_heif

# Imported for their registration: Image.open would otherwise import every plugin that Pillow has.
from PIL import (
    AvifImagePlugin,
    Image,
    Jpeg2KImagePlugin,  # noqa: F401
    MpoImagePlugin,  # noqa: F401
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)

from app.errors import PageOutOfRange, TooManyFrames, TooManyPixels, UnreadableImage
from app.ingest.choice import FIRST_PAGE, PageChoice
from app.ingest.colour import Pixels, keep_or_convert, scale_transparency, to_rgb
from app.ingest.headers import gif_frames, jpeg_is_cut_short, webp_canvas
from app.ingest.limits import IngestLimits
from app.ingest.pdf import PdfFile
from app.ingest.sniff import HEAD_BYTES, find_format, recognise_format
from app.page import Page

Picture = TypeVar("Picture")

Facts = tuple[str, int, int, float | None]
"""A Page's source_format, number, pages and dpi."""

# What Pillow's plugins have been seen to raise on damaged files, beyond the OSError they document.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    LookupError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    RuntimeError,
    BufferError,
    struct.error,
    zlib.error,
)
_NAMES = {"JPEG2000": "JPEG 2000", "HEIF": "HEIC", "WEBP": "WebP"}

_ORIENTATION = 0x0112
_SUBFILE_TYPE = 254
_THUMBNAIL_OR_MASK = 0b101

# Decoders with threads of their own get a few: pages are decoded side by side anyway, and each thread's
# stack counts against the process's memory limit.
_CODEC_THREADS = 2

# Drawing programs keep their source, often over Pillow's 1 MB, in a PNG's text.
_PNG_TEXT_BYTES = 16 * 2**20


def _prepare_libraries() -> None:
    """Set what Pillow and libheif keep in module globals; once in each process."""
    pi_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=_CODEC_THREADS)
    AvifImagePlugin.DEFAULT_MAX_THREADS = _CODEC_THREADS
    PngImagePlugin.MAX_TEXT_CHUNK = _PNG_TEXT_BYTES
    Image.preinit()


_prepare_libraries()


def decode(source: bytes | Path, limits: IngestLimits, choice: PageChoice = FIRST_PAGE) -> Page:
    """Return the chosen page of a file, given as its bytes or its path, as the person sees it.

    Pages are those of a PDF or a TIFF; any other picture has one, of an animation the first frame.
    Raises the ServiceError that names what is wrong with the file; sizes and frames are judged
    before pixels are decoded.
    """
    pixels, facts = _decode(source, limits, choice, to_rgb)
    return Page(pixels, *facts)


def decode_picture(
    source: bytes | Path, limits: IngestLimits, choice: PageChoice = FIRST_PAGE
) -> tuple[Image.Image | Pixels, Facts]:
    """Return what makes the Page of `decode`; its pixels stay Pillow's, without a copy, where they are RGB and upright."""
    return _decode(source, limits, choice, keep_or_convert)


def _decode(
    source: bytes | Path, limits: IngestLimits, choice: PageChoice, convert: Callable[[Image.Image, int], Picture]
) -> tuple[Picture | Pixels, Facts]:
    if is_pdf(source):
        with PdfFile(source, choice.password) as pdf:
            page = pdf.render(choice.number, choice.dpi, limits.max_pixels)
            return page.pixels, (page.source_format, page.number, page.pages, page.dpi)
    data = source if isinstance(source, bytes) else source.read_bytes()
    return _decode_picture(data, limits, choice.number, convert)


def is_pdf(source: bytes | Path) -> bool:
    """Say whether a file begins as a PDF does."""
    if isinstance(source, bytes):
        return find_format(source[:HEAD_BYTES]) == "PDF"
    with source.open("rb") as file:
        return find_format(file.read(HEAD_BYTES)) == "PDF"


def _decode_picture(
    data: bytes, limits: IngestLimits, number: int, convert: Callable[[Image.Image, int], Picture]
) -> tuple[Picture, Facts]:
    format_name = recognise_format(data)
    with _damage_reported(_NAMES.get(format_name, format_name)), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of oddities that it reads all the same
        if format_name == "WEBP":
            _check_pixels(webp_canvas(data), limits)  # opening one allocates its canvas
        with _open(data, format_name) as image:
            pages = _go_to_page(image, data, limits, number)
            scale_transparency(image)
            Image.MAX_IMAGE_PIXELS = limits.max_pixels  # for what only decoding brings up, such as a TIFF's tiles
            image.load()
            if format_name == "JPEG" and jpeg_is_cut_short(data):
                raise EOFError("no end of image")
            return convert(image, _orientation(image)), (format_name, number, pages, None)


@contextlib.contextmanager
def _damage_reported(name: str) -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise TooManyPixels(
            f"Decoding this {name} picture takes more memory than the service allows. "
            "Scale it down, or save it again as JPEG or PNG."
        ) from None
    except Image.DecompressionBombError:
        raise TooManyPixels from None
    except UnidentifiedImageError:
        raise UnreadableImage(
            f"The file begins as {name} does, but its header is damaged or of a kind that cannot be read. "
            "Check that it opens in a viewer, save it again as JPEG or PNG, and send that."
        ) from None
    except _DAMAGE as error:
        raise UnreadableImage(
            f"The {name} picture is damaged or cut short. It is not read in part, because text would be missing. "
            "Check that it opens whole in a viewer and send it again."
        ) from error


def _open(data: bytes, format_name: str) -> Image.Image:
    Image.MAX_IMAGE_PIXELS = None  # only the header is read here; _check_pixels names the figures
    return Image.open(BytesIO(data), formats=[format_name])


def _check_pixels(size: tuple[int, int], limits: IngestLimits) -> None:
    width, height = size
    if width * height > limits.max_pixels:
        raise TooManyPixels(
            f"The picture has {_mega(width * height)} megapixels ({width} x {height}); "
            f"at most {_mega(limits.max_pixels)} are accepted. Scale it down."
        )


def _mega(pixels: int) -> str:
    # Small figures, as in a service set up for thumbnails, would all round to 0.0.
    return f"{pixels / 1e6:,.1f}" if pixels >= 10**6 else f"{pixels / 1e6:.6f}".rstrip("0").rstrip(".")


def _go_to_page(image: Image.Image, data: bytes, limits: IngestLimits, number: int) -> int:
    """Bring `image` to its page `number` and return how many there are; refuse too many pixels or frames."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        pages = _tiff_pages(image, limits)
        if not 1 <= number <= len(pages):
            raise PageOutOfRange.of(number, len(pages))
        image.seek(pages[number - 1])
        _check_pixels(image.size, limits)
        return len(pages)
    _check_pixels(image.size, limits)
    frames = gif_frames(data) if image.format == "GIF" else getattr(image, "n_frames", 1)
    if frames > limits.max_frames:
        raise TooManyFrames(
            f"The file has {frames:,} frames; at most {limits.max_frames:,} are accepted. Send one picture."
        )
    if number != 1:
        raise PageOutOfRange.of(number, 1)
    return 1


def _tiff_pages(image: TiffImagePlugin.TiffImageFile, limits: IngestLimits) -> list[int]:
    """Return the frames that are pages, at least one: thumbnails and masks are none."""
    pages: list[int] = []
    for frame in range(limits.max_frames + 1):
        try:
            image.seek(frame)
        except EOFError:
            return pages or [0]
        except SyntaxError:  # a frame Pillow cannot read; its tags say all the same what it is
            pass
        if not int(image.tag_v2.get(_SUBFILE_TYPE, 0)) & _THUMBNAIL_OR_MASK:
            pages.append(frame)
    raise TooManyFrames(
        f"The file has more than {limits.max_frames:,} frames. Split it, and send parts with fewer pages."
    )


def _orientation(image: Image.Image) -> int:
    """Return EXIF's orientation, 1 where it is missing or damaged.

    Read after loading: Pillow turns TIFFs while it loads them, libheif turns HEIC by its own boxes, and
    both take the tag away; AVIF's boxes arrive as the tag.
    """
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except _DAMAGE:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1
