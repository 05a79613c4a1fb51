"""What the vLLM engine is told: its options, vLLM's own arguments and the sampling of each attempt.

Pure: imports nothing of vLLM, so that a wrong value is refused before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from app.errors import EngineStartError
from app.vllm_models import ENGINE_ARGUMENTS
from app.vllm_models.ngram_state import PUBLISHED, NgramRule

NGRAM_PROCESSOR = "app.vllm_models.ngram:NoRepeatNgram"

# Set before vLLM is imported; what the operator has set stays.
ENVIRONMENT = {
    # A fork would copy this process's threads, locks and listening socket into the engine core.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    # Pages are private, and many of these services see no other host.
    "VLLM_NO_USAGE_STATS": "1",
}

# Engine arguments that ENGINE_ARGS may not change, and where their values come from.
_OWN_SETTINGS = {
    "model": "MODEL_PATH",
    "tensor_parallel_size": "TENSOR_PARALLEL_SIZE",
    "gpu_memory_utilization": "GPU_MEMORY_UTILIZATION",
    "max_model_len": "MAX_MODEL_LEN",
    "max_num_seqs": "MAX_NUM_SEQS",
    "enforce_eager": "ENFORCE_EAGER",
}
_FIXED = frozenset({"hf_overrides", "limit_mm_per_prompt", "logits_processors", "skip_tokenizer_init", "tokenizer"})
# vLLM takes its model runner V2 for it, whatever VLLM_USE_V2_MODEL_RUNNER says (0.31 to 0.33).
_RUNNER_V2 = frozenset({"watermark_config"})

# With one of these, a step of vLLM's is not what app.vllm_models.multi_step makes several of.
_OTHER_STEPS = frozenset(
    {
        "async_scheduling",
        "compilation_config",
        "data_parallel_size",
        "decode_context_parallel_size",
        "enable_dbo",
        "enable_lora",
        "kv_transfer_config",
        "optimization_level",
        "pipeline_parallel_size",
        "prefill_context_parallel_size",
        "scheduler_cls",
        "speculative_config",
        "worker_cls",
    }
)
MULTI_STEP = {
    "scheduler_cls": "app.vllm_models.multi_step.MultiStepScheduler",
    "worker_cls": "app.vllm_models.multi_step.MultiStepWorker",
}

# Numbers of tokens in a step, one for each request that decodes, whose steps are captured as graphs: half as many as vLLM's own, so
# that a step is padded to the next by a quarter at most, and up to twice as large, for steps in which a page joins (278 tokens in Base).
_GRAPH_SIZES = (
    *(1, 2, 4, *range(8, 64, 8), *range(64, 128, 16), *range(128, 256, 32), *range(256, 512, 64)),
    *range(512, 1025, 128),
)
_CHOSEN_SIZES = frozenset({"cudagraph_capture_sizes", "max_cudagraph_capture_size"})

# Widest window the rule takes: what passes the published 90 tokens repeats over a longer distance.
_WIDE = 1024


@dataclass(frozen=True)
class VllmOptions:
    """Everything the operator can choose about the vLLM engine; the settings of the same names document it.

    `engine_args` are further fields of vLLM's AsyncEngineArgs. `stall_seconds` is how long requests
    may run without any output before the engine counts as hung; `visible_gpus` is CUDA_VISIBLE_DEVICES.
    """

    model_path: str = "deepseek-ai/DeepSeek-OCR"
    use_modelscope: bool = False
    tensor_parallel_size: int = 1
    gpu_memory_utilization: float = 0.75
    max_model_len: int = 8192
    max_num_seqs: int = 384
    enforce_eager: bool = False
    max_tiles: int = 6
    ngram: NgramRule = PUBLISHED
    loop_retries: int = 2
    stall_seconds: float = 180.0
    engine_args: Mapping[str, Any] = field(default_factory=dict)
    visible_gpus: str | None = None
    log_level: str = "info"
    log_format: Literal["console", "json"] = "console"


@dataclass(frozen=True)
class Sampling:
    """How one attempt at a page is decoded."""

    temperature: float
    seed: int | None
    ngram: NgramRule


def sampling(options: VllmOptions, attempt: int) -> Sampling:
    """Return the settings of an attempt; 0 is the first and the published one.

    A loop that passes the published rule either has a unit longer than its window, which the second
    attempt's window covers, or changes a little each time, which no window sees: the third attempt
    bans shorter repeats and leaves the greedy path, by a seed, so that the same page gives the same text.
    """
    whitelist = options.ngram.whitelist
    if attempt == 0:
        return Sampling(0.0, None, options.ngram)
    if attempt == 1:
        return Sampling(0.0, None, NgramRule(20, _WIDE, whitelist))
    return Sampling(0.2, attempt, NgramRule(12, _WIDE, whitelist))


def engine_arguments(options: VllmOptions, folder: Path) -> dict[str, Any]:
    """Return the arguments of vLLM's AsyncEngineArgs; raises EngineStartError for one ENGINE_ARGS may not set."""
    for name in options.engine_args:
        if name in _OWN_SETTINGS:
            raise EngineStartError(f"ENGINE_ARGS must not hold '{name}'; set {_OWN_SETTINGS[name]} instead.")
        if name in _FIXED:
            raise EngineStartError(f"ENGINE_ARGS must not hold '{name}'; the service sets it itself.")
        if name in _RUNNER_V2:
            raise EngineStartError(
                f"ENGINE_ARGS must not hold '{name}'; it needs vLLM's model runner V2, which does not keep the no-repeat n-gram rule."
            )
    return {
        **ENGINE_ARGUMENTS,
        "model": str(folder),
        "served_model_name": options.model_path,
        "tensor_parallel_size": options.tensor_parallel_size,
        "gpu_memory_utilization": options.gpu_memory_utilization,
        "max_model_len": options.max_model_len,
        "max_num_seqs": options.max_num_seqs,
        # A whole Gundam page with its prompt fits into one step; vLLM's own default may be 2048.
        "max_num_batched_tokens": max(8192, options.max_num_seqs),
        "enforce_eager": options.enforce_eager,
        "limit_mm_per_prompt": {"image": 1},
        **options.engine_args,
    }


