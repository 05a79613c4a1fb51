"""A deterministic engine without a model: for trying out clients, and the double the tests run on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from app.engine.base import Capabilities, Chunk, EngineState, Finish, GenerationRequest, Health, Usage
from app.errors import EngineNotReady


class FakeEngine:
    """Answers every mode with fixed text in the model's output language; reads nothing. `modes` are their names."""

    name = "fake"
    model = "fake"

    def __init__(self, modes: frozenset[str]) -> None:
        self._capabilities = Capabilities(modes=modes, prompted=True, concurrency=8)
        self._state = EngineState.STARTING

    def capabilities(self) -> Capabilities:
        return self._capabilities

    def health(self) -> Health:
        return Health(self._state)

    async def start(self) -> None:
        self._state = EngineState.READY

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        if self._state is not EngineState.READY:
            raise EngineNotReady
        words = _output(request).split(" ")
        limit = request.max_tokens or len(words)
        for position, word in enumerate(words[:limit]):
            await asyncio.sleep(0)
            yield Chunk(word if position == 0 else f" {word}")
        yield Chunk("", _finish(request, len(words), limit))

    async def stop(self) -> None:
        self._state = EngineState.STOPPED


def _finish(request: GenerationRequest, words: int, limit: int) -> Finish:
    prompt_tokens = len(request.prompt.split())
    usage = Usage(prompt_tokens=prompt_tokens, image_tokens=0, output_tokens=min(words, limit))
    size = f"{request.page.width}x{request.page.height}"
    return Finish("length" if limit < words else "stop", usage, request.resolution.name or size)


def _output(request: GenerationRequest) -> str:
    """Return the whole answer, a token a word: what the real model would write for a small page."""
    size = f"{request.page.width} by {request.page.height}"
    if request.mode == "find_ref":
        return _tag(request.find_term or "", (100, 100, 400, 150))
    if request.mode in ("markdown", "layout_map", "tables_csv", "tables_md"):
        return (
            f"{_tag('title', (50, 40, 950, 90))}\n# The fake engine\n\n"
            f"{_tag('text', (50, 120, 950, 200))}\nThis picture of {size} pixels was not read.\n\n"
            f"{_tag('image', (50, 240, 500, 600))}\n\n"
            f"{_tag('table', (50, 640, 950, 900))}\n"
            "<table><tr><td>Name</td><td>Value</td></tr><tr><td>width</td>"
            f"<td>{request.page.width}</td></tr><tr><td>height</td><td>{request.page.height}</td></tr></table>"
        )
    if request.mode == "kv_json":
        return f'{{"width": {request.page.width}, "height": {request.page.height}}}'
    lines = ("The fake engine.", f"This picture of {size} pixels was not read.")
    if not request.grounding:
        return "\n".join(lines)
    return "\n".join(_tag(line, (50, 40 + 60 * row, 950, 90 + 60 * row)) for row, line in enumerate(lines))


def _tag(label: str, box: tuple[int, int, int, int]) -> str:
    return f"<|ref|>{label}<|/ref|><|det|>[[{', '.join(map(str, box))}]]<|/det|>"
