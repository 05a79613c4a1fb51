"""What RapidOCR's detector looks at: the part of a page that anything is printed on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.engine.rapidocr.recogniser import Picture

Planes = NDArray[np.float32]
"""The detector's input: shape (1, 3, height, width), sides multiples of 32."""
Map = NDArray[np.float32]
"""The detector's output: shape (1, 1, height, width), how surely a pixel lies within a line of text."""

_STEP = 32
"""Sides that the detector takes are multiples of it, and its layers lie on the whole picture's grid where a part begins at one."""
_AROUND = 3
"""Steps of paper around the print. With one, lines' boxes were so close that some full-width marks were read as narrow ones."""
_CELL, _BLANK = 16, 2
"""Where the mean of a cell of so many pixels is within so many levels of 256 of the paper's, nothing is printed. The noise of a
scan is gone in the mean, and its shadows count as print. On type of 8 to 24 pixels, from 10 to 60 levels darker than the paper,
with noise of 6 levels and without, the detector found no line on the whole page that it did not find so; but several that
it had missed, since it overlooks what stands alone on much paper."""


def look_closely(ocr: Any) -> None:
    """Make RapidOCR's detector look at the printed part alone. It still finds the lines' boxes in the map itself."""
    detector = ocr._load_det_model()
    own = detector.get_preprocess()
    detector.session = CloseLook(detector.session, own.resize, prepare_like(own))
    detector.get_preprocess = lambda: lambda picture: picture


class CloseLook:
    """Stands in for the detector's session, with a picture, BGR, in place of its input.

    `resize` gives a picture the sides that RapidOCR has the detector look at.
    """

    def __init__(
        self,
        session: Callable[[Planes], Map],
        resize: Callable[[Picture], Picture],
        prepare: Callable[[Picture], Planes],
    ) -> None:
        self._session = session
        self._resize = resize
        self._prepare = prepare

    def __call__(self, picture: Picture) -> Map:
        whole = self._resize(picture)
        found = np.zeros((1, 1, *whole.shape[:2]), np.float32)
        if (part := printed_part(whole)) is not None:
            found[..., part[0], part[1]] = self._session(self._prepare(whole[part]))
        return found


def printed_part(picture: Picture) -> tuple[slice, slice] | None:
    """Return the rows and columns within which all is that is not blank, with paper around it; None for a blank page.

    `picture` has sides that are multiples of the step, and so has the part.
    """
    import cv2

    height, width = picture.shape[:2]
    cells = cv2.resize(picture, (width // _CELL, height // _CELL), interpolation=cv2.INTER_AREA)
    paper = np.median(np.concatenate([cells[0], cells[-1], cells[:, 0], cells[:, -1]]), axis=0)
    printed = (np.abs(cells - paper) > _BLANK).any(axis=2)
    rows, columns = (
        _around(np.flatnonzero(printed.any(axis=axis)) * _CELL, picture.shape[1 - axis]) for axis in (1, 0)
    )
    return (rows, columns) if rows is not None and columns is not None else None


def _around(places: NDArray[np.int64], size: int) -> slice | None:
    if not places.size:
        return None
    first, last = int(places[0]) // _STEP - _AROUND, int(places[-1]) // _STEP + 1 + _AROUND
    return slice(max(0, first) * _STEP, min(last * _STEP, size))


def prepare_like(own: Any) -> Callable[[Picture], Planes]:
    """Return what makes the detector's input of a resized picture as `own`, RapidOCR's DetPreProcess, bit for bit.

    In a sixth of its time: RapidOCR computes every sample in float64 and leaves the transposition to OpenVINO;
    here each of the 256 values of a channel is computed once.
    """
    import cv2

    levels = np.arange(256, dtype=np.uint8).reshape(256, 1, 1)
    tables = own.permute(own.normalize(levels).astype(np.float32))

    def prepare(picture: Picture) -> Planes:
        planes = np.empty((1, 3, *picture.shape[:2]), np.float32)
        for plane, table, target in zip(cv2.split(picture), tables, planes[0], strict=True):
            cv2.LUT(plane, np.ascontiguousarray(table), dst=target)
        return planes

    return prepare
