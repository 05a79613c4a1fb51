"""The experts' Triton kernels, compiled on threads while the engine core makes the encoder ready.

A step of each size needs two, some share them: 18 kernels of 0.55 s on one H200's processor (vLLM 0.33.0), which vLLM compiles one
after the other as it comes to them. Compiled once, they are on disk.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from vllm.config import VllmConfig
from vllm.forward_context import set_forward_context
from vllm.model_executor.layers.fused_moe import fused_moe

logger = logging.getLogger(__name__)

# Most of a compilation runs without Python's lock.
_THREADS = 8


class _CompileOnly:
    """A Triton kernel that is compiled for what it is called with, and not launched."""

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel

    def __getitem__(self, grid: Any) -> Any:
        return partial(self._kernel.warmup, grid=grid)


@contextmanager
def compiling_experts(model: nn.Module, config: VllmConfig, sizes: Iterable[int]) -> Iterator[None]:
    """Compile the kernels of steps of so many tokens beside what runs inside, in which a launch waits for its own kernel."""
    try:
        from triton import AsyncCompileMode
    except ImportError:  # Triton up to 3.3
        yield
        return
    with ThreadPoolExecutor(_THREADS) as pool, AsyncCompileMode(pool, ignore_errors=True):
        try:
            _ask(model, config, sizes)
        except Exception:  # process boundary: other releases have other names; they are compiled later then
            logger.info("experts_not_compiled_ahead", exc_info=True)
        yield


def _ask(model: nn.Module, config: VllmConfig, sizes: Iterable[int]) -> None:
    """Run one layer's experts on so many tokens without their kernels: what they would compute stays undefined."""
    layer = next(module for module in model.modules() if hasattr(module, "experts") and hasattr(module, "gate"))
    like = next(layer.gate.parameters())
    kernel = fused_moe.fused_moe_kernel
    fused_moe.fused_moe_kernel = _CompileOnly(kernel)
    try:
        for size in sorted(sizes, reverse=True):
            with set_forward_context(None, config, num_tokens=size):
                layer(torch.zeros(size, config.model_config.get_hidden_size(), dtype=like.dtype, device=like.device))
    finally:
        fused_moe.fused_moe_kernel = kernel
