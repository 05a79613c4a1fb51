"""The published resolution modes, and the rules for any other combination."""

from __future__ import annotations

from app.engine.base import Resolution
from app.errors import InvalidParameter

# Names and numbers as the authors of DeepSeek-OCR publish them.
RESOLUTIONS = {
    "tiny": Resolution(512, 512, False, "tiny"),
    "small": Resolution(640, 640, False, "small"),
    "base": Resolution(1024, 1024, False, "base"),
    "large": Resolution(1280, 1280, False, "large"),
    "gundam": Resolution(1024, 640, True, "gundam"),
}

# One image token covers 64 x 64 px: patches of 16 px, downsampled 4 times.
TOKEN_SIDE = 64
SMALLEST_SIDE, LARGEST_SIDE = 64, 2048


def resolve_resolution(name: str | None, base_size: int, image_size: int, crop_mode: bool) -> Resolution:
    """Return the resolution called `name`, or else the one the three numbers describe (pixels).

    Raises InvalidParameter for an unknown name and for sizes the encoder cannot take.
    """
    if name:
        if name not in RESOLUTIONS:
            raise InvalidParameter(f"Unknown resolution '{name[:40]}'. Use one of: {', '.join(RESOLUTIONS)}.")
        return RESOLUTIONS[name]
    for field, side in (("base_size", base_size), ("image_size", image_size)):
        if side % TOKEN_SIDE or not SMALLEST_SIDE <= side <= LARGEST_SIDE:
            raise InvalidParameter(
                f"Field '{field}' is {side}; it must be a multiple of {TOKEN_SIDE} from {SMALLEST_SIDE} to {LARGEST_SIDE}."
            )
    for published in RESOLUTIONS.values():
        # Without tiles only the global view's size counts, and the authors give both numbers alike.
        if (base_size, image_size, crop_mode) == (published.base_size, published.image_size, published.crop_mode):
            return published
    return Resolution(base_size, image_size, crop_mode)
