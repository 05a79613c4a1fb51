"""Views: the tile rule, the pixels and the number of image tokens."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from app.ocr.resolution import RESOLUTIONS
from app.vllm_models.views import (
    ViewError,
    ViewOptions,
    Views,
    choose_grid,
    count_placeholders,
    largest_request,
    parse_options,
    placeholder_count,
    prepare_views,
)

OPTIONS = {
    name: ViewOptions(published.base_size, published.image_size, published.crop_mode)
    for name, published in RESOLUTIONS.items()
}
GUNDAM = OPTIONS["gundam"]
sides = st.integers(1, 5000)


def noise(width: int, height: int) -> Image.Image:
    """Return a picture of random pixels, the same for the same size."""
    pixels = np.random.default_rng(width * 10_000 + height).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def draw_layout(base_size: int, tile_side: int, grid: tuple[int, int]) -> str:
    """Write a picture's tokens one letter each: t(ile), g(lobal), n(ewline), s(eparator)."""
    columns, rows = grid
    tile_row = "t" * (tile_side // 64) * columns + "n"
    global_row = "g" * (base_size // 64) + "n"
    return tile_row * (rows * tile_side // 64 if columns else 0) + global_row * (base_size // 64) + "s"


@pytest.mark.parametrize(
    ("name", "tokens"), [("tiny", 73), ("small", 111), ("base", 273), ("large", 421), ("gundam", 903)]
)
def test_an_a4_page_takes_the_published_number_of_tokens(name: str, tokens: int) -> None:
    assert placeholder_count(1190, 1684, OPTIONS[name]) == tokens
    assert prepare_views(noise(1190, 1684), OPTIONS[name]).placeholders == tokens


@pytest.mark.parametrize(
    ("grid", "tokens"), [((0, 0), 273), ((2, 1), 483), ((1, 2), 493), ((2, 3), 903), ((1, 6), 933), ((1, 9), 1263)]
)
def test_gundam_takes_273_tokens_and_ten_rows_of_each_tile_row(grid: tuple[int, int], tokens: int) -> None:
    assert count_placeholders(1024, 640, grid) == tokens


@settings(max_examples=500, deadline=None)
@given(sides, sides)
def test_the_token_count_of_any_size_equals_its_layout_in_every_resolution(width: int, height: int) -> None:
    for options in OPTIONS.values():
        grid = choose_grid(width, height, options)
        layout = draw_layout(options.base_size, options.image_size, grid)
        assert placeholder_count(width, height, options) == len(layout)
        assert layout.count("g") == (options.base_size // 64) ** 2
        assert layout.count("t") == grid[0] * grid[1] * (options.image_size // 64) ** 2


@settings(max_examples=500, deadline=None)
@given(sides, sides, st.sampled_from([2, 6, 9]))
def test_the_grid_is_the_nearest_in_aspect_ratio(width: int, height: int, most: int) -> None:
    columns, rows = choose_grid(width, height, ViewOptions(max_tiles=most))
    if width <= 640 and height <= 640:
        assert (columns, rows) == (0, 0)
        return
    assert 2 <= columns * rows <= most
    aspect = Fraction(width, height)
    nearest = min(
        abs(aspect - Fraction(c, r)) for c in range(1, most + 1) for r in range(1, most + 1) if 2 <= c * r <= most
    )
    assert abs(aspect - Fraction(columns, rows)) - nearest < Fraction(1, 10**12)


@pytest.mark.parametrize(
    ("width", "height", "grid"),
    [
        (640, 640, (0, 0)),
        (641, 640, (2, 2)),
        (904, 904, (2, 2)),
        (2000, 2000, (2, 2)),
        (1280, 640, (2, 1)),
        # 2:1 is 2x1 and, in nine tiles, 4x2; the larger needs more than half its 3,276,800 pixels.
        (1800, 900, (2, 1)),
        (5000, 100, (6, 1)),
        (100, 5000, (1, 6)),
    ],
)
def test_named_sizes_get_known_grids(width: int, height: int, grid: tuple[int, int]) -> None:
    assert choose_grid(width, height, GUNDAM) == grid


@pytest.mark.parametrize(("width", "grid"), [(1800, (2, 1)), (1812, (4, 2))])
def test_a_tie_moves_to_more_tiles_only_for_a_picture_above_half_their_pixels(
    width: int, grid: tuple[int, int]
) -> None:
    assert choose_grid(width, width // 2, ViewOptions(max_tiles=9)) == grid


def test_square_pictures_are_tied_between_four_and_nine_tiles() -> None:
    half = 0.5 * 9 * 640 * 640
    below, above = int(half**0.5), int(half**0.5) + 1
    assert choose_grid(below, below, ViewOptions(max_tiles=9)) == (2, 2)
    assert choose_grid(above, above, ViewOptions(max_tiles=9)) == (3, 3)


@pytest.mark.parametrize(("width", "height"), [(1190, 1684), (2000, 700), (641, 640), (900, 3000)])
def test_tiles_are_the_crops_of_the_stretched_picture_row_by_row(width: int, height: int) -> None:
    picture = noise(width, height)
    views = prepare_views(picture, GUNDAM)
    columns, rows = views.grid
    stretched = picture.resize((640 * columns, 640 * rows))
    for index, tile in enumerate(views.tiles):
        left, top = 640 * (index % columns), 640 * (index // columns)
        assert np.array_equal(tile, np.asarray(stretched.crop((left, top, left + 640, top + 640))))


@pytest.mark.parametrize("name", ["base", "large", "gundam"])
def test_the_global_view_is_letterboxed_on_grey(name: str) -> None:
    picture, side = noise(1190, 1684), OPTIONS[name].base_size
    view = prepare_views(picture, OPTIONS[name]).global_view
    assert np.array_equal(view, np.asarray(ImageOps.pad(picture, (side, side), color=(127, 127, 127))))
    assert (view[:, 0] == 127).all()
    assert (view[:, -1] == 127).all()
    assert not (view[:, side // 2] == 127).all()


@pytest.mark.parametrize("name", ["tiny", "small"])
def test_the_two_smallest_resolutions_stretch_the_picture(name: str) -> None:
    picture, side = noise(700, 300), OPTIONS[name].base_size
    assert np.array_equal(prepare_views(picture, OPTIONS[name]).global_view, np.asarray(picture.resize((side, side))))


def test_a_small_picture_gets_no_tiles_and_still_a_letterboxed_view() -> None:
    views = prepare_views(noise(300, 200), GUNDAM)
    assert (views.grid, views.tiles.shape, views.placeholders) == ((0, 0), (0, 0, 0, 3), 273)
    assert (views.global_view[0] == 127).all()


@pytest.mark.parametrize(("width", "height"), [(1, 5000), (5000, 1), (1, 1), (3, 4999)])
def test_strips_and_dots_are_prepared_too(width: int, height: int) -> None:
    views = prepare_views(noise(width, height), GUNDAM)
    assert views.global_view.shape == (1024, 1024, 3)
    assert views.placeholders == placeholder_count(width, height, GUNDAM)


def test_an_array_and_a_picture_with_rotation_or_alpha_give_the_views_of_the_upright_rgb_picture() -> None:
    upright = noise(900, 700)
    expected = prepare_views(upright, GUNDAM)
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    turned.getexif()[0x0112] = 6
    for same in (np.asarray(upright), turned, upright.convert("RGBA")):
        views = prepare_views(same, GUNDAM)
        assert np.array_equal(views.global_view, expected.global_view)
        assert np.array_equal(views.tiles, expected.tiles)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"base_size": 1000}, "'base_size' is 1000; it must be a multiple of 64 from 64 to 2048."),
        ({"image_size": True}, "'image_size' is True; it must be a multiple of 64 from 64 to 2048."),
        ({"base_size": "1024"}, "'base_size' is '1024'; it must be a multiple of 64 from 64 to 2048."),
        ({"crop_mode": 1}, "'crop_mode' is 1; it must be true or false."),
        ({"max_tiles": 10}, "'max_tiles' is 10; it must be from 2 to 9."),
        ({"zoom": 2}, "Unknown view option 'zoom'; there are base_size, crop_mode, image_size, max_tiles."),
        (
            {"base_size": 2048, "max_tiles": 9},
            "A global view of 2048 px with up to 9 tiles of 640 px is too large; "
            "all views together may have 5,324,800 pixels.",
        ),
    ],
)
def test_wrong_options_are_refused_in_one_sentence(values: dict[str, object], message: str) -> None:
    with pytest.raises(ViewError) as caught:
        parse_options(values)
    assert str(caught.value) == message


def test_a_request_changes_only_the_options_it_names() -> None:
    assert parse_options({"max_tiles": 9}, OPTIONS["large"]) == ViewOptions(1280, 1280, False, 9)
    assert parse_options({}) == GUNDAM


@settings(max_examples=200, deadline=None)
@given(sides, sides, st.integers(1, 32), st.integers(1, 32), st.integers(2, 9))
def test_no_allowed_request_takes_more_tokens_than_the_largest(
    width: int, height: int, base: int, tile: int, most: int
) -> None:
    options, grid = largest_request()
    largest = count_placeholders(options.base_size, options.image_size, grid)
    assert largest == 1411
    try:
        asked = ViewOptions(64 * base, 64 * tile, True, most)
    except ViewError:
        return
    assert placeholder_count(width, height, asked) <= largest


@pytest.mark.parametrize(
    ("whole", "tiles", "grid"),
    [
        ((1024, 1000, 3), (0, 0, 0, 3), (0, 0)),
        ((1000, 1000, 3), (0, 0, 0, 3), (0, 0)),
        ((1024, 1024, 3), (5, 640, 640, 3), (2, 3)),
        ((1024, 1024, 3), (10, 64, 64, 3), (1, 10)),
        ((0, 0, 3), (0, 0, 0, 3), (0, 0)),
        ((2048, 2048, 3), (9, 640, 640, 3), (3, 3)),
    ],
)
def test_views_that_do_not_fit_together_cannot_be_made(
    whole: tuple[int, ...], tiles: tuple[int, ...], grid: tuple[int, int]
) -> None:
    with pytest.raises(ViewError):
        Views(np.zeros(whole, np.uint8), np.zeros(tiles, np.uint8), grid)
