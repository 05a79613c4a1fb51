"""The Protocol every engine implements, and what passes through it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import Literal, Protocol, cast, runtime_checkable

from app.page import Page
from app.vllm_models.views import ViewOptions, Views

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Resolution:
    """How a page is cut into model views, in pixels; `name` is None for a combination without a published name."""

    base_size: int
    image_size: int
    crop_mode: bool
    name: str | None = None


@dataclass(frozen=True, eq=False)
class CutPage:
    """A page of `width` x `height` pixels of which only the views were kept that a ViewEngine reads; otherwise a Page."""

    views: Views
    width: int
    height: int
    source_format: str
    number: int = 1
    pages: int = 1
    dpi: float | None = None


@dataclass(frozen=True)
class GenerationRequest:
    """One page to read and how.

    `page` is a CutPage for a ViewEngine, which takes a Page too. `prompt` is what the model sees after the picture. `mode` and `find_term` say the same to an
    engine that is not driven by prompts. `grounding` asks for boxes. `max_tokens` None means the
    engine's own limit. `attempt` above 0 asks for the same page again, because the text of the
    attempt before repeated itself without end: the engine reads it under other settings.
    """

    request_id: str
    page: Page | CutPage
    mode: str
    prompt: str
    grounding: bool
    resolution: Resolution
    find_term: str | None = None
    max_tokens: int | None = None
    attempt: int = 0


@dataclass(frozen=True)
class Usage:
    """Token counts of one generation; None where the engine has no such thing.

    `prompt_tokens` counts the whole prompt, `image_tokens` the part of it that is the picture.
    """

    prompt_tokens: int | None = None
    image_tokens: int | None = None
    output_tokens: int | None = None


@dataclass(frozen=True)
class Finish:
    """How a generation ended.

    `resolution` names what the engine really used: a published name ("gundam"), "WxH" pixels, or
    "native" when the picture was read in its own size. `timing_ms` holds engine stages by name.
    """

    reason: FinishReason
    usage: Usage = Usage()
    resolution: str = "native"
    timing_ms: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Chunk:
    """A piece of output text; the last chunk of a generation, and only it, carries `finish`."""

    text: str
    finish: Finish | None = None


@dataclass(frozen=True)
class Capabilities:
    """What an engine can do.

    `modes` are the names it accepts. `prompted` is True when the prompt, not the mode, drives it.
    `concurrency` is how many generations it usefully runs side by side. `retries` is how many
    further attempts at a page, after the first, it has settings for. `notice` is what everyone who
    gets its answers has to know about its model: that it is a test model, say.
    """

    modes: frozenset[str]
    prompted: bool
    concurrency: int
    retries: int = 0
    notice: str | None = None


class EngineState(str, Enum):
    """Where an engine is in its life."""

    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Health:
    """An engine's state; `reason` is one sentence for a person, never a library's exception text."""

    state: EngineState
    reason: str = ""


class Engine(Protocol):
    """An OCR engine.

    Engines speak the model's output language: text in which a box is written
    `<|ref|>label<|/ref|><|det|>[[x1,y1,x2,y2],...]<|/det|>` with integers 0..999 of the page's
    width and height. Lines of text are separated by newlines.
    """

    name: str
    model: str

    def capabilities(self) -> Capabilities:
        """Say what the engine can do; constant, and valid before `start`."""
        ...

    def health(self) -> Health:
        """Say whether requests are served now; never blocks."""
        ...

    async def start(self) -> None:
        """Load; return when ready. Raises EngineStartError with a sentence that says what to do."""
        ...

    def generate(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        """Read one page, yielding text as it is read.

        Closing the iterator, or cancelling the task that awaits it, aborts the generation. Raises
        EngineNotReady before `start` is done, EngineFailed when the engine dies under the request,
        OutOfMemory when this page is too big for it.
        """
        ...

    async def stop(self) -> None:
        """Release everything, worker processes included; idempotent."""
        ...


@runtime_checkable
class ViewEngine(Protocol):
    """An engine that reads views of a page, which are cut where the page is decoded: it never sees the page itself."""

    def view_options(self, resolution: Resolution) -> ViewOptions:
        """Return how to cut a page for this resolution. Raises InvalidParameter for one that cannot be read."""
        ...


def as_view_engine(engine: Engine) -> ViewEngine | None:
    """Return the engine where it reads views, else None."""
    return cast(ViewEngine, engine) if _reads_views(type(engine)) else None


@lru_cache
def _reads_views(kind: type) -> bool:
    """Say so by its methods; to ask Python takes 0.05 ms, and is asked three times for each page."""
    return issubclass(kind, ViewEngine)


@runtime_checkable
class EarlyEngine(Protocol):
    """An engine of which a part can load while the service is still being imported."""

    def begin(self) -> None:
        """Begin in the background what `start` goes on with; raises nothing, and `start` or `stop` ends it."""
        ...


@runtime_checkable
class MeasuredEngine(Protocol):
    """An engine with metrics of its own besides the service's."""

    def render_metrics(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        ...
