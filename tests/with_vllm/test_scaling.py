"""Scaling in pieces: the pixels are Pillow's own, however a picture is cut, and a forked process has threads of its own."""

from __future__ import annotations

import multiprocessing
import threading

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps

from app.vllm_models import scaling
from app.vllm_models.scaling import scale
from app.vllm_models.views import ViewOptions, prepare_views

sides = st.one_of(st.integers(1, 8), st.integers(1, 300))


def noise(width: int, height: int) -> NDArray[np.uint8]:
    """Return random pixels, the same for the same size."""
    return np.random.default_rng(width * 10_000 + height).integers(0, 256, (height, width, 3), np.uint8)


def grid(rows: int, height: int, columns: int, width: int) -> NDArray[np.uint8]:
    """Return an empty target whose tiles lie one after another in memory, as those of the encoder do."""
    return np.zeros((rows, columns, height, width, 3), np.uint8).swapaxes(1, 2)


@settings(max_examples=400, deadline=None)
@given(
    sides,
    sides,
    st.lists(st.tuples(st.integers(1, 4), sides, st.integers(1, 4), sides), min_size=1, max_size=2),
    st.integers(1, 20_000),
    st.integers(1, 100),
    st.booleans(),
)
# Of the first three, Pillow 13 scales the columns before the rows, and 12.2 of the fourth; of the next, lengths stay as they are.
@example(100, 300, [(3, 64, 2, 32)], 1000, 10, True)
@example(10, 300, [(1, 100, 1, 64), (2, 10, 1, 10)], 1000, 10, False)
@example(40, 100, [(1, 50, 1, 40)], 500, 7, True)
@example(2, 300, [(1, 299, 1, 1)], 500, 7, True)
@example(40, 100, [(1, 100, 1, 50)], 500, 7, True)
@example(40, 100, [(1, 100, 1, 40), (1, 120, 1, 40)], 500, 7, False)
@example(1, 300, [(1, 1, 4, 8)], 1, 1, True)
@example(300, 1, [(4, 8, 1, 1)], 1, 1, True)
def test_every_pixel_is_that_of_one_resize(
    width: int, height: int, shapes: list[tuple[int, int, int, int]], band: int, strip: int, as_array: bool
) -> None:
    pixels = noise(width, height)
    targets = [grid(*shape) for shape in shapes]
    scale(pixels if as_array else Image.fromarray(pixels), targets, band_pixels=band, strip_columns=strip)
    for target, (rows, down, columns, across) in zip(targets, shapes, strict=True):
        expected = Image.fromarray(pixels).resize((columns * across, rows * down), Image.Resampling.BICUBIC)
        assert np.array_equal(target.reshape(rows * down, columns * across, 3), np.asarray(expected))


@settings(max_examples=200, deadline=None)
@given(sides, sides, st.sampled_from([64, 128, 192]))
def test_a_picture_of_any_size_is_letterboxed_as_pillow_pads_it(width: int, height: int, side: int) -> None:
    picture = Image.fromarray(noise(width, height))
    view = prepare_views(picture, ViewOptions(side, 704, False)).global_view
    if (
        round(min(width, height) / max(width, height) * side) == 0
    ):  # which Pillow refuses, or has since 13.0 one pixel wide
        picture = picture.resize((side, 1) if width > height else (1, side))
    assert np.array_equal(view, np.asarray(ImageOps.pad(picture, (side, side), color=(127, 127, 127))))


@pytest.mark.parametrize(
    ("height", "width", "pixels"), [(1754, 1280, 2**18), (7, 5, 10), (1, 10**6, 10), (100_000, 1000, 2**19)]
)
def test_bands_hold_each_row_once_and_no_more_pixels_than_they_may(height: int, width: int, pixels: int) -> None:
    bands = scaling._bands(height, width, pixels)
    assert [row for band in bands for row in range(height)[band]] == list(range(height))
    assert max(band.stop - band.start for band in bands) <= max(1, pixels // width + 1)


def test_what_a_thread_raises_is_raised() -> None:
    target = grid(1, 20, 1, 30)
    target.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        scale(noise(100, 80), [target])


def _scale_and_report(results: object) -> None:
    target = grid(1, 20, 1, 30)
    scale(noise(100, 80), [target])
    results.send((target, [it.name for it in threading.enumerate() if it.name.startswith("scaling")]))  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Python's own, about forking a process that has threads
def test_a_forked_process_scales_with_threads_of_its_own() -> None:
    expected = grid(1, 20, 1, 30)
    scale(noise(100, 80), [expected])
    near, far = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=_scale_and_report, args=(far,), daemon=True)
    process.start()
    assert near.poll(30)
    target, threads = near.recv()
    process.join(30)
    assert np.array_equal(target, expected)
    assert threads
