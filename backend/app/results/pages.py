"""One page of a document as it is kept: what was read, or why it was not."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from app.ocr.grounding import Box
from app.ocr.render import Figure
from app.ocr.service import Recognition


@dataclass(frozen=True)
class PageFailure:
    """Why a page was not read: an error's code and its sentence."""

    code: str
    detail: str


@dataclass(frozen=True)
class PageResult:
    """Page `number` (from 1 on) of a document, read as a picture of width x height pixels.

    `boxes` and `figures` are in those pixels; `dpi` is at how many dots per inch a PDF's page was rendered, None for
    pictures. `text` links to the figures by their names. A page that failed has a `failure` and no text.
    """

    number: int
    text: str = ""
    raw_text: str = ""
    boxes: tuple[Box, ...] = ()
    figures: tuple[Figure, ...] = ()
    width: int = 0
    height: int = 0
    dpi: float | None = None
    mode: str = ""
    finish_reason: str = ""
    looped: bool = False
    attempts: int = 1
    failure: PageFailure | None = None

    @classmethod
    def of(cls, number: int, recognition: Recognition, dpi: float | None) -> PageResult:
        """Return what is kept of a recognised page."""
        return cls(
            number=number,
            text=recognition.text,
            raw_text=recognition.raw_text,
            boxes=recognition.boxes,
            figures=recognition.figures,
            width=recognition.width,
            height=recognition.height,
            dpi=dpi,
            mode=recognition.mode,
            finish_reason=recognition.finish.reason,
            looped=recognition.looped,
            attempts=recognition.attempts,
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as values JSON has."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> PageResult:
        """Return what `to_json` wrote down."""
        boxes = tuple(Box(**box) for box in value["boxes"])
        figures = tuple(Figure(figure["name"], Box(**figure["box"])) for figure in value["figures"])
        failure = PageFailure(**value["failure"]) if value["failure"] else None
        return cls(**{**value, "boxes": boxes, "figures": figures, "failure": failure})

    def to_line(self) -> str:
        """Return it as one line of JSON in ASCII, so that no lone surrogate is in the way."""
        return json.dumps(self.to_json()) + "\n"

    @classmethod
    def from_line(cls, line: str) -> PageResult:
        """Return what `to_line` wrote down."""
        return cls.from_json(json.loads(line))
