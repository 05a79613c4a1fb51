"""A picture cut into the views the encoder reads: one global view and, for large pictures, tiles.

Numpy and Pillow only, so that a worker process without vLLM or PyTorch can prepare the views.
The numbers and rules are those of DeepSeek-OCR's published preprocessing; pixel values equal it
exactly (the same Pillow operations in the same order).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

from app.vllm_models.scaling import scale, size_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

# One image token covers 64 x 64 px: patches of 16 px, then two convolutions of stride 2.
TOKEN_SIDE = 64
SMALLEST_SIDE, LARGEST_SIDE = 64, 2048
FEWEST_TILES, MOST_TILES = 2, 9
# Pixels in all views of one picture: nine tiles of 640 with a global view of 1280, the largest
# published numbers together. It bounds the work and the tokens one request can ask for.
MOST_VIEW_PIXELS = 9 * 640**2 + 1280**2
# Without tiles, the published preprocessing stretches the picture up to this side and letterboxes above it.
LARGEST_STRETCHED_SIDE = 640
LETTERBOX_GREY = 127


class ViewError(ValueError):
    """View options that are wrong or ask for too much; the message is one sentence for a person."""


@dataclass(frozen=True)
class ViewOptions:
    """How a picture is cut into views; the field names are those of a request's `mm_processor_kwargs`.

    `base_size` is the side of the global view and `image_size` the side of a tile, in pixels. With
    `crop_mode`, a picture with a side above `image_size` also gets 2 to `max_tiles` tiles. Without it,
    an `image_size` of 640 or less stretches the picture to the global view instead of letterboxing it.
    The defaults are the published Gundam mode.
    """

    base_size: int = 1024
    image_size: int = 640
    crop_mode: bool = True
    max_tiles: int = 6

    def __post_init__(self) -> None:
        for name, side in (("base_size", self.base_size), ("image_size", self.image_size)):
            if not _is_whole(side) or side % TOKEN_SIDE or not SMALLEST_SIDE <= side <= LARGEST_SIDE:
                raise ViewError(
                    f"'{name}' is {side!r}; it must be a multiple of {TOKEN_SIDE} from {SMALLEST_SIDE} to {LARGEST_SIDE}."
                )
        if not isinstance(self.crop_mode, bool):
            raise ViewError(f"'crop_mode' is {self.crop_mode!r}; it must be true or false.")
        if not _is_whole(self.max_tiles) or not FEWEST_TILES <= self.max_tiles <= MOST_TILES:
            raise ViewError(f"'max_tiles' is {self.max_tiles!r}; it must be from {FEWEST_TILES} to {MOST_TILES}.")
        tiles = self.max_tiles if self.crop_mode else 0
        if self.base_size**2 + tiles * self.image_size**2 > MOST_VIEW_PIXELS:
            raise ViewError(
                f"A global view of {self.base_size} px with up to {tiles} tiles of {self.image_size} px is too large; "
                f"all views together may have {MOST_VIEW_PIXELS:,} pixels."
            )


@dataclass(frozen=True, eq=False)
class Views:
    """The views of one picture, uint8 RGB.

    `global_view` is (base, base, 3). `tiles` is (columns * rows, side, side, 3) in row-major order of
    `grid` = (columns, rows); (0, 0, 0, 3) and (0, 0) when the picture has no tiles.
    """

    global_view: NDArray[np.uint8]
    tiles: NDArray[np.uint8]
    grid: tuple[int, int]

    def __post_init__(self) -> None:
        columns, rows = self.grid
        base, side = self.global_view.shape[0], self.tiles.shape[1]
        if self.global_view.shape != (base, base, 3) or self.tiles.shape != (columns * rows, side, side, 3):
            raise ViewError(f"Views of shapes {self.global_view.shape} and {self.tiles.shape} do not fit {self.grid}.")
        if columns * rows > MOST_TILES:
            raise ViewError(f"{columns * rows} tiles are too many; there may be {MOST_TILES}.")
        if self.global_view.dtype != np.uint8 or self.tiles.dtype != np.uint8:
            raise ViewError("Views hold uint8 pixels.")
        if not base or base % TOKEN_SIDE or side % TOKEN_SIDE:
            raise ViewError(f"The sides of views are multiples of {TOKEN_SIDE}.")
        if self.global_view.size + self.tiles.size > 3 * MOST_VIEW_PIXELS:
            raise ViewError(f"All views together may have {MOST_VIEW_PIXELS:,} pixels.")

    @classmethod
    def lie_in(cls, pixels: NDArray[np.uint8], base: int, side: int, grid: tuple[int, int]) -> Views:
        """Return the views of which `cut` has made these."""
        whole, tiles = np.split(pixels, [3 * base**2])
        return cls(whole.reshape(base, base, 3), tiles.reshape(grid[0] * grid[1], side, side, 3), grid)

    @property
    def placeholders(self) -> int:
        """How many image tokens stand for this picture in the prompt."""
        return count_placeholders(self.global_view.shape[0], self.tiles.shape[1], self.grid)


def parse_options(values: Mapping[str, object], defaults: ViewOptions | None = None) -> ViewOptions:
    """Return `defaults` with a request's `values` written over them; raises ViewError for an unknown name or bad value."""
    known = {field.name for field in fields(ViewOptions)}
    if unknown := sorted(set(values) - known):
        raise ViewError(f"Unknown view option {unknown[0]!r}; there are {', '.join(sorted(known))}.")
    return replace(defaults or ViewOptions(), **values)  # type: ignore[arg-type]


