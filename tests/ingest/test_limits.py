"""Limits are judged by the header, before memory is spent, and the answer names the figures."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from dataclasses import replace

import pytest
from PIL import Image

from app.errors import PageOutOfRange, TooManyFrames, TooManyPixels, UnreadableImage
from app.ingest.choice import PageChoice
from app.ingest.decode import decode
from tests.ingest.pictures import HEIC, LIMITS, RED, chunk, corners, encode, png


def frames(count: int, size: tuple[int, int] = (16, 16)) -> list[Image.Image]:
    return [Image.new("RGB", size, (20 * number, 0, 0)) for number in range(1, count + 1)]


def animation(format_name: str, count: int) -> bytes:
    first, *rest = frames(count)
    return encode(first, format_name, save_all=True, append_images=rest)


def webp_canvas(width: int, height: int) -> bytes:
    data = encode(corners(), "WEBP", exif=Image.Exif().tobytes())
    assert data[12:16] == b"VP8X"
    return data[:24] + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little") + data[30:]


def gif_canvas(width: int, height: int) -> bytes:
    data = encode(corners("P"), "GIF")
    return data[:6] + struct.pack("<HH", width, height) + data[10:]


def bmp_canvas(width: int, height: int) -> bytes:
    data = encode(corners(), "BMP")
    return data[:18] + struct.pack("<ii", width, height) + data[26:]


@pytest.mark.parametrize(
    ("data", "figures"),
    [
        (
            png((60000, 60000), 1, 0, b"", compressed=zlib.compress(bytes(10_000_000), 9)),
            "3,600.0 megapixels (60000 x 60000)",
        ),
        (gif_canvas(65535, 65535), "4,294.8 megapixels (65535 x 65535)"),
        (webp_canvas(60000, 60000), "3,600.0 megapixels (60000 x 60000)"),
        (bmp_canvas(30000, 30000), "900.0 megapixels (30000 x 30000)"),
        (encode(Image.new("L", (1001, 1000)), "JPEG"), "1.0 megapixels (1001 x 1000)"),
        (encode(Image.new("1", (1001, 1000)), "TIFF"), "1.0 megapixels (1001 x 1000)"),
        (encode(Image.new("L", (1001, 1000)), "AVIF", speed=10), "1.0 megapixels (1001 x 1000)"),
        (encode(Image.new("L", (1001, 1000)), "JPEG2000"), "1.0 megapixels (1001 x 1000)"),
        (encode(Image.new("RGB", (1001, 1000)), "WEBP", lossless=True), "1.0 megapixels (1001 x 1000)"),
        (encode(Image.new("RGB", (1001, 1000)), "WEBP"), "1.0 megapixels (1001 x 1000)"),
    ],
    ids=["PNG", "GIF", "WebP canvas", "BMP", "JPEG", "TIFF", "AVIF", "JPEG 2000", "WebP lossless", "WebP lossy"],
)
def test_too_many_pixels_are_refused_from_the_header(data: bytes, figures: str) -> None:
    tracemalloc.start()
    with pytest.raises(TooManyPixels) as refusal:
        decode(data, LIMITS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refusal.value.detail == f"The picture has {figures}; at most 1.0 are accepted. Scale it down."
    assert peak < 1_000_000


def test_the_limit_itself_is_accepted() -> None:
    assert decode(encode(Image.new("L", (1000, 1000)), "PNG"), LIMITS).pixels.shape == (1000, 1000, 3)


@pytest.mark.parametrize("data", [encode(corners(), "PNG"), HEIC], ids=["PNG", "HEIC"])
def test_small_limits_are_named_in_full(data: bytes) -> None:
    with pytest.raises(TooManyPixels) as refusal:
        decode(data, replace(LIMITS, max_pixels=2000))
    assert refusal.value.detail == (
        "The picture has 0.002048 megapixels (64 x 32); at most 0.002 are accepted. Scale it down."
    )


@pytest.mark.parametrize("format_name", ["GIF", "WEBP", "PNG", "AVIF", "MPO"])
def test_too_many_frames_are_refused_with_their_number(format_name: str) -> None:
    with pytest.raises(TooManyFrames) as refusal:
        decode(animation(format_name, 11), LIMITS)
    assert refusal.value.detail == "The file has 11 frames; at most 10 are accepted. Send one picture."


@pytest.mark.parametrize("format_name", ["GIF", "WEBP", "PNG", "AVIF", "MPO"])
def test_the_first_frame_of_an_animation_is_read(format_name: str) -> None:
    first = Image.new("RGB", (16, 16), RED)
    options = {"WEBP": {"lossless": True}, "MPO": {"quality": 95}}.get(format_name, {})
    page = decode(encode(first, format_name, save_all=True, append_images=frames(9), **options), LIMITS)
    assert abs(page.pixels.astype(int) - RED).max() <= 4
    assert page.source_format == {"MPO": "JPEG"}.get(format_name, format_name)


@pytest.mark.parametrize("number", [1, 2, 7, 10])
def test_each_page_of_a_tiff_is_read_by_its_number(number: int) -> None:
    page = decode(animation("TIFF", 10), LIMITS, PageChoice(number))
    assert (page.pixels == (20 * number, 0, 0)).all()
    assert (page.number, page.pages, page.dpi) == (number, 10, None)


def test_pages_of_a_tiff_have_their_own_sizes_and_colours() -> None:
    data = encode(
        corners(),
        "TIFF",
        save_all=True,
        append_images=[Image.new("1", (5, 7)), Image.new("CMYK", (9, 3), (0, 255, 255, 0))],
    )
    sizes = [(page.width, page.height) for page in (decode(data, LIMITS, PageChoice(number)) for number in (1, 2, 3))]
    assert sizes == [(64, 32), (5, 7), (9, 3)]
    assert (decode(data, LIMITS, PageChoice(3)).pixels == RED).all()


def test_only_the_chosen_page_of_a_tiff_must_fit() -> None:
    data = encode(Image.new("1", (1001, 1000)), "TIFF", save_all=True, append_images=[corners()])
    with pytest.raises(TooManyPixels):
        decode(data, LIMITS)
    assert decode(data, LIMITS, PageChoice(2)).pixels.shape == (32, 64, 3)


@pytest.mark.parametrize(
    ("data", "has"),
    [
        (animation("TIFF", 3), "3 pages"),
        (animation("GIF", 3), "1 page"),
        (encode(corners(), "PNG"), "1 page"),
        (encode(corners(), "WEBP"), "1 page"),
    ],
    ids=["TIFF", "GIF", "PNG", "WebP"],
)
def test_a_page_that_a_file_does_not_have_is_refused(data: bytes, has: str) -> None:
    for number in (0, -1, 4):
        with pytest.raises(PageOutOfRange) as refusal:
            decode(data, LIMITS, PageChoice(number))
        assert refusal.value.detail == (
            f"Field 'page' asks for page {number}, and the file has {has}. The first is page 1."
        )


def test_a_tiff_of_twenty_frames_is_refused_without_reading_them_all() -> None:
    with pytest.raises(TooManyFrames) as refusal:
        decode(animation("TIFF", 20), LIMITS)
    assert refusal.value.detail == "The file has more than 10 frames. Split it, and send parts with fewer pages."


def test_a_thumbnail_beside_the_page_of_a_tiff_does_not_count() -> None:
    reduced, full = (struct.pack("<HHII", 254, 4, 1, kind) for kind in (1, 0))
    pictures = [corners(), corners().resize((16, 8))]
    for page in (0, 1):
        first, second = pictures if page == 0 else reversed(pictures)
        data = encode(first, "TIFF", save_all=True, append_images=[second], tiffinfo={254: 1})
        at = data.index(reduced) if page == 0 else data.rindex(reduced)
        assert data.count(reduced) == 2
        assert decode(data[:at] + full + data[at + len(full) :], LIMITS).pixels.shape == (32, 64, 3)


def test_a_tiff_whose_directories_run_in_a_circle_is_read_once() -> None:
    data = bytearray(encode(corners(), "TIFF"))
    (directory,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, directory)
    struct.pack_into("<I", data, directory + 2 + 12 * entries, directory)
    assert decode(bytes(data), LIMITS).pixels.shape == (32, 64, 3)


@pytest.mark.parametrize("kind", [b"iTXt", b"zTXt", b"iCCP"])
def test_a_png_whose_text_or_profile_inflates_without_end_is_refused(kind: bytes) -> None:
    head = b"x\0\1\0\0\0" if kind == b"iTXt" else b"x\0\0"
    bomb = chunk(kind, head + zlib.compress(bytes(100_000_000), 9))
    tracemalloc.start()
    with pytest.raises(UnreadableImage):
        decode(png((1, 1), 8, 0, b"\0\0", bomb), LIMITS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40_000_000


def test_a_png_with_two_megabytes_of_text_is_read() -> None:
    text = chunk(b"zTXt", b"mxfile\0\0" + zlib.compress(bytes(2_000_000), 9))
    assert decode(png((1, 1), 8, 0, b"\0\7", text), LIMITS).pixels.tolist() == [[[7, 7, 7]]]


@pytest.mark.parametrize("size", [(1, 100_000), (100_000, 1)])
def test_extreme_aspect_ratios_are_read(size: tuple[int, int]) -> None:
    width, height = size
    page = decode(png(size, 8, 0, (b"\0" + b"\7" * width) * height), LIMITS)
    assert (page.width, page.height) == size
    assert (page.pixels == 7).all()


@pytest.mark.parametrize("size", [(0, 1), (1, 0), (0, 0)])
def test_a_picture_without_pixels_is_unreadable(size: tuple[int, int]) -> None:
    with pytest.raises(UnreadableImage):
        decode(png(size, 8, 0, b""), LIMITS)
