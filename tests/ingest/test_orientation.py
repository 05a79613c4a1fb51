"""A page lies as the person sees it, whatever says how it is turned."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageOps

from app.ingest.decode import decode
from tests.ingest.pictures import BLUE, LIMITS, RED, WHITE, corners, encode, heic_turned

# Where EXIF 2.32 puts the stored picture's top left (red) and bottom left (blue) quarter, and the size.
# Each is (row, column): 0 the top or left, -1 the bottom or right.
UPRIGHT = {
    1: ((32, 64), (0, 0), (-1, 0)),
    2: ((32, 64), (0, -1), (-1, -1)),
    3: ((32, 64), (-1, -1), (0, -1)),
    4: ((32, 64), (-1, 0), (0, 0)),
    5: ((64, 32), (0, 0), (0, -1)),
    6: ((64, 32), (0, -1), (0, 0)),
    7: ((64, 32), (-1, -1), (-1, 0)),
    8: ((64, 32), (-1, 0), (-1, -1)),
}


def oriented(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def assert_lies(pixels: np.ndarray, orientation: int, tolerance: int) -> None:
    size, red, blue = UPRIGHT[orientation]
    assert pixels.shape == (*size, 3)
    for corner, colour in ((red, RED), (blue, BLUE)):
        assert np.abs(pixels[corner].astype(int) - colour).max() <= tolerance
    whites = {(0, 0), (0, -1), (-1, 0), (-1, -1)} - {red, blue}
    for corner in whites:
        assert np.abs(pixels[corner].astype(int) - WHITE).max() <= tolerance


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_exif_turns_the_picture_once(format_name: str, orientation: int) -> None:
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(format_name, {})
    data = encode(corners(), format_name, exif=oriented(orientation), **options)
    assert_lies(decode(data, LIMITS).pixels, orientation, 8)


@pytest.mark.parametrize(("quarter_turns", "orientation"), [(0, 1), (1, 8), (2, 3), (3, 6)])
def test_the_rotation_of_a_heic_turns_the_picture_once(quarter_turns: int, orientation: int) -> None:
    page = decode(heic_turned(quarter_turns), LIMITS)
    assert page.source_format == "HEIF"
    assert_lies(page.pixels, orientation, 2)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
def test_a_turned_picture_has_the_same_pixels_in_every_mode(mode: str, orientation: int) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (500, 700), np.uint8)
    grey = Image.fromarray(noise)
    image = Image.fromarray(noise.astype(np.uint16) * 257) if mode == "I;16" else grey.convert(mode)
    expected = ImageOps.exif_transpose(_with_orientation(grey.convert("1") if mode == "1" else grey, orientation))
    page = decode(encode(image, "PNG", exif=oriented(orientation)), LIMITS)
    assert np.array_equal(page.pixels, np.asarray(expected.convert("RGB")))
    assert page.pixels.flags.c_contiguous


def _with_orientation(image: Image.Image, orientation: int) -> Image.Image:
    copy = image.copy()
    copy.getexif()[0x0112] = orientation
    return copy


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_outside_the_standard_counts_as_upright(value: int) -> None:
    assert_lies(decode(encode(corners(), "PNG", exif=oriented(value)), LIMITS).pixels, 1, 0)


def test_damaged_exif_counts_as_upright() -> None:
    data = encode(corners(), "JPEG", quality=95, subsampling=0, exif=b"Exif\0\0MM\0\x2a\xff\xff\xff\xff garbage")
    assert_lies(decode(data, LIMITS).pixels, 1, 8)
