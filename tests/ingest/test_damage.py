"""A damaged file gives a page or an error that says what to do, and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from app.errors import ServiceError, UnreadableImage
from app.ingest.decode import decode, decode_picture
from app.page import Page
from tests.ingest.pictures import HEIC, LIMITS, corners, encode, heic_turned


def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 64, 3), np.uint8))


def oriented() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "a camera"
    return exif


def samples() -> dict[str, bytes]:
    formats: list[tuple[str, dict[str, Any]]] = [
        ("JPEG", {"exif": oriented()}),
        ("JPEG", {"progressive": True}),
        ("MPO", {"save_all": True, "append_images": [corners()]}),
        ("PNG", {"exif": oriented()}),
        ("PNG", {"save_all": True, "append_images": [corners()]}),
        ("WEBP", {"exif": oriented()}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"save_all": True, "append_images": [corners()]}),
        ("BMP", {}),
        ("GIF", {"save_all": True, "append_images": [corners()]}),
        ("TIFF", {"exif": oriented()}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
        ("TIFF", {"compression": "jpeg"}),
        ("AVIF", {"exif": oriented()}),
        ("JPEG2000", {}),
        ("JPEG2000", {"no_jp2": True, "tile_size": (32, 32)}),
    ]
    files = {f"{name} {' '.join(options)}".strip(): encode(noise(), name, **options) for name, options in formats}
    files["TIFF group4"] = encode(noise().convert("1"), "TIFF", compression="group4")
    files["PNG palette"] = encode(noise().convert("P"), "PNG", transparency=3)
    files["JPEG CMYK"] = encode(noise().convert("CMYK"), "JPEG")
    return {**files, "HEIC": HEIC, "HEIC turned": heic_turned(1)}


SAMPLES = samples()


def outcome(data: bytes) -> Page | ServiceError:
    """Return what `decode` makes of `data`; any exception but a ServiceError fails the test."""
    try:
        return decode(data, LIMITS)
    except ServiceError as error:
        refusal = error
    assert 400 <= refusal.status < 500
    return refusal


@pytest.mark.parametrize("name", SAMPLES)
def test_the_sample_itself_is_read(name: str) -> None:
    assert isinstance(outcome(SAMPLES[name]), Page)


@pytest.mark.parametrize("name", [*SAMPLES, "JPEG upright", "PNG transparent"])
def test_a_picture_left_to_pillow_is_the_page(name: str) -> None:
    """Its file closed and forgotten, and its pixels Pillow's only where they need no turn and no white behind them."""
    upright = {
        "JPEG upright": encode(noise(), "JPEG"),
        "PNG transparent": encode(noise(), "PNG", transparency=(0, 0, 0)),
    }
    data = (SAMPLES | upright)[name]
    picture, facts = decode_picture(data, LIMITS)
    page = decode(data, LIMITS)
    assert facts == (page.source_format, page.number, page.pages, page.dpi)
    assert np.array_equal(np.asarray(picture), page.pixels)
    plain = ["JPEG progressive", "JPEG upright", "MPO save_all append_images", "PNG save_all append_images"]
    plain += ["TIFF exif", "TIFF compression"]  # Pillow turns the first while it loads it
    assert isinstance(picture, Image.Image) is (name in plain)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(sorted(SAMPLES)), st.floats(0, 1))
def test_cutting_a_file_anywhere_gives_a_page_or_a_4xx(name: str, share: float) -> None:
    data = SAMPLES[name]
    outcome(data[: round(share * len(data))])


@settings(max_examples=600, deadline=None)
@given(
    st.sampled_from(sorted(SAMPLES)),
    st.lists(st.tuples(st.floats(0, 1), st.booleans(), st.binary(min_size=1, max_size=4)), min_size=1, max_size=8),
)
def test_changing_bytes_anywhere_gives_a_page_or_a_4xx(name: str, changes: list[tuple[float, bool, bytes]]) -> None:
    data = bytearray(SAMPLES[name])
    for share, in_header, replacement in changes:
        at = round(share * min(len(data), 256 if in_header else len(data)))
        data[at : at + len(replacement)] = replacement
    outcome(bytes(data))


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(SAMPLES)), st.integers(2, 32), st.binary(max_size=400))
def test_noise_behind_a_known_beginning_gives_a_page_or_a_4xx(name: str, kept: int, rest: bytes) -> None:
    outcome(SAMPLES[name][:kept] + rest)


@pytest.mark.parametrize("name", SAMPLES)
def test_half_a_picture_is_refused(name: str) -> None:
    data = SAMPLES[name] if " append_images" not in name else SAMPLES[name][: len(SAMPLES[name]) // 2]
    with pytest.raises(UnreadableImage):
        decode(data[: len(data) // 2], LIMITS)


def test_a_jpeg_cut_short_says_so() -> None:
    with pytest.raises(UnreadableImage) as refusal:
        decode(SAMPLES["JPEG exif"][:-500], LIMITS)
    assert refusal.value.detail == (
        "The JPEG picture is damaged or cut short. It is not read in part, because text would be missing. "
        "Check that it opens whole in a viewer and send it again."
    )


@pytest.mark.parametrize("name", ["JPEG exif", "JPEG progressive", "JPEG CMYK"])
def test_a_jpeg_whose_rest_is_zeros_is_refused(name: str) -> None:
    data = SAMPLES[name]
    with pytest.raises(UnreadableImage):
        decode(data[: len(data) // 2] + bytes(len(data) - len(data) // 2), LIMITS)


def test_a_header_cut_short_is_told_from_a_picture_cut_short() -> None:
    with pytest.raises(UnreadableImage) as refusal:
        decode(SAMPLES["HEIC"][:200], LIMITS)
    assert refusal.value.detail == (
        "The file begins as HEIC does, but its header is damaged or of a kind that cannot be read. "
        "Check that it opens in a viewer, save it again as JPEG or PNG, and send that."
    )


@pytest.mark.parametrize("name", SAMPLES)
def test_garbage_behind_a_picture_does_not_matter(name: str) -> None:
    whole = decode(SAMPLES[name], LIMITS)
    for garbage in (b"\0", b"garbage \xff\xda\xff\xd8 behind", bytes(5000)):
        assert np.array_equal(decode(SAMPLES[name] + garbage, LIMITS).pixels, whole.pixels)


@pytest.mark.parametrize("marker", [b"\xff\xdb", b"\xff\xc4", b"\xff\xda", b"\xff\xd9"])
def test_fill_bytes_before_a_marker_of_a_jpeg_do_not_matter(marker: bytes) -> None:
    data = SAMPLES["JPEG exif"]
    at = data.rindex(marker)
    assert np.array_equal(decode(data[:at] + b"\xff\xff" + data[at:], LIMITS).pixels, decode(data, LIMITS).pixels)


def test_garbage_between_the_segments_of_a_jpeg_does_not_matter() -> None:
    data = SAMPLES["JPEG progressive"]
    at = data.index(b"\xff\xdb")
    assert np.array_equal(decode(data[:at] + b"\0\0" + data[at:], LIMITS).pixels, decode(data, LIMITS).pixels)