def several_steps(options: VllmOptions) -> bool:
    """Return whether decoding several steps at once goes with the options: whether it was run with such."""
    return not (options.enforce_eager or options.tensor_parallel_size > 1 or _OTHER_STEPS & options.engine_args.keys())


def runner_arguments(options: VllmOptions, runner_v2: bool) -> dict[str, Any]:
    """Return the engine arguments that go with vLLM's model runner: the rule's class for V1, several steps at once for V2."""
    if not runner_v2:
        return {"logits_processors": [NGRAM_PROCESSOR]}
    if not several_steps(options):
        return {}
    if _CHOSEN_SIZES & options.engine_args.keys():
        return MULTI_STEP
    all_at_once = {options.max_num_seqs} if options.max_num_seqs < _GRAPH_SIZES[-1] else set()
    return {"cudagraph_capture_sizes": sorted({*_GRAPH_SIZES, *all_at_once}), **MULTI_STEP}


def token_arguments(image_token: int) -> dict[str, Any]:
    """Return the engine arguments with which vLLM reads no tokenizer; the model is told what it would look up there."""
    overrides = ENGINE_ARGUMENTS["hf_overrides"] | {"image_token_id": image_token}
    return {"skip_tokenizer_init": True, "hf_overrides": overrides}


def logging_config(options: VllmOptions) -> dict[str, Any]:
    """Return a logging configuration that vLLM applies in each of its processes: the service's own lines."""
    level = options.log_level.upper()
    logger = {"level": level, "handlers": ["service"], "propagate": False}
    # Of ours, what runs in vLLM's processes.
    names = ("vllm", "app.vllm_models", "app.vllm_compat", "app.engine.vllm_ahead", "app.engine.vllm_early")
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {"service": {"()": "app.logs.make_handler", "style": options.log_format}},
        "loggers": dict.fromkeys(names, logger),
    }
