"""The limits a picture is held to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class IngestLimits:
    """Most pixels (width times height) and frames of one file, and the seconds its decoding may take."""

    max_pixels: int
    max_frames: int
    decode_timeout: float
