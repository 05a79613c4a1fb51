"""The one file with branches on vLLM's version; everything else is written for the newest spelling.

Proved on CPU builds by `make compat`, which writes docs/vllm-compatibility-matrix.md; 0.33.0 by reading. Each branch says
from which release it applies, why, and when it can go. Importing this module imports vLLM.
"""

from __future__ import annotations

import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from typing import Any

import torch
import vllm
from torch import nn

OLDEST, NEWEST = (0, 11), (0, 33)
# From 0.11.1 on the interface of models is the one that our class is written for; 0.11.2 is the first of them that was run.
OLDEST_PATCH = 2
SUPPORTED = f"{OLDEST[0]}.{OLDEST[1]}.{OLDEST_PATCH} to {NEWEST[0]}.{NEWEST[1]}"


class UnsupportedVllm(ImportError):
    """This release of vLLM is outside the supported range; the message is one sentence for the operator."""


def parse_version(text: str) -> tuple[int, int, int]:
    """Return the first three numbers of a version ("0.32.0+cpu", "0.33.1.dev2"); (0, 0, 0) where there are none."""
    match = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    return (int(match[1]), int(match[2]), int(match[3] or 0)) if match else (0, 0, 0)


def check_supported(version: tuple[int, int, int], text: str) -> None:
    """Raise UnsupportedVllm for a release this module was not written for."""
    if version < (*OLDEST, OLDEST_PATCH) or version[:2] > NEWEST:
        raise UnsupportedVllm(f"vLLM {text} is not supported; install a release from {SUPPORTED}.")


VLLM_VERSION = parse_version(vllm.__version__)
check_supported(VLLM_VERSION, vllm.__version__)

from transformers import BatchFeature  # noqa: E402
from vllm import ModelRegistry  # noqa: E402
from vllm.config import VllmConfig  # noqa: E402
from vllm.engine.arg_utils import AsyncEngineArgs  # noqa: E402
from vllm.engine.async_llm_engine import AsyncLLMEngine  # noqa: E402
from vllm.model_executor.models.interfaces import SupportsMultiModal, SupportsPP  # noqa: E402
from vllm.model_executor.models.utils import init_vllm_registered_model, maybe_prefix  # noqa: E402
from vllm.multimodal import MULTIMODAL_REGISTRY  # noqa: E402
from vllm.multimodal.inputs import MultiModalFieldConfig  # noqa: E402
from vllm.multimodal.parse import MultiModalDataItems, MultiModalDataParser, ProcessorBatchItems  # noqa: E402
from vllm.multimodal.processing import (  # noqa: E402
    BaseMultiModalProcessor,
    BaseProcessingInfo,
    PromptReplacement,
    PromptUpdate,
)
from vllm.platforms import current_platform  # noqa: E402
from vllm.sampling_params import RequestOutputKind, SamplingParams  # noqa: E402
from vllm.sequence import IntermediateTensors  # noqa: E402
from vllm.v1.engine.exceptions import EngineDeadError  # noqa: E402

# From 0.14; before, vLLM refuses requests with a plain ValueError. Goes when the oldest supported release is 0.14.
if VLLM_VERSION >= (0, 14):
    from vllm.exceptions import VLLMValidationError as InvalidRequest
else:
    InvalidRequest = ValueError

# It moved in 0.15. Goes when that is the oldest supported release.
if VLLM_VERSION >= (0, 15):
    from vllm.multimodal.processing import BaseDummyInputsBuilder
else:
    from vllm.multimodal.profiling import BaseDummyInputsBuilder

__all__ = [
    "MULTIMODAL_REGISTRY",
    "REQUEST_ERRORS",
    "SUPPORTED",
    "VLLM_VERSION",
    "AsyncEngineArgs",
    "AsyncLLMEngine",
    "BaseDummyInputsBuilder",
    "BaseProcessingInfo",
    "EngineDeadError",
    "IntermediateTensors",
    "InvalidRequest",
    "ModelRegistry",
    "MultiModalDataItems",
    "MultiModalDataParser",
    "MultiModalFieldConfig",
    "PictureModelBase",
    "PictureProcessorBase",
    "ProcessorBatchItems",
    "PromptReplacement",
    "PromptUpdate",
    "RequestOutputKind",
    "SamplingParams",
    "SupportsMultiModal",
    "UnsupportedVllm",
    "VllmConfig",
    "abort",
    "check_supported",
    "choices",
    "current_platform",
    "get_tokenizer",
    "init_vllm_registered_model",
    "language_part",
    "make_engine_args",
    "maybe_prefix",
    "parse_version",
    "picture_field",
    "processor_defaults",
    "shutdown",
    "vision_part",
]


# The engine

# What `AsyncLLMEngine.generate` raises for a request that is itself at fault. InvalidRequest was a
# ValueError once, and some checks still raise that.
REQUEST_ERRORS = (InvalidRequest, ValueError)


def make_engine_args(**arguments: Any) -> AsyncEngineArgs:
    """Return AsyncEngineArgs; raises ValueError that names every argument this release does not have."""
    known = {field.name for field in fields(AsyncEngineArgs)}
    if unknown := sorted(set(arguments) - known):
        raise ValueError(f"vLLM {vllm.__version__} has no engine argument {', '.join(unknown)}.")
    return AsyncEngineArgs(**arguments)


async def get_tokenizer(engine: AsyncLLMEngine) -> Any:
    """Return the engine's tokenizer (a plain method from 0.15 on, awaitable before)."""
    tokenizer = engine.get_tokenizer()
    return await tokenizer if inspect.isawaitable(tokenizer) else tokenizer


