"""The encoder made fast on a GPU: blocks compiled, and passes over some numbers of views captured as CUDA graphs.

Compiled, what lies between two matrix products is one kernel instead of several. Captured, a pass is one launch instead
of a thousand, for which the few views of a page alone would wait longer than for the GPU, and which for the many views of
several pages took 13 % of the engine core's time, on whose thread everything waits. One H200, PyTorch 2.11, bf16, in
milliseconds a view: 12.1 -> 4.7 (one of 1024 px), 4.5 -> 3.5 (eight), 2.1 -> 1.4 (six of 640 px), 1.5 -> 1.2 (forty-eight).
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch._dynamo
import torch.fx.experimental._config
from torch import Tensor, nn

from app.vllm_models.deepencoder import SAM_PATCH, DeepEncoder, positions_at_once
from app.vllm_models.kept_blocks import Example, can_keep, keep_block, keep_blocks
from app.vllm_models.views import TOKEN_SIDE, ViewOptions

# Views of a pass that is captured, of so many positions (patches) at most: a page's tiles at once, and the tiles of four.
CAPTURED_VIEWS = (1, 2, 3, 4, 5, 6, 8, 12, 24)
CAPTURED_POSITIONS = 40_000

logger = logging.getLogger(__name__)


class EncoderPasses:
    """Encodes views of any size like the encoder it is given; of some sizes, faster."""

    def __init__(self, encoder: DeepEncoder, sides: Sequence[int], backend: Any = "inductor") -> None:
        """Compile, and on a GPU capture, passes over views of these `sides`, in pixels, the largest first.

        Takes a minute, and seconds once inductor has what it needs on disk. To be made where the encoder will be called:
        on its device, in its number format, in inference mode.
        """
        self._plain = encoder
        self._sides = sides
        # Other modules over the same parameters: only these are compiled, and nothing for other sides.
        self._compiled = copy.deepcopy(encoder, {id(parameter): parameter for parameter in encoder.parameters()})
        # By side and number of views.
        self._captured: dict[int, dict[int, _CapturedPass]] = {}
        began = time.monotonic()
        _compile_blocks(self._compiled, self._sides, backend)
        compiled = time.monotonic()
        if encoder.image_newline.is_cuda:
            self._capture()
        logger.info(
            "Encoder compiled in %.1f s and captured in %.1f s, for views of %s px.",
            compiled - began, time.monotonic() - compiled, " and ".join(map(str, self._sides)),
        )  # fmt: skip

    def __call__(self, pixels: Tensor) -> Tensor:
        """Do what `DeepEncoder.forward` does."""
        side = pixels.shape[1]
        if passes := self._captured.get(side):
            return torch.cat([passes[len(part)](part) for part in pixels.split(cut(len(pixels), passes))])
        return self._compiled(pixels) if side in self._sides else self._plain(pixels)

    def _capture(self) -> None:
        pool = torch.cuda.graph_pool_handle()  # one pass runs at a time, so that all may use the same memory
        positions = min(CAPTURED_POSITIONS, positions_at_once(self._plain.image_newline))
        for side in self._sides:
            most = max(1, positions // (side // SAM_PATCH) ** 2)
            self._captured[side] = {
                views: _CapturedPass(self._compiled, side, views, pool)
                for views in sorted(CAPTURED_VIEWS, reverse=True)
                if views <= most
            }


def cut(count: int, sizes: Iterable[int]) -> list[int]:
    """Return `count` as a sum of `sizes`, one of which is 1: the largest that fit, in this order."""
    parts: list[int] = []
    for size in sorted(sizes, reverse=True):
        whole, count = divmod(count, size)
        parts += [size] * whole
    return parts


class _CapturedPass:
    """One pass over a number of views of a side, launched as a whole."""

    def __init__(self, encode: nn.Module, side: int, views: int, pool: tuple[int, int]) -> None:
        device = next(encode.parameters()).device
        self._pixels = torch.zeros(views, side, side, 3, dtype=torch.uint8, device=device)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # what a first call sets up must not be captured
            encode(self._pixels)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        # What vLLM's other threads ask of the GPU meanwhile is not captured.
        with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
            self._encoded = encode(self._pixels)

    def __call__(self, pixels: Tensor) -> Tensor:
        self._pixels.copy_(pixels)
        self._graph.replay()
        return self._encoded.clone()


def _compile_blocks(encoder: DeepEncoder, sides: Sequence[int], backend: Any) -> None:
    """Compile the transformer blocks for views of these sides, any number of them.

    Blocks that differ in their weights alone share their code, and CLIP's that of all sides. That a block is compiled for one
    size of its input or for any is decided where that is marked; the first dimension of SAM's holds the positions of all views.
    """
    sam, clip = list(encoder.sam_model.blocks), list(encoder.vision_model.transformer.layers)
    kinds = list(examples(encoder, sides))
    with _any_number():
        if backend == "inductor" and can_keep():
            try:
                keep_blocks([*sam, *clip], kinds)
            except Exception:  # process boundary: what PyTorch calls experimental raises what it likes
                logger.info("encoder_not_kept", exc_info=True)
            else:
                return
        for block in (*sam, *clip):
            block.compile(dynamic=False, fullgraph=True, backend=backend)
        for example in kinds:
            hidden = example.hidden.clone()
            torch._dynamo.mark_dynamic(hidden, example.dynamic)
            example.block(hidden, *example.others)


def keep_example(example: Example) -> None:
    """Have the compiled form of a block on disk, where `EncoderPasses` finds it; raises what PyTorch raises."""
    with _any_number():
        keep_block(example)


def _any_number() -> AbstractContextManager[None]:
    """Have the compiler take one view as any other number of them, where it would make a case of its own of it."""
    patched: AbstractContextManager[None] = torch.fx.experimental._config.patch(backed_size_oblivious=True)
    return patched


def encoder_sides(options: ViewOptions) -> list[int]:
    """Return the sides of the views that requests with these options bring, the largest first."""
    return sorted({options.base_size, *([options.image_size] if options.crop_mode else [])}, reverse=True)


def examples(encoder: DeepEncoder, sides: Sequence[int]) -> Iterator[Example]:
    """Yield a block of each kind, with what it is given."""
    like, config = encoder.image_newline, encoder.config
    for side in sides:
        across = side // SAM_PATCH
        for block in {block.window: block for block in encoder.sam_model.blocks}.values():
            yield Example(block, like.new_zeros(2 * across**2, config.sam_width), (across,))
    tokens = (sides[0] // TOKEN_SIDE) ** 2 + 1
    yield Example(
        encoder.vision_model.transformer.layers[0], like.new_zeros(2, tokens, config.clip_width), dynamic=(0, 1)
    )
