"""Pictures of every Pillow mode and orientation to upright uint8 RGB."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageFile

Array = NDArray[Any]
Pixels = NDArray[np.uint8]

# Rows are converted in strips of about this many pixels: what the conversion needs beside the picture
# and the result stays small and within the processor's cache (measured: 7 times as fast as in one go).
_STRIP_PIXELS = 2**17

_ALPHA_MODES = {"RGBA", "RGBa", "LA", "La", "PA"}

# Formats whose pictures, once loaded, need their file no more; others may decode again at each use.
_LOADED_ONCE = {"JPEG", "MPO", "PNG", "TIFF"}

# EXIF 2.32, Orientation: how the stored picture turns upright, and for which orientations its first row
# becomes the last row (3, 4) or the last column (6, 7).
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_FROM_THE_FAR_SIDE = {3, 4, 6, 7}

# TIFF tags and values.
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
_WHITE_IS_ZERO, _UNSIGNED, _SIGNED = 0, 1, 2


def to_rgb(image: Image.Image, orientation: int) -> Pixels:
    """Return the loaded `image` turned upright, alpha flattened on white.

    `orientation` is EXIF's, 1 to 8. The result has shape (height, width, 3) and is C-contiguous.
    Raises ValueError for a mode without a conversion.
    """
    width, height = image.size
    pixels = np.empty((width, height, 3) if orientation >= 5 else (height, width, 3), np.uint8)
    convert = _converter(image)
    for top, strip in _strips(image):
        bottom = top + strip.height
        lines = slice(height - bottom, height - top) if orientation in _FROM_THE_FAR_SIDE else slice(top, bottom)
        if orientation in _TURNS:
            strip = strip.transpose(_TURNS[orientation])
        target = pixels[:, lines] if orientation >= 5 else pixels[lines]
        target[...] = convert(strip)
    return pixels


def keep_or_convert(image: Image.Image, orientation: int) -> Image.Image | Pixels:
    """Return the loaded `image` itself where its pixels are upright RGB already; otherwise as `to_rgb` does."""
    plain = image.mode == "RGB" and orientation == 1 and "transparency" not in image.info
    return image if plain and image.format in _LOADED_ONCE else to_rgb(image, orientation)


def scale_transparency(image: Image.Image) -> None:
    """Bring a PNG's transparent colour, kept in the file's bit depth, to the depth of the pixels.

    To be called before the pixels are loaded: only then does the picture know its file's depth.
    """
    value = image.info.get("transparency")
    raw_mode = image.tile[0][3] if isinstance(image, ImageFile.ImageFile) and image.tile else None
    if raw_mode == "L;2":
        image.info["transparency"] = value * 85 if isinstance(value, int) else value
    elif raw_mode == "L;4":
        image.info["transparency"] = value * 17 if isinstance(value, int) else value
    elif raw_mode == "RGB;16B" and isinstance(value, tuple):
        image.info["transparency"] = tuple(channel >> 8 for channel in value)


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Yield (top row, strip) from top to bottom."""
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _converter(image: Image.Image) -> Callable[[Image.Image], Array]:
    """Return what turns a strip of `image` into an array that broadcasts to (rows, width, 3)."""
    if image.mode.startswith("I;16"):
        return _from_16_bits(image)
    if image.mode in ("I", "F"):
        return _from_32_bits(image)
    if image.mode == "LAB":
        return lambda strip: np.asarray(ImageCms.applyTransform(strip, _lab_to_srgb()))
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        return _flatten
    if image.mode == "RGB":
        return np.asarray
    # CMYK's embedded profiles are left aside: they shift hues, which no engine reads.
    return lambda strip: np.asarray(strip.convert("RGB"))


def _flatten(strip: Image.Image) -> Array:
    rgba = strip.convert("RGBA")
    white = Image.new("RGB", strip.size, "white")
    white.paste(rgba, mask=rgba)
    return np.asarray(white)


def _from_16_bits(image: Image.Image) -> Callable[[Image.Image], Array]:
    shift = max(0, int(_tiff_tag(image, _BITS_PER_SAMPLE, 16)) - 8)
    transparent = image.info.get("transparency")
    finish = _finish_grey(image)

    def convert(strip: Image.Image) -> Array:
        samples = np.asarray(strip)
        grey = (samples >> shift).astype(np.uint8)
        if isinstance(transparent, int):
            grey[samples == transparent] = 255
        return finish(grey)

    return convert


def _from_32_bits(image: Image.Image) -> Callable[[Image.Image], Array]:
    """Integers and floats have no agreed white: take 1 (floats), 255 or 65535, the first that holds them all.

    A range beyond, or below zero, is stretched to what the picture uses. NaN is read as black.
    """
    unsigned = image.mode == "I" and _tiff_tag(image, _SAMPLE_FORMAT, _UNSIGNED) != _SIGNED

    def samples(strip: Image.Image) -> Array:
        array = np.asarray(strip)
        return array.view(np.uint32) if unsigned else array

    low, high = np.inf, -np.inf
    for _, strip in _strips(image):
        array = samples(strip)
        finite = array[np.isfinite(array)]
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    whites = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
    white = next((white for white in whites if low >= 0 and high <= white), None)
    black, white = (0.0, white) if white is not None else (low, high)
    scale = 255.0 / (white - black) if white > black else 0.0
    finish = _finish_grey(image)

    def convert(strip: Image.Image) -> Array:
        array = np.nan_to_num(samples(strip).astype(np.float64), nan=black, posinf=white, neginf=black)
        return finish(np.rint((array - black) * scale).astype(np.uint8))

    return convert


def _finish_grey(image: Image.Image) -> Callable[[Array], Array]:
    # Pillow turns white-is-zero pictures round up to 8 bits and leaves the deeper ones as they are.
    inverted = _tiff_tag(image, _PHOTOMETRIC, None) == _WHITE_IS_ZERO
    return lambda grey: (255 - grey if inverted else grey)[:, :, None]


def _tiff_tag(image: Image.Image, tag: int, default: Any) -> Any:
    value = getattr(image, "tag_v2", {}).get(tag, default)
    return value[0] if isinstance(value, tuple) and value else value


@lru_cache(maxsize=1)
def _lab_to_srgb() -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")
