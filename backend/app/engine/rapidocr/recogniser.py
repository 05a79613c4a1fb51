"""The recognition model: lines of text read side by side, each by itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
"""Shape (height, width, 3)."""

_HEIGHT = 48
_MIN_WIDTH = 160
"""RapidOCR pads to 320. Words and single characters read the same from 128 up; at 96, an O was read as 0."""
_WIDTH_STEP = 32
"""The model is prepared anew for each width, so widths are rounded up."""
_LONG, _NARROWED = 320, 0.85
"""Lines longer than this, at the model's height, are read at this share of their width: as right, in less time.
At 0.8 a few more of fine print's narrow letters were lost."""
_LEAST_CONFIDENCE = 0.5


@dataclass(frozen=True)
class Reading:
    """A recognised line: its text, the mean confidence of its characters, and their bounds where asked for."""

    text: str
    confidence: float
    bounds: tuple[float, ...] | None = None

    @property
    def is_text(self) -> bool:
        """Whether RapidOCR's own filter keeps it."""
        return bool(self.text.strip()) and self.confidence >= _LEAST_CONFIDENCE


class Recogniser:
    """Reads lines side by side, one core each; a few lines one after the other, with all cores each.

    A line on one core of its own costs less than a batch shared by the cores, which wait for each other after every
    layer and for the batch's widest line; and what it reads like does not depend on the lines beside it.
    `threads` 0 leaves the number of cores to OpenVINO: all that this process may use.
    """

    def __init__(self, path: Path, threads: int) -> None:
        import cv2
        import openvino
        from rapidocr.ch_ppocr_rec.utils import CTCLabelDecode

        self._cv2 = cv2
        core = openvino.Core()
        model = core.read_model(path)
        letters = model.get_rt_info()["framework"]["character"].value.splitlines()
        self._decoder = CTCLabelDecode(character=letters)
        scores = _before_softmax(model)
        limit = {"INFERENCE_NUM_THREADS": threads} if threads else {}
        together = core.compile_model(scores, "CPU", limit | {"NUM_STREAMS": 1})
        self._cores = max(1, together.get_property("INFERENCE_NUM_THREADS"))
        apart = core.compile_model(scores, "CPU", {"INFERENCE_NUM_THREADS": self._cores, "NUM_STREAMS": self._cores})
        self._together = openvino.AsyncInferQueue(together, 1)
        self._apart = openvino.AsyncInferQueue(apart, self._cores)
        levels = np.arange(256, dtype=np.float32) / np.float32(255)
        self._levels = (levels - np.float32(0.5)) / np.float32(0.5)

    def read(self, crops: Sequence[Picture], with_bounds: bool = False, narrowed: bool = False) -> list[Reading]:
        """Read lines, BGR, that stand upright; `with_bounds` also finds where each character is.

        `narrowed` reads long lines at less than their width. Bounds need all of it: the model tells them in steps
        of 8 pixels of its input.
        """
        widths = [_width(crop, narrowed and not with_bounds) for crop in crops]
        found: dict[int, tuple[NDArray[Any], NDArray[Any]]] = {}

        def keep(request: Any, index: int) -> None:
            found[index] = _likeliest(request.get_output_tensor().data[0])

        queue = self._together if len(crops) <= max(1, self._cores // 4) else self._apart
        queue.set_callback(keep)
        # The longest first, so that no core is left with a long line when the others are done.
        for index in sorted(range(len(crops)), key=lambda index: -widths[index]):
            queue.start_async([self._prepare(crops[index], widths[index])], index)
        queue.wait_all()
        return [self._decode(crop, *found[index], with_bounds) for index, crop in enumerate(crops)]

    def _prepare(self, crop: Picture, width: int) -> NDArray[np.float32]:
        """Return the model's input for a line `width` wide: shape (1, 3, 48, padded), RapidOCR's own values, 0 right of it."""
        cv2 = self._cv2
        resized = cv2.resize(crop, (width, _HEIGHT))
        planes = np.zeros((1, 3, _HEIGHT, _padded(width)), np.float32)
        for plane, target in zip(cv2.split(resized), planes[0], strict=True):
            target[:, :width] = cv2.LUT(plane, self._levels)
        return planes

    def _decode(self, crop: Picture, best: NDArray[Any], sure: NDArray[Any], with_bounds: bool) -> Reading:
        ratio, whole = crop.shape[1] / crop.shape[0], _padded(_width(crop)) / _HEIGHT
        read, words = self._decoder.decode(best[None], sure[None], with_bounds, (ratio,), whole, True)
        text, confidence = read[0]
        return Reading(text, float(confidence), _bounds(text, words[0]) if with_bounds else None)


def _before_softmax(model: Any) -> Any:
    """Return a model that ends before its softmax, which would compute 18,710 probabilities for every step."""
    import openvino
    from openvino import opset13

    softmax = model.outputs[0].get_node().input_value(0).get_node()
    return openvino.Model([opset13.result(softmax.input_value(0))], model.get_parameters(), "recogniser")


def _likeliest(scores: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return each step's likeliest character, and its probability at the steps that CTC writes: not blank, not repeated.

    `scores` has shape (steps, characters), 0 being the blank; the others' probability is left at 0.
    """
    best = scores.argmax(axis=1)
    written = best != 0
    written[1:] &= best[1:] != best[:-1]
    odds = scores[written]
    odds -= odds.max(axis=1, keepdims=True)
    sure = np.zeros(len(best), np.float32)
    sure[written] = 1 / np.exp(odds, out=odds).sum(axis=1)
    return best, sure


def _width(crop: Picture, narrowed: bool = False) -> int:
    """Return the width of a line at the model's height; `narrowed`, less for a long one."""
    width: int = math.ceil(_HEIGHT * crop.shape[1] / crop.shape[0])
    return max(_LONG, math.ceil(width * _NARROWED)) if narrowed and width > _LONG else width


def _padded(width: int) -> int:
    """Return the width of the model's input for a line."""
    steps: int = math.ceil(width / _WIDTH_STEP)
    return max(_MIN_WIDTH, steps * _WIDTH_STEP)


def _bounds(text: str, words: Any) -> tuple[float, ...]:
    """Return the borders between characters, as fractions of the line, from the recogniser's time steps."""
    columns = [column for word in words.word_cols for column in word]
    inked = [index for index, letter in enumerate(text) if not letter.isspace()]
    steps = max(float(words.line_txt_len), 1.0)
    centres = [(column + 0.5) / steps for column in columns]
    if len(centres) != len(inked) or not centres:
        return tuple(index / max(1, len(text)) for index in range(len(text) + 1))
    middles = np.interp(np.arange(len(text)), inked, np.maximum.accumulate(centres))
    inner = (middles[1:] + middles[:-1]) / 2
    return tuple(float(value) for value in np.clip([0.0, *inner, 1.0], 0.0, 1.0))
