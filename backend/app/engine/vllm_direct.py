"""DeepSeek-OCR inside this process: vLLM's AsyncLLMEngine behind the Engine Protocol.

vLLM is imported when the engine starts, in a thread, so that the port answers while the model loads.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import time
import uuid
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from async_timeout import timeout

from app.engine.base import (
    Capabilities,
    Chunk,
    CutPage,
    EngineState,
    Finish,
    GenerationRequest,
    Health,
    Resolution,
    Usage,
)
from app.engine.model_folder import read_notice
from app.engine.vllm_loading import LOADED, Beginning, Loading
from app.engine.vllm_options import VllmOptions, sampling
from app.engine.vllm_processes import end_processes, engine_processes
from app.engine.vllm_prompts import Prompts
from app.engine.vllm_rule import check_rule
from app.engine.vllm_text import TextStream
from app.errors import ContextTooLong, EngineFailed, EngineNotReady, EngineStartError, InvalidParameter, ServiceError
from app.page import Page
from app.vllm_models.views import ViewError, ViewOptions, Views, prepare_views

if TYPE_CHECKING:
    import psutil

    from app.vllm_compat import AsyncLLMEngine, SamplingParams

log = logging.getLogger(__name__)

_LOADING = "The OCR engine is loading."
_LOST = "The OCR engine stopped and is being restarted."
_HUNG = "The OCR engine gave no output for {seconds:g} s and is being restarted."

# Nothing is being read any more: what has not ended by then is killed. An H200 takes 2 to 3 s, and the CPU build 2 s on two free cores.
_SHUTDOWN_SECONDS = 5.0
# Workers end by themselves soon after the engine core.
_ORPHAN_SECONDS = 1.0
_ABORT_SECONDS = 5.0
_WARM_UP_SECONDS = 600.0


@dataclass(frozen=True)
class Prepared:
    """A page as vLLM takes it; `prompt_ids` hold one image token, which stands for `views.placeholders`."""

    prompt_ids: list[int]
    views: Views

    @property
    def prompt_tokens(self) -> int:
        return len(self.prompt_ids) - 1 + self.views.placeholders


class VllmDirectEngine:
    """Reads pages with DeepSeek-OCR in vLLM; `modes` are the names it accepts, all by prompt."""

    name = "vllm_direct"

    def __init__(self, options: VllmOptions, modes: frozenset[str]) -> None:
        self.model = options.model_path
        self._options = options
        notice = read_notice(options.model_path)
        self._capabilities = Capabilities(
            modes, True, options.max_num_seqs, retries=options.loop_retries, notice=notice
        )
        self._health = Health(EngineState.STARTING, _LOADING)
        self._engine: AsyncLLMEngine | None = None
        self._prompts: Prompts | None = None
        self._beginning: Beginning | None = None
        self._loading: Loading | None = None
        self._processes: list[psutil.Process] = []
        self._waiting: dict[str, asyncio.Queue[Any]] = {}
        self._last_sign = time.monotonic()

    def capabilities(self) -> Capabilities:
        return self._capabilities

    def health(self) -> Health:
        """Say whether requests are served; notices a dead or hung engine core by itself."""
        if self._health.state is EngineState.READY and self._engine is not None:
            if self._engine.errored:
                self._fail(_LOST)
            elif self._waiting and time.monotonic() - self._last_sign > self._options.stall_seconds:
                self._fail(_HUNG.format(seconds=self._options.stall_seconds))
        return self._health

    def begin(self) -> None:
        """Start the process that becomes vLLM's engine core, and that imports vLLM meanwhile."""
        with contextlib.suppress(EngineStartError):  # `start` meets it again
            self._beginning = Beginning(self._options, Path(self._options.model_path).expanduser())

    async def start(self) -> None:
        self._health = Health(EngineState.STARTING, _LOADING)
        try:
            await self._load()
        except EngineStartError as error:
            self._health = Health(EngineState.FAILED, error.detail)
            raise
        self._health = Health(EngineState.READY)
        log.info(LOADED)
        if self._capabilities.notice:
            log.warning("model_notice %s", self._capabilities.notice)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Chunk, None]:
        state = self.health()
        engine = self._engine
        if state.state is EngineState.FAILED:
            raise EngineFailed(state.reason or None)
        if state.state is not EngineState.READY or engine is None:
            raise EngineNotReady(state.reason or None)
        async with contextlib.aclosing(self._read(engine, request)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def stop(self) -> None:
        # A failed engine core has nothing to end in order.
        patience = 0.0 if self.health().state is EngineState.FAILED else _SHUTDOWN_SECONDS
        self._fail("The OCR engine is stopped.", EngineState.STOPPED)
        engine, self._engine, self._prompts = self._engine, None, None
        loading, self._loading = self._loading, None
        beginning, self._beginning = self._beginning, None
        processes, self._processes = self._processes, []
        if beginning is not None:
            beginning.close()
        if loading is not None:
            await asyncio.to_thread(loading.give_up)
        if engine is not None:
            from app.vllm_compat import stop_listening

            stop_listening(engine)
            await asyncio.to_thread(_shut_down, engine, processes, patience)
            del engine
            await asyncio.to_thread(gc.collect)  # vLLM's objects refer to each other in circles

    def view_options(self, resolution: Resolution) -> ViewOptions:
        """Return how to cut a page for this resolution. Raises InvalidParameter for one that cannot be read."""
        try:
            return ViewOptions(
                resolution.base_size, resolution.image_size, resolution.crop_mode, self._options.max_tiles
            )
        except ViewError as error:
            raise InvalidParameter(f"This resolution cannot be read: {error}") from None

    def render_metrics(self) -> bytes:
        """Return vLLM's own metrics, and those of the process, in Prometheus' text format."""
        from prometheus_client import generate_latest

        return generate_latest()

    async def _load(self) -> None:
        beginning, self._beginning = self._beginning, None
        self._loading = Loading(self._options, beginning)
        self._engine, tokenizer = await self._loading.run()
        self._loading = None
        self._prompts = Prompts(tokenizer)
        self._processes = await asyncio.to_thread(engine_processes)
        try:
            async with timeout(_WARM_UP_SECONDS):
                await self._warm_up(self._engine)
                await check_rule(self._engine)
        except EngineStartError:
            raise
        except (ServiceError, asyncio.TimeoutError):
            log.exception("engine_warm_up_failed")
            raise EngineStartError("vLLM started but could not read a first page; the log above says why.") from None

    async def _warm_up(self, engine: AsyncLLMEngine) -> None:
        """Read an empty page, so that the first real one finds everything compiled, and a broken model is found now."""
        page = Page(np.full((900, 640, 3), 255, np.uint8), "PNG")
        request = GenerationRequest(
            "warm-up", page, "plain_ocr", "Free OCR.", False, Resolution(1024, 640, True, "gundam"), max_tokens=4
        )
        async with contextlib.aclosing(self._read(engine, request)) as chunks:
            async for _ in chunks:
                pass

    async def _read(self, engine: AsyncLLMEngine, request: GenerationRequest) -> AsyncGenerator[Chunk, None]:
        prompts = self._prompts
        if prompts is None:  # stopped meanwhile
            raise EngineFailed
        prepared = await self._prepare(request, prompts)
        params = self._sampling_params(engine, request, prepared, prompts.tokenizer.special.end)
        text = TextStream(prompts.tokenizer)
        # Clients choose request ids, and may choose the same for two requests.
        request_id = f"{request.request_id}-{request.attempt}-{uuid.uuid4().hex[:12]}"
        if not self._waiting:
            self._last_sign = time.monotonic()
        outputs: asyncio.Queue[Any] = asyncio.Queue()
        self._waiting[request_id] = outputs
        pump = asyncio.create_task(self._pump(engine, prepared, params, request_id, outputs), name=request_id)
        tokens, first_ms, asked = 0, 0.0, time.perf_counter()
        try:
            while True:
                output = await outputs.get()
                if isinstance(output, Exception):
                    raise output
                piece = output.outputs[0]
                first_ms = first_ms or (time.perf_counter() - asked) * 1000
                tokens += len(piece.token_ids)
                finish = None
                if output.finished:
                    finish = _finish(piece.finish_reason, request, prepared, tokens, {"first_token": first_ms})
                yield Chunk(text.take(piece.token_ids, output.finished), finish)
                if finish is not None:
                    return
        finally:
            self._waiting.pop(request_id, None)
            pump.cancel()
            with contextlib.suppress(asyncio.TimeoutError):
                async with timeout(_ABORT_SECONDS):
                    await asyncio.gather(pump, return_exceptions=True)

    async def _pump(
        self,
        engine: AsyncLLMEngine,
        prepared: Prepared,
        params: SamplingParams,
        request_id: str,
        outputs: asyncio.Queue[Any],
    ) -> None:
        """Move one request's outputs from vLLM to its queue; whatever happens, the queue gets an end."""
        from app.vllm_compat import EngineDeadError, abort

        prompt = {"prompt_token_ids": prepared.prompt_ids, "multi_modal_data": {"image": prepared.views}}
        finished = False
        try:
            async with contextlib.aclosing(engine.generate(prompt, params, request_id)) as answers:
                async for output in answers:
                    self._last_sign = time.monotonic()
                    finished = output.finished
                    outputs.put_nowait(output)
        except EngineDeadError:
            finished = True  # nobody is left to abort it
            self._fail(_LOST)
            outputs.put_nowait(EngineFailed())
        except Exception:  # process boundary: vLLM raises what it likes
            log.exception("engine_refused_request request=%s", request_id)
            outputs.put_nowait(EngineFailed("The OCR engine failed on this page. Send it again, or as another format."))
        finally:
            if not finished and not engine.errored:
                # vLLM aborts by itself, unless it was cancelled while the request was on its way to the core.
                await abort(engine, request_id)

    async def _prepare(self, request: GenerationRequest, prompts: Prompts) -> Prepared:
        """Tokenize the prompt, and cut a whole page into views. Raises InvalidParameter."""
        page = request.page
        if isinstance(page, CutPage):
            views = page.views
        else:
            views = await asyncio.to_thread(prepare_views, page.pixels, self.view_options(request.resolution))
        ids = prompts.kept(request.prompt)
        if ids is None:
            ids = await asyncio.to_thread(prompts.encode, request.prompt)
        return Prepared(list(ids), views)

    def _sampling_params(
        self, engine: AsyncLLMEngine, request: GenerationRequest, prepared: Prepared, end: int
    ) -> SamplingParams:
        """Return vLLM's parameters; raises ContextTooLong where prompt and picture leave no room for a word."""
        from app.vllm_compat import RequestOutputKind, SamplingParams

        context = int(engine.model_config.max_model_len)
        room = context - prepared.prompt_tokens
        if room < 1:
            raise ContextTooLong(
                f"The picture takes {prepared.views.placeholders} tokens and the prompt "
                f"{prepared.prompt_tokens - prepared.views.placeholders}; together with at least one token of output that is "
                f"more than the {context} this service was given. Shorten the prompt or choose a smaller resolution."
            )
        settings = sampling(self._options, request.attempt)
        return SamplingParams(
            temperature=settings.temperature,
            seed=settings.seed,
            max_tokens=min(request.max_tokens or room, room),
            # Its text is made here, and vLLM need not know the token that ends it.
            detokenize=False,
            stop_token_ids=[end],
            extra_args=settings.ngram.extra_args(),
            output_kind=RequestOutputKind.DELTA,
        )

    def _fail(self, reason: str, state: EngineState = EngineState.FAILED) -> None:
        """Stop serving, and give every waiting request its answer now."""
        self._health = Health(state, reason)
        for outputs in self._waiting.values():
            outputs.put_nowait(EngineFailed())
        self._waiting.clear()


def _finish(
    reason: str | None, request: GenerationRequest, prepared: Prepared, tokens: int, timing: dict[str, float]
) -> Finish:
    """Return how a generation ended; raises EngineFailed for an end that is neither the model's nor the limit's."""
    usage = Usage(prepared.prompt_tokens, prepared.views.placeholders, tokens)
    resolution = request.resolution.name or _describe(prepared.views)
    if reason == "stop":
        return Finish("stop", usage, resolution, timing)
    if reason == "length":
        return Finish("length", usage, resolution, timing)
    log.error("generation_ended_early request=%s reason=%s", request.request_id, reason)
    raise EngineFailed


def _describe(views: Views) -> str:
    """Name a resolution without a published name: "1024x1024", or "1024x1024 + 6 tiles of 512x512"."""
    base, side, tiles = views.global_view.shape[0], views.tiles.shape[1], views.tiles.shape[0]
    return f"{base}x{base}" + (f" + {tiles} tiles of {side}x{side}" if tiles else "")


def _shut_down(engine: AsyncLLMEngine, processes: list[psutil.Process], patience: float) -> None:
    """Stop the engine, waiting `patience` seconds for its core, and see that all its processes are gone."""
    from app.vllm_compat import shutdown

    everyone = {*processes, *engine_processes()}  # the core may have started one since it was loaded
    shutdown(engine, patience)
    if killed := end_processes([*everyone], _ORPHAN_SECONDS):
        log.warning("engine_processes_killed count=%d", killed)
