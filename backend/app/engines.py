"""The engine that the settings choose. Imports little, so that it can begin before the rest of the service is imported."""

from __future__ import annotations

from app.cores import core_limit
from app.engine.base import Engine
from app.engine.fake import FakeEngine
from app.engine.hardware import cuda_device_present
from app.engine.rapidocr.engine import RapidOcrEngine
from app.engine.vllm_direct import VllmDirectEngine
from app.engine.vllm_loading import vllm_version
from app.engine.vllm_options import VllmOptions
from app.ocr.modes import MODES
from app.settings import Settings, visible_gpus
from app.vllm_models.ngram_state import NgramRule


def build_engine(settings: Settings) -> Engine:
    """Return the engine the settings choose; nothing of it is loaded yet."""
    chosen = choose_engine(settings)
    if chosen == "fake":
        return FakeEngine(frozenset(MODES))
    if chosen == "vllm_direct":
        return VllmDirectEngine(vllm_options(settings), frozenset(MODES))
    # 0 leaves it to OpenVINO, which knows where a process is bound and not how it is limited.
    return RapidOcrEngine(threads=settings.rapidocr_threads or core_limit() or 0)


def choose_engine(settings: Settings) -> str:
    """Return the name of the engine to run; `auto` is decided without importing vLLM or PyTorch."""
    if settings.inference_engine != "auto":
        return settings.inference_engine
    return "vllm_direct" if vllm_version() is not None and cuda_device_present(visible_gpus()) else "rapidocr"


def vllm_options(settings: Settings) -> VllmOptions:
    """Return what the settings say about the vLLM engine."""
    return VllmOptions(
        model_path=settings.model_path,
        use_modelscope=settings.vllm_use_modelscope,
        tensor_parallel_size=settings.tensor_parallel_size,
        gpu_memory_utilization=settings.gpu_memory_utilization,
        max_model_len=settings.max_model_len,
        max_num_seqs=settings.max_num_seqs,
        enforce_eager=settings.enforce_eager,
        max_tiles=settings.max_tiles,
        ngram=NgramRule(settings.no_repeat_ngram_size, settings.no_repeat_window),
        loop_retries=settings.loop_retries,
        stall_seconds=settings.engine_stall_seconds,
        engine_args=settings.engine_args,
        visible_gpus=visible_gpus(),
        log_level=settings.log_level,
        log_format=settings.log_format,
    )