@lru_cache(maxsize=64)
def _candidate_grids(max_tiles: int) -> tuple[tuple[int, int], ...]:
    """Return every (columns, rows) of 2 to `max_tiles` tiles, fewest tiles first."""
    sides = range(1, max_tiles + 1)
    grids = [(c, r) for c in sides for r in sides if FEWEST_TILES <= c * r <= max_tiles]
    return tuple(sorted(grids, key=lambda grid: grid[0] * grid[1]))


def choose_grid(width: int, height: int, options: ViewOptions) -> tuple[int, int]:
    """Return (columns, rows) of tiles for a picture of `width` x `height` pixels; (0, 0) for none.

    The grid whose aspect ratio is nearest wins. Of two equally near, the one with more tiles wins
    only where the picture has more than half that grid's pixels.
    """
    side = options.image_size
    if not options.crop_mode or (width <= side and height <= side):
        return (0, 0)
    aspect, best, smallest = width / height, (1, 1), float("inf")
    for columns, rows in _candidate_grids(options.max_tiles):
        distance = abs(aspect - columns / rows)
        large_enough = width * height > 0.5 * side * side * columns * rows
        if distance < smallest or (distance == smallest and large_enough):
            smallest, best = distance, (columns, rows)
    return best


def count_placeholders(base_size: int, tile_side: int, grid: tuple[int, int]) -> int:
    """Return how many image tokens views take: one newline ends each row, one separator the whole.

    `grid` is (columns, rows) of tiles with side `tile_side` pixels.
    """
    columns, rows = grid
    across, tile_across = base_size // TOKEN_SIDE, tile_side // TOKEN_SIDE
    return rows * tile_across * (columns * tile_across + 1) + across * (across + 1) + 1


def placeholder_count(width: int, height: int, options: ViewOptions) -> int:
    """Return how many image tokens a picture of `width` x `height` pixels takes."""
    return count_placeholders(options.base_size, options.image_size, choose_grid(width, height, options))


def prepare_views(picture: Image.Image | NDArray[np.uint8], options: ViewOptions) -> Views:
    """Cut a picture into views.

    `picture` is a Pillow image (its EXIF rotation is applied) or uint8 RGB of shape (height, width, 3).
    """
    return Views.lie_in(*cut(_to_rgb(picture), options))


def cut(
    picture: Image.Image | NDArray[np.uint8], options: ViewOptions
) -> tuple[NDArray[np.uint8], int, int, tuple[int, int]]:
    """Return the views of an upright RGB picture in one piece, to be handed over.

    That is: all pixels, those of the global view first; its side, and that of a tile (0 without tiles); and the grid.
    """
    width, height = size_of(picture)
    columns, rows = grid = choose_grid(width, height, options)
    base, side = options.base_size, options.image_size if columns else 0
    pixels = np.empty(3 * (base**2 + columns * rows * side**2), np.uint8)
    whole: NDArray[np.uint8] = pixels[: 3 * base**2].reshape(base, base, 3)
    tiles = pixels[3 * base**2 :]
    if options.crop_mode or options.image_size > LARGEST_STRETCHED_SIDE:
        whole = _letterbox(whole, width, height)
    targets = [whole[None, :, None]]
    if columns:
        # The picture is stretched over the grid, whose tiles lie one after another.
        targets.append(tiles.reshape(rows, columns, side, side, 3).swapaxes(1, 2))
    scale(picture, targets)
    return pixels, base, side, grid


def _to_rgb(picture: Image.Image | NDArray[np.uint8]) -> Image.Image | NDArray[np.uint8]:
    if not isinstance(picture, Image.Image):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
            raise ViewError(f"A picture is uint8 (height, width, 3), not {picture.dtype} {picture.shape}.")
        return picture
    upright = ImageOps.exif_transpose(picture)
    return upright if upright.mode == "RGB" else upright.convert("RGB")


def _letterbox(view: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Make the square `view` grey and return the middle of it that a picture of this size fits, as `ImageOps.pad` does.

    A strip that Pillow would scale to nothing, and refuse, is one pixel wide or high.
    """
    side = len(view)
    across = side if width >= height else max(1, round(width / height * side))
    down = side if height >= width else max(1, round(height / width * side))
    left, top = round((side - across) * 0.5), round((side - down) * 0.5)
    view[...] = LETTERBOX_GREY
    return view[top : top + down, left : left + across]


@lru_cache(maxsize=1)
def largest_request() -> tuple[ViewOptions, tuple[int, int]]:
    """Return the allowed options and tile grid that take the most image tokens."""
    sides = range(SMALLEST_SIDE, LARGEST_SIDE + 1, TOKEN_SIDE)
    best, most = (ViewOptions(), (0, 0)), 0
    for base in reversed(sides):
        for tile in sides:
            for columns, rows in _candidate_grids(MOST_TILES):
                tokens = count_placeholders(base, tile, (columns, rows))
                if tokens > most and base**2 + columns * rows * tile**2 <= MOST_VIEW_PIXELS:
                    best, most = (ViewOptions(base, tile, True, columns * rows), (columns, rows)), tokens
    return best


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
