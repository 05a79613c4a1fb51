"""Engines that fail on purpose, one way each: what proves every error path without mocks of our own code."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

from app.engine.base import Capabilities, Chunk, CutPage, EngineState, Finish, GenerationRequest, Health, Resolution
from app.errors import EngineFailed, EngineNotReady, EngineStartError, InvalidParameter, OutOfMemory
from app.ocr.modes import MODES
from app.vllm_models.views import ViewOptions


class ScriptedEngine:
    """An engine whose every step a subclass may break."""

    name = "scripted"
    model = "scripted"

    def __init__(self, concurrency: int = 1) -> None:
        self.state = EngineState.STARTING
        self.concurrency = concurrency
        self.starts = 0
        self.running = 0
        self.aborted = 0
        self.requests: list[GenerationRequest] = []

    def capabilities(self) -> Capabilities:
        return Capabilities(modes=frozenset(MODES), prompted=True, concurrency=self.concurrency)

    def health(self) -> Health:
        return Health(self.state, "The engine was broken on purpose." if self.state is EngineState.FAILED else "")

    async def start(self) -> None:
        self.starts += 1
        self.state = EngineState.READY

    async def stop(self) -> None:
        self.state = EngineState.STOPPED

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        if self.state is not EngineState.READY:
            raise EngineNotReady
        self.requests.append(request)
        self.running += 1
        try:
            async for chunk in self.script(request):
                yield chunk
        except (GeneratorExit, asyncio.CancelledError):
            self.aborted += 1
            raise
        finally:
            self.running -= 1

    async def script(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        yield Chunk("", Finish("stop"))


class SayingEngine(ScriptedEngine):
    """Answers with the given text in one piece."""

    def __init__(self, text: str, finish: Finish | None = None) -> None:
        super().__init__()
        self.text = text
        self.finish = finish or Finish("stop")

    async def script(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        yield Chunk(self.text)
        yield Chunk("", self.finish)


class ViewsEngine(ScriptedEngine):
    """Reads views: says how many there are and shows a figure, the left half of the page; refuses base_size 512."""

    def view_options(self, resolution: Resolution) -> ViewOptions:
        if resolution.base_size == 512:
            raise InvalidParameter("This resolution cannot be read.")
        return ViewOptions(resolution.base_size, resolution.image_size, resolution.crop_mode)

    async def script(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        assert isinstance(request.page, CutPage)
        views = request.page.views
        yield Chunk(f"{len(views.tiles)} tiles and {views.global_view.shape[0]} px\n")
        yield Chunk("<|ref|>image<|/ref|><|det|>[[0, 0, 500, 999]]<|/det|>", Finish("stop"))


class RetryingEngine(ScriptedEngine):
    """Says one of `texts` for each attempt at a page, in pieces of `size` characters; can be asked again."""

    def __init__(self, texts: list[str], size: int = 500) -> None:
        super().__init__()
        self.texts = texts
        self.size = size
        self.said = [0] * len(texts)

    def capabilities(self) -> Capabilities:
        return replace(super().capabilities(), retries=len(self.texts) - 1)

    async def script(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        text = self.texts[request.attempt]
        for start in range(0, len(text), self.size):
            self.said[request.attempt] += len(text[start : start + self.size])
            yield Chunk(text[start : start + self.size])
        yield Chunk("", Finish("stop"))


class SlowEngine(ScriptedEngine):
    """Says a word every `pause` seconds, `words` times."""

    def __init__(self, pause: float, words: int, concurrency: int = 1) -> None:
        super().__init__(concurrency)
        self.pause = pause
        self.words = words

    async def script(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        for position in range(self.words):
            await asyncio.sleep(self.pause)
            yield Chunk(f"word{position} ")
        yield Chunk("", Finish("stop"))


class HangingEngine(ScriptedEngine):
    """Says one word, then nothing for ever."""

    async def script(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        yield Chunk("word")
        await asyncio.Event().wait()


class LingeringEngine(HangingEngine):
    """Takes a while to abort."""

    tidied = 0

    async def script(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        try:
            async for chunk in super().script(request):
                yield chunk
        finally:
            await asyncio.sleep(0.2)
            self.tidied += 1


class StartFailsEngine(ScriptedEngine):
    """Fails its first `failures` starts with the sentence an operator should see."""

    def __init__(self, failures: int, error: Exception | None = None) -> None:
        super().__init__()
        self.failures = failures
        self.error = error or EngineStartError("There is no model at /nowhere. Set MODEL_PATH.")

    async def start(self) -> None:
        if self.starts < self.failures:
            self.starts += 1
            raise self.error
        await super().start()


class LoadingEngine(ScriptedEngine):
    """Is never done loading."""

    async def start(self) -> None:
        await asyncio.Event().wait()


class CrashingEngine(ScriptedEngine):
    """Dies under its first request, after a word, and stays dead until started again."""

    async def script(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        yield Chunk("word ")
        if self.starts == 1:
            self.state = EngineState.FAILED
            raise EngineFailed
        yield Chunk("again", Finish("stop"))


class BuggyEngine(ScriptedEngine):
    """Raises an exception of a library's own, with words nobody outside should read."""

    async def script(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        raise RuntimeError("CUDA error: an illegal memory access at /secret/path")
        yield


class LateBugEngine(BuggyEngine):
    """Does so after a word."""

    async def script(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        yield Chunk("word ")
        async for chunk in super().script(request):
            yield chunk


class OutOfMemoryEngine(ScriptedEngine):
    """Has no memory for any page."""

    async def script(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        raise OutOfMemory
        yield


class SilentEngine(ScriptedEngine):
    """Ends without saying how."""

    async def script(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        yield Chunk("word")


class ObedientEngine(ScriptedEngine):
    """Acts as the engine of this module that the prompt names; reads the page when it names none."""

    def __init__(self) -> None:
        super().__init__(concurrency=8)

    async def script(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        acting = globals().get(request.prompt, ScriptedEngine)()
        async with contextlib.aclosing(acting.script(request)) as chunks:
            async for chunk in chunks:
                yield chunk