async def abort(engine: AsyncLLMEngine, request_id: str) -> None:
    """Stop one request."""
    await engine.abort(request_id)


def shutdown(engine: AsyncLLMEngine, timeout: float) -> None:
    """Stop the engine's processes, waiting at most `timeout` seconds for the requests in them."""
    if VLLM_VERSION >= (0, 18):
        engine.shutdown(timeout=timeout)
    else:  # ends at once. Goes when the oldest supported release is 0.18.
        engine.shutdown()


def choices() -> list[tuple[str, str]]:
    """Return each choice made by version, and why, for `deepseek-ocr doctor`."""
    hook = "_apply_hf_processor_main" if VLLM_VERSION >= (0, 29) else "_call_hf_processor"
    made = [(f"picture hook {hook}", "vLLM tokenizes the prompt itself from 0.29 on")]
    if VLLM_VERSION >= (0, 12):
        made.append(("model runner V1", "runner V2 cannot load the processor of the no-repeat n-gram rule"))
    if VLLM_VERSION < (0, 18):
        made.append(("the engine stops at once", "it waits for running requests from 0.18 on"))
    return made


# The model


class _Model(nn.Module, SupportsMultiModal, SupportsPP):
    """From 0.13: what a subclass writes is what vLLM calls."""


class _FieldWiseModel(_Model):
    """From 0.11.1 to 0.12: vLLM batches by the fields config only where a model asks for it.

    Goes when the oldest supported release is 0.13.
    """

    merge_by_field_config = True
    # What `keep_on_cpu` says from 0.13 on.
    multimodal_cpu_fields = frozenset({"grid"})


PictureModelBase: Any = _Model if VLLM_VERSION >= (0, 13) else _FieldWiseModel


@contextmanager
def vision_part(model: SupportsMultiModal, config: VllmConfig) -> Iterator[None]:
    """Mark what is built inside as the picture encoder, so that text-only set-ups leave it out (0.15 on)."""
    # `nullcontext` before. Goes, with the next, when the oldest supported release is 0.15.
    with model._mark_tower_model(config, "image") if VLLM_VERSION >= (0, 15) else nullcontext():
        yield


@contextmanager
def language_part(model: SupportsMultiModal, config: VllmConfig) -> Iterator[None]:
    """Mark what is built inside as the language model (0.15 on)."""
    with model._mark_language_model(config) if VLLM_VERSION >= (0, 15) else nullcontext():
        yield


# The multimodal processor


def processor_defaults(info: BaseProcessingInfo) -> Mapping[str, object]:
    """Return the engine argument `mm_processor_kwargs`: the options of requests that give none."""
    return info.ctx.get_mm_config().mm_processor_kwargs or {}


def picture_field(keep_on_cpu: bool = False) -> MultiModalFieldConfig:
    """Return the config of a field with an entry per picture."""
    if VLLM_VERSION >= (0, 13):
        return MultiModalFieldConfig.batched("image", keep_on_cpu=keep_on_cpu)
    # The model says what stays there (multimodal_cpu_fields). Goes when the oldest supported release is 0.13.
    return MultiModalFieldConfig.batched("image")


class _PictureHook(ABC):
    """What a subclass writes, whatever vLLM calls it: `process_pictures`."""

    @abstractmethod
    def process_pictures(self, pictures: Sequence[Any], options: Mapping[str, object]) -> dict[str, Any]:
        """Return the model's inputs for `pictures`, under the names of the fields config."""


class _PicturesOnly(_PictureHook, BaseMultiModalProcessor):
    """From 0.29: vLLM tokenizes the prompt, and this hook sees the pictures only."""

    def _apply_hf_processor_main(self, mm_items: MultiModalDataItems, *args: Any, **kwargs: Any) -> BatchFeature:
        # The options are called hf_processor_mm_kwargs in 0.29 and 0.30 and hf_kwargs from 0.31 on.
        options: Mapping[str, object] = next(iter((*args, *kwargs.values())), {})
        pictures = mm_items["image"].get_all() if "image" in mm_items else []
        return BatchFeature(self.process_pictures(pictures, options) if pictures else {})


class _PicturesAndPrompt(_PictureHook, BaseMultiModalProcessor):
    """Up to 0.28: this hook also tokenizes the prompt. Goes when the oldest supported release is 0.29."""

    def _call_hf_processor(
        self,
        prompt: str,
        mm_data: Mapping[str, Any],
        mm_kwargs: Mapping[str, object],
        tok_kwargs: Mapping[str, object],
    ) -> BatchFeature:
        ids = self.info.get_tokenizer().encode(prompt, **tok_kwargs)
        pictures = mm_data.get("images", [])
        inputs = self.process_pictures(pictures, mm_kwargs) if pictures else {}
        return BatchFeature({"input_ids": torch.tensor([ids]), **inputs})

    def _hf_processor_applies_updates(self, *args: Any, **kwargs: Any) -> bool:
        return False


class _PicturesPromptAndParser(_PicturesAndPrompt):
    """Up to 0.15: asked for the parser, which 0.16 asks of the info alone and refuses to see here.

    Goes when the oldest supported release is 0.16.
    """

    def _get_data_parser(self) -> MultiModalDataParser:
        return self.info.get_data_parser()


def _processor_base() -> type[_PictureHook]:
    if VLLM_VERSION >= (0, 29):
        return _PicturesOnly
    return _PicturesAndPrompt if VLLM_VERSION >= (0, 16) else _PicturesPromptAndParser


PictureProcessorBase: Any = _processor_base()
