"""What runs in the engine's worker process: load the models once, then read page after page."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from app.engine.base import Finish
from app.engine.rapidocr import output
from app.engine.rapidocr.geometry import straighten
from app.engine.rapidocr.layout import arrange
from app.engine.rapidocr.text import punctuate
from app.errors import EngineStartError, OutOfMemory
from app.exchange import Exchange

if TYPE_CHECKING:
    from app.engine.rapidocr.models import Detection, Models
    from app.engine.rapidocr.orientation import Read
    from app.engine.rapidocr.recogniser import Picture, Reading

_FIRST_LINES = 12
"""Lines recognised at first, twice as many each time after: text leaves early, and cores seldom wait for the last."""

_exchange: Exchange | None = None
_models: Models | None = None


@dataclass(frozen=True)
class Job:
    """What to read from a page: the request's mode, grounding and term."""

    mode: str
    grounding: bool
    find_term: str

    @property
    def placed(self) -> bool:
        """Whether the answer says where its text is."""
        return self.grounding or self.mode not in ("plain_ocr", "multilingual")


@dataclass
class Stopwatch:
    """Milliseconds by stage."""

    stages: dict[str, float] = field(default_factory=dict)
    _since: float = field(default_factory=time.perf_counter)

    def lap(self, stage: str) -> None:
        """Book the time since the last lap on `stage`."""
        now = time.perf_counter()
        self.stages[stage] = self.stages.get(stage, 0.0) + (now - self._since) * 1000
        self._since = now


class Lines:
    """A page's lines, recognised in reading order when one is asked for, a few ahead."""

    def __init__(self, detection: Detection, order: Sequence[int], read: Read) -> None:
        self._detection = detection
        self._waiting = list(order)
        self._recognise = read
        self._ahead = _FIRST_LINES
        self._read: dict[int, Reading] = {}

    def add(self, readings: dict[int, Reading]) -> None:
        """Take lines that were already read."""
        self._read.update(readings)
        self._waiting = [index for index in self._waiting if index not in readings]

    def line(self, index: int) -> output.Line | None:
        """Return a line, None when nothing legible is there."""
        while index not in self._read:
            ahead, self._waiting = self._waiting[: self._ahead], self._waiting[self._ahead :]
            self._ahead *= 2
            readings = self._recognise([self._detection.crops[item] for item in ahead])
            self._read.update(zip(ahead, readings, strict=True))
        reading = self._read[index]
        if not reading.is_text:
            return None
        return output.Line(punctuate(reading.text), self._detection.quads[index], reading.bounds)


def load(threads: int, exchange: Exchange) -> None:
    """Load the models and run them once; raises EngineStartError when RapidOCR is not installed.

    `exchange`, through which pictures come, lives as long as this process.
    """
    global _exchange, _models
    _exchange = exchange
    try:
        from app.engine.rapidocr.models import Models

        models = Models(threads)
    except ImportError as error:
        raise EngineStartError(
            "The CPU engine's libraries are not installed. Install them with `pip install '.[cpu]'`, "
            "or start the service with `make serve`, which does."
        ) from error
    models.warm_up()
    _models = models


def read_page(pixels: Picture, job: Job) -> Iterator[str | Finish]:
    """Yield the page's text in pieces as it is read, empty ones between its stages, and last its Finish."""
    if _models is None:
        raise RuntimeError("load() must run first")
    try:
        yield from _read(_models, pixels, job)
    except MemoryError as error:
        raise OutOfMemory from error
    except Exception as error:
        if _is_out_of_memory(error):
            raise OutOfMemory from error
        raise


def _read(models: Models, pixels: Picture, job: Job) -> Iterator[str | Finish]:
    from app.engine.rapidocr.orientation import judge

    watch = Stopwatch()
    with_bounds = job.mode in ("find_ref", "pii_redact")

    def read(crops: Sequence[Picture]) -> list[Reading]:
        return models.recognise(crops, with_bounds, narrowed=not job.placed)

    yield ""
    detection = models.detect(pixels, 0)
    watch.lap("detect")
    yield ""
    readings: dict[int, Reading] = {}
    if detection.crops:
        turns, readings = judge(detection, read)
        watch.lap("orient")
        yield ""
        if turns:
            detection = models.detect(pixels, turns)
            watch.lap("detect")
            yield ""
    if detection.crops:
        boxes = straighten(detection.quads)
        blocks = arrange(boxes)
        lines = Lines(detection, [index for block in blocks for row in block.rows for index in row], read)
        lines.add(readings)
        yield from _write(output.Sheet(blocks, boxes, lines.line, detection.placement), job)
    watch.lap("recognise")
    size = detection.read_size
    yield Finish("stop", resolution=f"{size[0]}x{size[1]}" if size else "native", timing_ms=watch.stages)


def _write(sheet: output.Sheet, job: Job) -> Iterator[str]:
    if job.mode in ("markdown", "layout_map"):
        return output.markdown(sheet)
    if job.mode == "find_ref":
        return output.find(sheet, job.find_term)
    if job.mode == "pii_redact":
        from app.engine.rapidocr import pii

        return output.redact(sheet, pii.find)
    return output.grounded(sheet) if job.grounding else output.plain(sheet)


def _is_out_of_memory(error: Exception) -> bool:
    """Recognise what OpenCV and OpenVINO raise in place of MemoryError; RapidOCR may wrap it without its words."""
    words = "".join(traceback.format_exception(error)).lower()
    signs = ("insufficient memory", "bad_alloc", "bad alloc", "failed to allocate", "can't alloc")
    return any(sign in words for sign in signs)
