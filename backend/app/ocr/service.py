"""The one place where a page, the options of a request and an engine meet."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace

from app.engine.base import Chunk, CutPage, Engine, Finish, GenerationRequest, Resolution, Usage, as_view_engine
from app.errors import EngineFailed, ModeNotSupported
from app.ocr.grounding import Box
from app.ocr.modes import DEFAULT_FIND_TERM, DEFAULT_SCHEMA, MODES, Mode, build_prompt, find_mode
from app.ocr.render import Figure, render, strip_code_fence
from app.ocr.resolution import RESOLUTIONS
from app.ocr.tables import extract_tables, to_csv, to_markdown
from app.ocr.verdicts import is_looped
from app.page import Page

# Characters between two looks at a growing text; a look takes about a millisecond.
_JUDGE_EVERY = 2_000


@dataclass(frozen=True)
class RecogniseOptions:
    """What a request asks of one page; `max_tokens` None leaves the engine its own limit."""

    mode: str = "plain_ocr"
    prompt: str = ""
    grounding: bool = False
    include_caption: bool = False
    find_term: str = DEFAULT_FIND_TERM
    schema: str = DEFAULT_SCHEMA
    resolution: Resolution = RESOLUTIONS["gundam"]
    max_tokens: int | None = None


@dataclass(frozen=True)
class Recognition:
    """One page read: `text` for people, `raw_text` as the engine wrote it, boxes and figures in pixels of the page.

    `truncated` means the token limit ended the text; `looped` that it repeats itself without end.
    `attempts` is how many times the page was read: above 1 when the text before looped. `timing_ms`
    holds `engine` (all attempts), the last one's own stages and `render`.
    """

    text: str
    raw_text: str
    boxes: tuple[Box, ...]
    width: int
    height: int
    mode: str
    grounding: bool
    finish: Finish
    looped: bool
    timing_ms: dict[str, float]
    attempts: int = 1
    figures: tuple[Figure, ...] = ()

    @property
    def truncated(self) -> bool:
        return self.finish.reason == "length"

    @property
    def usage(self) -> Usage:
        return self.finish.usage


@dataclass(frozen=True)
class Restart:
    """All text so far is void, because it looped; what follows is attempt number `attempt`, from 2 on."""

    attempt: int


def check_options(engine: Engine, options: RecogniseOptions) -> None:
    """Refuse what is wrong (InvalidParameter), and a mode that is beyond this engine (ModeNotSupported)."""
    mode = find_mode(options.mode)
    modes = engine.capabilities().modes
    if mode.name not in modes:
        able = ", ".join(name for name in MODES if name in modes)
        raise ModeNotSupported(
            f"Mode '{mode.name}' is not something the {engine.name} engine can do. Modes it can do: {able}."
        )
    if (views := as_view_engine(engine)) is not None:
        views.view_options(options.resolution)


async def recognise_stream(
    engine: Engine, page: Page | CutPage, options: RecogniseOptions, request_id: str
) -> AsyncGenerator[str | Restart | Recognition, None]:
    """Yield the raw text piece by piece as it is read, then the Recognition; closing it aborts.

    Raises what `check_options` and `Engine.generate` raise.

    The pieces after the last Restart joined are exactly the Recognition's `raw_text`. A page whose
    text loops is read again as often as the engine can; the last attempt counts, looped or not.
    """
    check_options(engine, options)
    mode = find_mode(options.mode)
    first = _generation_request(mode, page, options, request_id)
    retries = engine.capabilities().retries
    started = time.perf_counter()
    for attempt in range(retries + 1):
        request = replace(first, attempt=attempt)
        output = _Output()
        async with contextlib.aclosing(_chunks(engine, request)) as chunks:
            async for chunk in chunks:
                output.add(chunk)
                if chunk.text:
                    yield chunk.text
                if attempt < retries and output.loops_already():
                    break
        looped = output.looped()
        if looped and attempt < retries:
            yield Restart(attempt + 2)
            continue
        yield _recognition(mode, request, output, looped, (time.perf_counter() - started) * 1000)
        return


class _Output:
    """The text of one attempt while it grows."""

    def __init__(self) -> None:
        self.finish: Finish | None = None
        self._pieces: list[str] = []
        self._length = 0
        self._judge_at = _JUDGE_EVERY
        self._broken_off = False

    @property
    def text(self) -> str:
        self._pieces = ["".join(self._pieces)]
        return self._pieces[0]

    def add(self, chunk: Chunk) -> None:
        """Take the next piece."""
        self._pieces.append(chunk.text)
        self._length += len(chunk.text)
        self.finish = chunk.finish or self.finish

    def loops_already(self) -> bool:
        """Say whether the unfinished text is a loop beyond doubt, so that waiting for its end is a waste.

        It is judged by the limits of a text that ended by itself: pages, too, repeat a little and go on.
        """
        if self.finish is None and self._length >= self._judge_at:
            self._judge_at = self._length + _JUDGE_EVERY
            self._broken_off = is_looped(self.text)
        return self._broken_off

    def looped(self) -> bool:
        """Say whether the text repeats itself without end; raises EngineFailed where the engine gave it no end."""
        if self._broken_off:
            return True
        if self.finish is None:
            raise EngineFailed
        return is_looped(self.text, finished=self.finish.reason == "stop")


async def _chunks(engine: Engine, request: GenerationRequest) -> AsyncGenerator[Chunk, None]:
    """Give the engine's iterator an `aclose` that reaches it, whatever kind of iterator it is."""
    iterator = engine.generate(request)
    try:
        async for chunk in iterator:
            yield chunk
    finally:
        close = getattr(iterator, "aclose", None)
        if close is not None:
            await close()


def _generation_request(
    mode: Mode, page: Page | CutPage, options: RecogniseOptions, request_id: str
) -> GenerationRequest:
    prompt = build_prompt(
        mode,
        grounding=options.grounding,
        prompt=options.prompt,
        find_term=options.find_term,
        schema=options.schema,
        include_caption=options.include_caption,
    )
    return GenerationRequest(
        request_id=request_id,
        page=page,
        mode=mode.name,
        prompt=prompt,
        grounding=mode.grounded or options.grounding,
        resolution=options.resolution,
        find_term=options.find_term,
        max_tokens=options.max_tokens,
    )


def _recognition(
    mode: Mode, request: GenerationRequest, output: _Output, looped: bool, engine_ms: float
) -> Recognition:
    started = time.perf_counter()
    page, raw, finish = request.page, output.text, output.finish
    assert finish is not None
    rendered = render(raw, labels=mode.labels, width=page.width, height=page.height)
    text = rendered.text
    if mode.tables is not None:
        tables = extract_tables(text)
        text = to_csv(tables) if mode.tables == "csv" else to_markdown(tables)
    if mode.data:
        text = strip_code_fence(text)
    render_ms = (time.perf_counter() - started) * 1000
    return Recognition(
        text=text,
        raw_text=raw,
        boxes=rendered.boxes,
        width=page.width,
        height=page.height,
        mode=mode.name,
        grounding=request.grounding,
        finish=finish,
        looped=looped,
        timing_ms={"engine": engine_ms, **finish.timing_ms, "render": render_ms},
        attempts=request.attempt + 1,
        figures=rendered.figures,
    )
