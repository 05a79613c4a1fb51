"""RapidOCR's detector and recogniser with the options this service uses; lives in the worker process.

The only file that knows RapidOCR. It is imported when the models are loaded, never by the service.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from app.engine.rapidocr.detector import look_closely
from app.engine.rapidocr.geometry import Placement, Points
from app.engine.rapidocr.recogniser import Picture, Reading, Recogniser

_MAX_SIDE = 2000
_LONG_PAGE = 2.0
_LONG_PAGE_PIXELS = 3_000_000
_NARROWEST, _WIDEST = 1 / 8, 3.0
"""Least and most width over height of what the detector sees: its time grows with the enlarged short side."""
_MIN_SIDE = 256
_TALL = 1.5


@dataclass(frozen=True, eq=False)
class Detection:
    """Text lines found on a picture, perhaps none.

    `crops` are the lines cut out, BGR, those of tall boxes turned a quarter counter-clockwise.
    `quads` are their quadrilaterals in reading direction, in pixels of the picture as the detector
    saw it; `tall` says which boxes are tall. `placement` maps them to the page, `read_size` is the
    (width, height) that was read, None when that is the picture's own.
    """

    crops: list[Picture]
    quads: list[Points]
    tall: list[bool]
    placement: Placement
    read_size: tuple[int, int] | None


class Models:
    """The loaded models. `threads` 0 leaves the number to OpenVINO: all cores this process may use."""

    def __init__(self, threads: int) -> None:
        keep_openvino_quiet()
        import cv2
        import rapidocr
        from rapidocr import EngineType
        from rapidocr.main import RapidOCRError

        self._cv2 = cv2
        self._nothing_found = RapidOCRError
        if threads:
            cv2.setNumThreads(threads)
        models = Path(rapidocr.__file__).parent / "models"
        self._ocr: Any = rapidocr.RapidOCR(
            params={
                "Global.log_level": "critical",
                "Global.use_cls": False,
                "EngineConfig.openvino.inference_num_threads": threads or -1,
                "Det.engine_type": EngineType.OPENVINO,
                # A path, because RapidOCR fetches a model that it finds by name and thinks damaged.
                "Det.model_path": str(models / "PP-OCRv6_det_small.onnx"),
            }
        )
        look_closely(self._ocr)
        self._recogniser = Recogniser(models / "PP-OCRv6_rec_small.onnx", threads)

    def warm_up(self) -> None:
        """Run both models once on a blank page, which takes the first page's allocations off it."""
        self.detect(np.full((1280, 960, 3), 255, np.uint8), 0)
        for count in (1, 12):
            self.recognise([np.full((48, width, 3), 255, np.uint8) for width in (320, 800) for _ in range(count)])

    def detect(self, page: Picture, turns: int) -> Detection:
        """Find the lines of a page that is first turned `turns` quarters counter-clockwise."""
        cv2 = self._cv2
        turned = np.ascontiguousarray(np.rot90(page, turns))
        height, width = turned.shape[:2]
        framed, left, top = self._frame(turned)
        self._ocr.max_side_len = _side_limit(framed)
        resized, record = self._ocr.preprocess_img(self._shrink(framed, self._ocr.max_side_len))
        scale_x, scale_y = resized.shape[1] / framed.shape[1], resized.shape[0] / framed.shape[0]
        try:
            crops, found = self._ocr.detect_and_crop(cv2.cvtColor(resized, cv2.COLOR_RGB2BGR), record)
            quads = [np.asarray(box, np.float64) for box in found.boxes]
        except self._nothing_found:
            crops, quads = [], []
        padding = record["padding_1"]
        placement = Placement(
            left * scale_x + padding["left"], top * scale_y + padding["top"], width * scale_x, height * scale_y, turns
        )
        tall = [_is_tall(quad) for quad in quads]
        unchanged = resized.shape == framed.shape
        return Detection(
            crops=list(crops),
            # A tall box's crop was turned: it reads from the box's top right corner downwards.
            quads=[quad[[1, 2, 3, 0]] if is_tall else quad for quad, is_tall in zip(quads, tall, strict=True)],
            tall=tall,
            placement=placement,
            read_size=None if unchanged else (round(placement.width), round(placement.height)),
        )

    def recognise(self, crops: Sequence[Picture], with_bounds: bool = False, narrowed: bool = False) -> list[Reading]:
        """Read lines that stand upright; `with_bounds` and `narrowed` as for Recogniser.read."""
        return self._recogniser.read(crops, with_bounds, narrowed)

    def _frame(self, picture: Picture) -> tuple[Picture, int, int]:
        """Widen strips and tiny pictures with their border's colour; also the offsets x, y.

        The detector enlarges the short side to 736 pixels: a strip of 30 x 2000 would become 36 million,
        and the letters of a word cut out tightly too large to be seen as letters.
        """
        height, width = picture.shape[:2]
        x = max(0, math.ceil((max(height * _NARROWEST, _MIN_SIDE) - width) / 2))
        y = max(0, math.ceil((max(width / _WIDEST, _MIN_SIDE) - height) / 2))
        if x == y == 0:
            return picture, 0, 0
        border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
        colour = [float(value) for value in np.median(border, axis=0)]
        framed = self._cv2.copyMakeBorder(picture, y, y, x, x, self._cv2.BORDER_CONSTANT, value=colour)
        return np.asarray(framed, np.uint8), x, y

    def _shrink(self, picture: Picture, limit: int) -> Picture:
        """Shrink by area what is more than twice too large: RapidOCR's linear resize would skip pixels."""
        height, width = picture.shape[:2]
        factor = max(height, width) / limit
        if factor <= 2.0:
            return picture
        size = [max(32, round(side / factor / 32) * 32) for side in (width, height)]
        return np.asarray(self._cv2.resize(picture, size, interpolation=self._cv2.INTER_AREA), np.uint8)


def keep_openvino_quiet() -> None:
    """Keep OpenVINO's model converter out: importing it writes to the home directory and reports over the network."""
    for name in ("openvino.tools.ovc", "openvino_telemetry"):
        sys.modules[name] = None  # type: ignore[assignment]


def _side_limit(picture: Picture) -> int:
    """Return the longest side to read: RapidOCR's 2000 pixels, but for receipts and the like as many pixels in all."""
    long, short = max(picture.shape[:2]), min(picture.shape[:2])
    if long <= _LONG_PAGE * short:
        return _MAX_SIDE
    return int(math.sqrt(_LONG_PAGE_PIXELS * long / short))


def _is_tall(quad: Points) -> bool:
    """Say whether RapidOCR turns this box's crop; its own rule, on the same whole pixels."""
    width = int(max(np.linalg.norm(quad[0] - quad[1]), np.linalg.norm(quad[2] - quad[3])))
    height = int(max(np.linalg.norm(quad[0] - quad[3]), np.linalg.norm(quad[1] - quad[2])))
    return height / width >= _TALL
