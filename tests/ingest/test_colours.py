"""Every pixel format comes out as the right uint8 RGB."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from app.ingest.decode import decode
from tests.ingest.pictures import BLUE, HEIC, LIMITS, RED, WHITE, chunk, corners, encode, png, tiff


def rgb(data: bytes) -> list[Any]:
    pixels = decode(data, LIMITS).pixels
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    return pixels.tolist()


def greys(data: bytes) -> list[list[int]]:
    pixels = decode(data, LIMITS).pixels
    assert (pixels == pixels[:, :, :1]).all()
    return pixels[:, :, 0].tolist()


@pytest.mark.parametrize(
    ("format_name", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
        ("TIFF", {"big_tiff": True}),
        ("WEBP", {"lossless": True}),
        ("JPEG2000", {"irreversible": False}),
        ("JPEG2000", {"irreversible": False, "no_jp2": True}),
        ("GIF", {}),
    ],
)
def test_a_lossless_picture_keeps_every_pixel(format_name: str, options: dict[str, Any]) -> None:
    page = decode(encode(corners(), format_name, **options), LIMITS)
    assert np.array_equal(page.pixels, np.asarray(corners()))
    assert (page.width, page.height, page.source_format) == (64, 32, format_name)


@pytest.mark.parametrize(
    ("format_name", "data"),
    [
        ("JPEG", encode(corners(), "JPEG", quality=95)),
        ("JPEG", encode(corners(), "JPEG", quality=95, progressive=True)),
        ("JPEG", encode(corners(), "JPEG", quality=95, subsampling=0)),
        ("WEBP", encode(corners(), "WEBP", quality=95)),
        ("AVIF", encode(corners(), "AVIF", quality=100, subsampling="4:4:4")),
        ("HEIF", HEIC),
    ],
)
def test_a_lossy_picture_keeps_its_colours_to_three_levels(format_name: str, data: bytes) -> None:
    page = decode(data, LIMITS)
    quarters = page.pixels[[8, 24, 16], [16, 16, 48]].astype(int)  # their middles: chroma bleeds at the borders
    assert np.abs(quarters - [RED, BLUE, WHITE]).max() <= 3
    assert page.source_format == format_name


@pytest.mark.parametrize("format_name", ["PNG", "TIFF", "WEBP", "JPEG2000"])
def test_alpha_is_flattened_on_white(format_name: str) -> None:
    image = Image.new("RGBA", (3, 1))
    for x, pixel in enumerate([(0, 0, 0, 255), (0, 0, 0, 128), (200, 100, 0, 0)]):
        image.putpixel((x, 0), pixel)
    options = {"lossless": True} if format_name == "WEBP" else {}
    assert rgb(encode(image, format_name, **options)) == [[[0] * 3, [127] * 3, [255] * 3]]


def test_grey_with_alpha_is_flattened_on_white() -> None:
    image = Image.new("LA", (2, 1))
    image.putpixel((0, 0), (100, 255))
    image.putpixel((1, 0), (100, 51))
    assert greys(encode(image, "PNG")) == [[100, 224]]


def test_premultiplied_alpha_of_a_tiff_is_flattened_on_white() -> None:
    unassociated, associated = (struct.pack("<HHIHH", 338, 3, 1, alpha, 0) for alpha in (2, 1))
    data = encode(Image.new("RGBA", (1, 1), (51, 0, 0, 51)), "TIFF")
    assert unassociated in data
    assert rgb(data.replace(unassociated, associated)) == [[[255, 204, 204]]]


def test_a_palette_is_looked_up() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    for format_name in ("PNG", "GIF", "BMP", "TIFF"):
        assert rgb(encode(image, format_name)) == [[[10, 20, 30], [40, 50, 60]]]


def test_a_palette_with_transparency_is_flattened_on_white() -> None:
    palette, alphas = chunk(b"PLTE", bytes([0, 0, 0, 200, 0, 0])), chunk(b"tRNS", bytes([0, 51]))
    assert rgb(png((2, 1), 8, 3, b"\0\0\1", palette, alphas)) == [[[255, 255, 255], [244, 204, 204]]]


def test_the_transparent_colour_of_a_gif_is_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    assert rgb(encode(image, "GIF", transparency=0)) == [[[255, 255, 255], [40, 50, 60]]]


@pytest.mark.parametrize(
    ("depth", "samples", "transparent", "expected"),
    [
        (1, b"\x40", 1, [0, 255]),
        (2, b"\x60", 1, [255, 170]),
        (4, b"\x3a", 3, [255, 170]),
        (8, b"\x07\x09", 7, [255, 9]),
        (16, b"\x01\x02\x80\x00", 0x0102, [255, 128]),
    ],
)
def test_the_transparent_grey_of_a_png_is_white_at_every_depth(
    depth: int, samples: bytes, transparent: int, expected: list[int]
) -> None:
    assert greys(png((2, 1), depth, 0, b"\0" + samples, chunk(b"tRNS", struct.pack(">H", transparent)))) == [expected]


@pytest.mark.parametrize(("depth", "scale"), [(8, 1), (16, 257)])
def test_the_transparent_colour_of_a_png_is_white_at_every_depth(depth: int, scale: int) -> None:
    layout = ">BBBBBB" if depth == 8 else ">HHHHHH"
    samples = struct.pack(layout, *(value * scale for value in (1, 2, 3, 4, 5, 6)))
    transparent = chunk(b"tRNS", struct.pack(">HHH", scale, 2 * scale, 3 * scale))
    assert rgb(png((2, 1), depth, 2, b"\0" + samples, transparent)) == [[[255, 255, 255], [4, 5, 6]]]


@pytest.mark.parametrize("format_name", ["PNG", "TIFF", "JPEG2000"])
def test_16_bit_grey_is_scaled_not_clipped(format_name: str) -> None:
    image = Image.fromarray(np.array([[0, 0x3412, 0x8000, 0xFFFF]], np.uint16))
    assert greys(encode(image, format_name)) == [[0, 0x34, 0x80, 0xFF]]


def test_16_bit_colour_is_scaled_not_clipped() -> None:
    assert rgb(png((1, 1), 16, 2, b"\0" + struct.pack(">HHH", 0, 0x8000, 0xFFFF))) == [[[0, 0x80, 0xFF]]]
    assert rgb(png((1, 1), 16, 6, b"\0" + struct.pack(">HHHH", 0, 0x8000, 0xFFFF, 0xFFFF))) == [[[0, 0x80, 0xFF]]]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (tiff(np.array([[0x1234, 0xFFFF]], "<u2"), bits=16), [0x12, 0xFF]),
        (tiff(np.array([[0x1234, 0xFFFF]], ">u2"), bits=16), [0x12, 0xFF]),
        (tiff(np.array([[0, 0xFFFF]], "<u2"), bits=16, photometric=0), [255, 0]),
        (tiff(np.zeros((1, 2), "<u2"), bits=12, raw=b"\xab\xcf\xff"), [0xAB, 0xFF]),
        (tiff(np.array([[0, 255]], "<u1"), bits=8, photometric=0), [255, 0]),
        (tiff(np.array([[0, 200]], "<i4"), bits=32, kind=2), [0, 200]),
        (tiff(np.array([[0, 65535]], "<i4"), bits=32, kind=2), [0, 255]),
        (tiff(np.array([[-1000, 0, 1000]], "<i4"), bits=32, kind=2), [0, 128, 255]),
        (tiff(np.array([[-5, -5]], "<i4"), bits=32, kind=2), [0, 0]),
        (tiff(np.array([[0, 2**32 - 1]], "<u4"), bits=32), [0, 255]),
        (tiff(np.array([[-2, 2]], "<i2"), bits=16, kind=2), [0, 255]),
        (tiff(np.array([[0, 0.5, 1]], "<f4"), bits=32, kind=3), [0, 128, 255]),
        (tiff(np.array([[0, 0.5, 1]], ">f4"), bits=32, kind=3), [0, 128, 255]),
        (tiff(np.array([[0, 1]], "<f4"), bits=32, kind=3, photometric=0), [255, 0]),
        (tiff(np.array([[3, 250]], "<f4"), bits=32, kind=3), [3, 250]),
        (tiff(np.array([[0, 65535]], "<f4"), bits=32, kind=3), [0, 255]),
        (tiff(np.array([[-3e38, 3e38]], "<f4"), bits=32, kind=3), [0, 255]),
        (tiff(np.array([[np.nan, 1, np.inf, -np.inf]], "<f4"), bits=32, kind=3), [0, 255, 255, 0]),
        (tiff(np.array([[np.nan, np.nan]], "<f4"), bits=32, kind=3), [0, 0]),
    ],
)
def test_deep_greys_of_a_tiff_come_out_in_their_own_range(data: bytes, expected: list[int]) -> None:
    assert greys(data) == [expected]


def test_one_bit_is_black_and_white() -> None:
    image = Image.new("1", (9, 1))
    image.putpixel((8, 0), 1)
    for format_name, options in (("PNG", {}), ("BMP", {}), ("TIFF", {}), ("TIFF", {"compression": "group4"})):
        assert greys(encode(image, format_name, **options)) == [[0] * 8 + [255]]


def test_cmyk_comes_out_as_printed() -> None:
    image = Image.new("CMYK", (2, 1), (0, 255, 255, 0))
    image.putpixel((1, 0), (0, 0, 0, 255))
    assert rgb(encode(image, "TIFF")) == [[[255, 0, 0], [0, 0, 0]]]


def test_the_inverted_cmyk_of_a_jpeg_is_turned_round() -> None:
    data = encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100)
    assert b"Adobe" in data
    assert np.abs(decode(data, LIMITS).pixels[4, 4].astype(int) - [255, 0, 0]).max() <= 2


def test_lab_is_converted_by_its_definition() -> None:
    white, grey = (255, 128, 128), (137, 128, 128)
    image = Image.new("LAB", (2, 1), white)
    image.putpixel((1, 0), grey)
    pixels = decode(encode(image, "TIFF"), LIMITS).pixels
    assert np.abs(pixels[0].astype(int) - [[255, 255, 255], [128, 128, 128]]).max() <= 1


def test_ycbcr_in_a_tiff_is_converted() -> None:
    data = encode(Image.new("YCbCr", (16, 16), (76, 85, 255)), "TIFF", compression="tiff_lzw")
    assert np.abs(decode(data, LIMITS).pixels[0, 0].astype(int) - [254, 0, 0]).max() <= 1


def test_an_embedded_profile_does_not_stop_a_picture() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert rgb(encode(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG", icc_profile=profile)) == [[[1, 2, 3]]]


def test_a_picture_larger_than_a_strip_is_converted_whole() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (700, 900, 3), np.uint8)
    assert np.array_equal(decode(encode(Image.fromarray(pixels), "PNG"), LIMITS).pixels, pixels)
