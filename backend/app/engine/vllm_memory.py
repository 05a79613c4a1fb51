"""Whether the model, and the KV cache of one whole request, fit into memory; said before vLLM finds out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.engine.hardware import Gpu
from app.errors import EngineStartError

GIB = 2**30

# CUDA's context, captured graphs and the activations of one step; measured at full size: see docs/performance.md.
_GPU_OVERHEAD = 2 * GIB


@dataclass(frozen=True)
class Need:
    """Bytes the engine cannot do without: the weights, and the KV cache of one request of `context` tokens."""

    weights: int
    cache: int
    context: int


def estimate_need(config: Mapping[str, Any], weights: int, context: int, cache_dtype: str = "auto") -> Need:
    """Return what a model of this config.json needs; the cache holds bfloat16, or one byte a value in fp8."""
    language = config.get("language_config") or config
    heads = language.get("num_attention_heads", 1)
    width = language.get("hidden_size", 0) // heads
    values = 2 * language.get("num_hidden_layers", 0) * language.get("num_key_value_heads", heads) * width
    return Need(weights, values * (1 if cache_dtype.startswith("fp8") else 2) * context, context)


def check_gpu_memory(need: Need, gpus: Sequence[Gpu], parallel: int, utilization: float) -> None:
    """Raise EngineStartError where the GPUs are too few or too full, or too small for the model."""
    if len(gpus) < parallel:
        raise EngineStartError(
            f"TENSOR_PARALLEL_SIZE is {parallel}, but only {len(gpus)} GPU(s) are visible. Lower it."
        )
    for number, gpu in enumerate(gpus[:parallel]):
        budget = int(gpu.total * utilization)
        if gpu.free < budget:
            raise EngineStartError(
                f"GPU {number} ({gpu.name}) has {_gib(gpu.free)} free of {_gib(gpu.total)}, and GPU_MEMORY_UTILIZATION="
                f"{utilization:g} asks for {_gib(budget)}. End what else uses the GPU, or lower GPU_MEMORY_UTILIZATION."
            )
        needed = (need.weights + need.cache) // parallel + _GPU_OVERHEAD
        if needed > budget:
            raise EngineStartError(
                f"The model needs about {_gib(needed)} on GPU {number} ({gpu.name}) with MAX_MODEL_LEN={need.context}, and "
                f"GPU_MEMORY_UTILIZATION={utilization:g} gives it {_gib(budget)}. Raise GPU_MEMORY_UTILIZATION, lower "
                "MAX_MODEL_LEN, or use a GPU with more memory."
            )


def check_cpu_memory(need: Need, available: int, cache_space: int | None) -> None:
    """Raise EngineStartError where the CPU build of vLLM has too little memory; `cache_space` in bytes, None unset."""
    if cache_space is not None and need.cache > cache_space:
        raise EngineStartError(
            f"A request of MAX_MODEL_LEN={need.context} tokens needs {_gib(need.cache)} of KV cache, and "
            f"VLLM_CPU_KVCACHE_SPACE gives {_gib(cache_space)}. Raise VLLM_CPU_KVCACHE_SPACE or lower MAX_MODEL_LEN."
        )
    needed = need.weights + (need.cache if cache_space is None else cache_space)
    if needed > available:
        raise EngineStartError(
            f"The model and its KV cache need {_gib(needed)} of memory, and {_gib(available)} are available. Lower "
            "VLLM_CPU_KVCACHE_SPACE or MAX_MODEL_LEN, or use a machine with more memory."
        )


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
