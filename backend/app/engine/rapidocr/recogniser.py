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
        chosen = _choose_in_graph(model)
        limit = {"INFERENCE_NUM_THREADS": threads} if threads else {}
        together = core.compile_model(chosen, "CPU", limit | {"NUM_STREAMS": 1})
        self._cores = max(1, together.get_property("INFERENCE_NUM_THREADS"))
        apart = core.compile_model(chosen, "CPU", {"INFERENCE_NUM_THREADS": self._cores, "NUM_STREAMS": self._cores})
        self._together = openvino.AsyncInferQueue(together, 1)
        self._apart = openvino.AsyncInferQueue(apart, self._cores)
        levels = np.arange(256, dtype=np.float32) / np.float32(255)
        self._levels = (levels - np.float32(0.5)) / np.float32(0.5)

    def read(self, crops: Sequence[Picture], with_bounds: bool = False) -> list[Reading]:
        """Read lines, BGR, that stand upright; `with_bounds` also finds where each character is."""
        found: dict[int, tuple[NDArray[Any], NDArray[Any]]] = {}

        def keep(request: Any, index: int) -> None:
            found[index] = tuple(request.get_output_tensor(number).data[..., 0].copy() for number in (0, 1))

        queue = self._together if len(crops) <= max(1, self._cores // 4) else self._apart
        queue.set_callback(keep)
        # The longest first, so that no core is left with a long line when the others are done.
        for index in sorted(range(len(crops)), key=lambda index: -_width(crops[index])):
            queue.start_async([self._prepare(crops[index])], index)
        queue.wait_all()
        return [self._decode(crop, *found[index], with_bounds) for index, crop in enumerate(crops)]

    def _prepare(self, crop: Picture) -> NDArray[np.float32]:
        """Return the model's input: shape (1, 3, 48, width), RapidOCR's own values, 0 right of the line."""
        cv2 = self._cv2
        resized = cv2.resize(crop, (math.ceil(_HEIGHT * crop.shape[1] / crop.shape[0]), _HEIGHT))
        planes = np.zeros((1, 3, _HEIGHT, _width(crop)), np.float32)
        for plane, target in zip(cv2.split(resized), planes[0], strict=True):
            target[:, : resized.shape[1]] = cv2.LUT(plane, self._levels)
        return planes

    def _decode(self, crop: Picture, best: NDArray[Any], sure: NDArray[Any], with_bounds: bool) -> Reading:
        ratio = crop.shape[1] / crop.shape[0]
        read, words = self._decoder.decode(best, sure, with_bounds, (ratio,), _width(crop) / _HEIGHT, True)
        text, confidence = read[0]
        return Reading(text, float(confidence), _bounds(text, words[0]) if with_bounds else None)


def _choose_in_graph(model: Any) -> Any:
    """Return a model that names each time step's likeliest character, shape (1, steps, 1), and its probability.

    So the 18,710 probabilities of every step need not leave the model to be searched by NumPy.
    """
    import openvino
    from openvino import opset13

    best = opset13.topk(
        model.outputs[0].get_node().input_value(0),
        np.int64(1),
        axis=2,
        mode="max",
        sort="none",
        index_element_type="i32",
    )
    outputs = [opset13.result(best.output(1)), opset13.result(best.output(0))]
    return openvino.Model(outputs, model.get_parameters(), "recogniser")


def _width(crop: NDArray[np.uint8]) -> int:
    """Return the width of the model's input for a line, rounded up."""
    steps: int = math.ceil(_HEIGHT * crop.shape[1] / crop.shape[0] / _WIDTH_STEP)
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
