"""Ways to attend with relative positions, timed alone on the shapes that occur in SAM's blocks."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from app.vllm_models.deepencoder import SAM_PATCH, SAM_WINDOW, DeepEncoder, attend_by_mask
from benchmarks.report import Report

Attend = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}


def attend_by_keys(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Attend with the row and column scores as further query features and one-hot key features.

    The dot product then adds the two scores by itself, and no mask of all pairs is stored.
    """
    side, scale = rows.shape[-1], q.shape[-1] ** -0.5
    eye = torch.eye(side, dtype=k.dtype, device=k.device)
    places = torch.cat((eye.repeat_interleave(side, 0), eye.repeat(side, 1)), dim=-1)
    queries = torch.cat((q * scale, rows, columns), dim=-1)
    keys = torch.cat((k, places.expand(*k.shape[:-1], -1)), dim=-1)
    return torch.nn.functional.scaled_dot_product_attention(queries, keys, v, scale=1.0)


def ways() -> Iterator[tuple[str, Attend]]:
    """Yield every way by name: mask and keys with each of PyTorch's kernels and compiled, and our kernel."""
    for name, attend in (("mask", attend_by_mask), ("keys", attend_by_keys)):
        yield name, attend
        for kernel, backend in BACKENDS.items():
            yield f"{name}, {kernel}", restricted(attend, backend)
        yield f"{name}, compiled", torch.compile(attend, dynamic=False)
    if importlib.util.find_spec("triton"):
        from app.vllm_models.relative_attention import attend_by_rows

        yield "rows", attend_by_rows
        yield "rows, compiled", torch.compile(attend_by_rows, dynamic=False)


def restricted(attend: Attend, backend: SDPBackend) -> Attend:
    def call(*tensors: Tensor) -> Tensor:
        with sdpa_kernel(backend):
            return attend(*tensors)

    return call


def shapes(cases: Any) -> Iterator[tuple[str, int, int]]:
    """Yield name, batch and side of what blocks attend over: whole views, and their windows."""
    for pixels, counts in cases:
        side, count = pixels // SAM_PATCH, counts[min(1, len(counts) - 1)]
        windows = count * (-(-side // SAM_WINDOW)) ** 2
        yield f"{count} views of {side} x {side}", count, side
        yield f"{windows} windows of {SAM_WINDOW} x {SAM_WINDOW}", windows, SAM_WINDOW


def measure_attention(
    encoder: DeepEncoder, cases: Any, report: Report, mean_seconds: Callable[[Callable[[], Any], str], float]
) -> None:
    """Time every way on every shape; a way that cannot run says why."""
    device, dtype = encoder.image_newline.device, encoder.image_newline.dtype
    heads = encoder.config.sam_heads
    width = encoder.config.sam_width // heads
    generator = torch.Generator(device).manual_seed(0)
    for shape, batch, side in shapes(cases):
        sizes = [*[(batch, heads, side * side, width)] * 3, *[(batch, heads, side * side, side)] * 2]
        inputs = [torch.randn(size, generator=generator, device=device, dtype=dtype) for size in sizes]
        few = [tensor[:1].float() for tensor in inputs]
        exact = attend_by_mask(*few)
        for name, attend in ways():
            torch.compiler.reset()
            try:
                off = float((attend(*inputs)[:1].float() - exact).square().mean().sqrt() / exact.square().mean().sqrt())
                seconds = mean_seconds(functools.partial(attend, *inputs), device.type)
            except Exception as error:  # noqa: BLE001 - kernels refuse shapes and devices in many ways
                lines = str(error).strip().splitlines() or [""]
                report.add(f"{shape}, {name}", {"left_out": f"{type(error).__name__}: {lines[-1][:160]}"})
                continue
            report.add(f"{shape}, {name}", {"ms": round(seconds * 1000, 3), "rms": round(off, 6)})
