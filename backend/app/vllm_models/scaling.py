"""Pictures scaled by Pillow in several threads; every pixel is that of one call of `Image.resize`.

Pillow scales the rows first, rounds them to whole numbers and then scales the columns. No row looks at another in the first
pass and no column in the second, so rows are scaled in bands and columns in strips. Pillow lets go of the interpreter's
lock meanwhile. Tall pictures, of which some releases of Pillow scale the columns first, are left to it whole.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from app.cores import usable_cores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]
    Picture = Image.Image | Pixels
    Size = tuple[int, int]

MOST_THREADS = 8

# Pillow works out its coefficients anew for each band and strip: these are large enough for that to cost little.
BAND_PIXELS, STRIP_COLUMNS = 2**19, 160


def scale(
    picture: Picture, targets: Sequence[Pixels], band_pixels: int = BAND_PIXELS, strip_columns: int = STRIP_COLUMNS
) -> None:
    """Put the RGB `picture`, scaled to the size of each target as `resize` does it bicubically, into that target.

    A target is a grid of tiles, shape (rows, height, columns, width, 3). `picture` is loaded, or uint8 of shape
    (height, width, 3); such an array is not in memory a second time as a whole, but where columns may come first.
    """
    size = size_of(picture)
    whole = [target for target in targets if _columns_come_first(size, _size_of_grid(target))]
    if whole:
        image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
        list(_threads().map(lambda target: _fill(target, image), whole))
    cut = [target for target in targets if not _columns_come_first(size, _size_of_grid(target))]
    if cut:
        _scale_in_pieces(picture, cut, band_pixels, strip_columns)


def _scale_in_pieces(picture: Picture, targets: Sequence[Pixels], band_pixels: int, strip_columns: int) -> None:
    width, height = size_of(picture)
    strips = [strip for target in targets for strip in _strips(target, strip_columns)]
    halfway = [Image.new("RGB", (strip.shape[-2], height), None) for _, _, strip in strips]
    widths = {width for width, _, _ in strips}

    def scale_rows(rows: slice) -> None:
        band = _rows_of(picture, rows)
        scaled = {width: _resize(band, width, band.height) for width in widths}
        for (width, left, _), image in zip(strips, halfway, strict=True):
            image.paste(scaled[width], (-left, rows.start))

    # Gone through, so that what a thread raises is raised here.
    list(_threads().map(scale_rows, _bands(height, max(width, *widths), band_pixels)))
    list(_threads().map(_fill, (strip for _, _, strip in strips), halfway))


def _fill(target: Pixels, image: Image.Image) -> None:
    width, height = _size_of_grid(target)
    target[...] = np.asarray(_resize(image, width, height)).reshape(target.shape)


def _resize(image: Image.Image, width: int, height: int) -> Image.Image:
    return image.resize((width, height), Image.Resampling.BICUBIC)


def size_of(picture: Picture) -> Size:
    """Return (width, height)."""
    return picture.size if isinstance(picture, Image.Image) else (picture.shape[1], picture.shape[0])


def _size_of_grid(target: Pixels) -> Size:
    rows, height, columns, width, _ = target.shape
    return columns * width, rows * height


def _columns_come_first(old: Size, new: Size) -> bool:
    """Say whether any Pillow scales columns before rows: 12.2 what is 100 times as high as wide, 13.0 what loses mostly height."""
    lost_width, lost_height = old[0] - new[0], old[1] - new[1]
    return lost_height > 0 and (lost_height > 2 * lost_width or old[1] > 100 * old[0])


def _bands(height: int, width: int, pixels: int) -> list[slice]:
    """Divide `height` rows of `width` pixels into bands of at most about `pixels`, as many for each thread."""
    threads = thread_count()
    rows = -(-height // (threads * -(-height * width // (threads * pixels))))
    return [slice(top, min(top + rows, height)) for top in range(0, height, rows)]


def _rows_of(picture: Picture, rows: slice) -> Image.Image:
    if isinstance(picture, Image.Image):
        return picture.crop((0, rows.start, picture.width, rows.stop))
    return Image.fromarray(picture[rows])


def _strips(target: Pixels, columns: int) -> list[tuple[int, int, Pixels]]:
    """Cut each column of tiles into strips at most so wide; returns the grid's width, where the strip begins, and the strip."""
    width, side = _size_of_grid(target)[0], target.shape[3]
    count = -(-side // columns)
    ends = [side * number // count for number in range(count + 1)]
    return [
        (width, column * side + ends[i], target[:, :, column : column + 1, ends[i] : ends[i + 1]])
        for column in range(target.shape[2])
        for i in range(count)
    ]


@lru_cache(maxsize=1)
def thread_count() -> int:
    """Return how many threads share a picture: one for each core this process may use, up to MOST_THREADS."""
    return min(MOST_THREADS, usable_cores())


@lru_cache(maxsize=1)
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_count(), thread_name_prefix="scaling")


# A forked process has none of its parent's threads and starts its own.
os.register_at_fork(after_in_child=_threads.cache_clear)
