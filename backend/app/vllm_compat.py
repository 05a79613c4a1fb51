"""The one file with branches on vLLM's version; everything else is written for the newest spelling.

Proved by `make compat`, which writes docs/vllm-compatibility-matrix.md. Each branch says from which release it applies, why,
and when it can go. Importing this module imports vLLM.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch import nn

# Up to 0.11.0 vLLM reads this as a number, where old environment files say "true", and 0.8.5 takes its engine by it as
# soon as it is imported. Goes when the oldest supported release is 0.11.1.
_USE_V1 = os.environ.pop("VLLM_USE_V1", None)

import vllm  # noqa: E402

if _USE_V1 is not None:
    os.environ["VLLM_USE_V1"] = {"true": "1", "false": "0"}.get(_USE_V1.lower(), _USE_V1)

OLDEST, NEWEST = (0, 10), (0, 33)
# The first release that loads a class of ours for the no-repeat rule and gives the processor's hooks what it gives them now.
OLDEST_PATCH = 2
# Releases from before, each in a file of its own: without the file, the release is refused like any other.
ADAPTERS = {(0, 8, 5): "app.vllm_models.vllm_085"}
# Releases whose model runner V2 keeps the no-repeat rule, which it has from the model's state, and decodes several steps at once.
# Both stand on parts that vLLM does not promise to keep, so only releases with which they ran on a GPU are listed.
RUNNER_V2 = frozenset({(0, 26), (0, 33)})
RUNNER_V2_NAMES = " and ".join(f"{major}.{minor}" for major, minor in sorted(RUNNER_V2))
RUNNER_VARIABLE = "VLLM_USE_V2_MODEL_RUNNER"
# With it RUNNER_V2 captures the language model's graphs without having compiled it, which takes 13 s of a first start and makes its
# steps no faster.
UNCOMPILED_VARIABLE = "VLLM_USE_BREAKABLE_CUDAGRAPH"
# Releases of RUNNER_V2 that go by that variable when they import attention, not when they capture.
_UNCOMPILED_ON_IMPORT = frozenset({(0, 26)})
# Releases of RUNNER_V2 that have a single group's experts chosen by what PyTorch compiles at a start, 9 s of a first one.
_GROUPED = frozenset({(0, 26)})
SUPPORTED = f"{OLDEST[0]}.{OLDEST[1]}.{OLDEST_PATCH} to {NEWEST[0]}.{NEWEST[1]}"


class UnsupportedVllm(ImportError):
    """This vLLM is outside the supported range, or set up to drop the n-gram rule; the message is for the operator."""


def parse_version(text: str) -> tuple[int, int, int]:
    """Return the first three numbers of a version ("0.32.0+cpu", "0.33.1.dev2"); (0, 0, 0) where there are none."""
    match = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    return (int(match[1]), int(match[2]), int(match[3] or 0)) if match else (0, 0, 0)


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Have an environment variable be `value` inside."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def find_adapter(version: tuple[int, int, int]) -> str | None:
    """Return the name of the module that serves a release of ADAPTERS, None where there is none."""
    name = ADAPTERS.get(version)
    return name if name is not None and importlib.util.find_spec(name) is not None else None


def check_supported(version: tuple[int, int, int], text: str) -> None:
    """Raise UnsupportedVllm for a release this module was not written for."""
    if (version < (*OLDEST, OLDEST_PATCH) or version[:2] > NEWEST) and find_adapter(version) is None:
        others = "".join(f", or {'.'.join(map(str, one))}" for one in ADAPTERS if find_adapter(one) is not None)
        raise UnsupportedVllm(f"vLLM {text} is not supported; install a release from {SUPPORTED}{others}.")


def check_runner(version: tuple[int, int, int], text: str, variables: Mapping[str, str], cuda: bool) -> None:
    """Raise UnsupportedVllm where environment variables ask for a part of vLLM that would drop the n-gram rule.

    These are engine V0, gone from 0.11.0 on, whose variable goes with 0.11.1, and model runner V2, there from 0.12 on, but
    for the releases of RUNNER_V2 on an NVIDIA GPU (`cuda`).
    """
    asked = None
    if (*OLDEST, OLDEST_PATCH) <= version < (0, 11, 1) and variables.get("VLLM_USE_V1", "1") == "0":
        asked = "VLLM_USE_V1=0"
    value = variables.get(RUNNER_VARIABLE, "0")
    if version >= (0, 12) and value != "0" and not (cuda and version[:2] in RUNNER_V2):
        asked = f"{RUNNER_VARIABLE}={value}"
    if asked is not None:
        raise UnsupportedVllm(
            f"vLLM {text} with {asked} would drop the no-repeat n-gram rule; unset it: the rule works on releases from "
            f"{SUPPORTED} in engine V1 with model runner V1, and with model runner V2 on NVIDIA GPUs with {RUNNER_V2_NAMES}."
        )


VLLM_VERSION = parse_version(vllm.__version__)
check_supported(VLLM_VERSION, vllm.__version__)

from vllm.platforms import current_platform  # noqa: E402

check_runner(VLLM_VERSION, vllm.__version__, os.environ, current_platform.is_cuda())

if VLLM_VERSION[:2] in _UNCOMPILED_ON_IMPORT:
    # What attention is made into then does nothing else without the variable, which `choose_runner` sets.
    with _environment(UNCOMPILED_VARIABLE, "1"):
        importlib.import_module("vllm.model_executor.layers.attention.attention")

# Before the engine is imported, of which it may need another one.
_ADAPTER = importlib.import_module(_name) if (_name := find_adapter(VLLM_VERSION)) else None

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
    "BaseProcessingInfo",
    "EngineDeadError",
    "IntermediateTensors",
    "InvalidRequest",
    "ModelRegistry",
    "MultiModalDataItems",
    "MultiModalDataParser",
    "MultiModalFieldConfig",
    "PictureDummiesBase",
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
    "check_runner",
    "check_supported",
    "choices",
    "choose_runner",
    "current_platform",
    "language_model",
    "language_part",
    "make_engine_args",
    "make_executor",
    "maybe_prefix",
    "parse_version",
    "picture_field",
    "prepare_core",
    "processes_from",
    "processor_defaults",
    "shutdown",
    "stop_listening",
    "vision_part",
]


# vLLM's configuration


def _mend_head_size() -> None:
    """Have vLLM work out the size of an attention head where the model's configuration class has filled in 0.

    With 0, attention on a GPU gets wrong buffers from the second token on: wrong text, or the end of the engine core.
    """
    from vllm.config import ModelConfig

    stated = ModelConfig.get_head_size

    def get_head_size(self: Any) -> int:
        return stated(self) or self.hf_text_config.hidden_size // self.hf_text_config.num_attention_heads

    ModelConfig.get_head_size = get_head_size


# In each process, since the core and its workers ask too. Up to 0.11.0 vLLM has a configuration class of its own, without that
# 0. Goes when the oldest supported release is 0.25.
if (0, 11, 1) <= VLLM_VERSION < (0, 25):
    _mend_head_size()


# The engine

# Whether vLLM is had to read no tokenizer, which takes it seconds of a start, and the process that becomes the engine core loads the
# model before it is asked to. Goes when the oldest supported release is 0.26: with older ones neither was tried.
NEEDS_NO_TOKENIZER = VLLM_VERSION >= (0, 26)

# Tokens in a piece of text, but for the first, which comes alone as soon as it is there. A piece costs the front end's
# event loop 60 us on its way to the client: one for each of 18,000 tokens/s, and nothing else would get done.
STREAM_INTERVAL = 16

# What `AsyncLLMEngine.generate` raises for a request that is itself at fault. InvalidRequest was a
# ValueError once, and some checks still raise that.
REQUEST_ERRORS = (InvalidRequest, ValueError)


def choose_runner(several_steps: bool) -> bool:
    """Have vLLM take its model runner V2 to decode `several_steps` at once where it keeps the rule; return whether it does.

    What the operator has said stays. Elsewhere vLLM must be kept from it: from 0.29 on it is the default on GPUs.
    """
    # It has the GPU read memory of the CPU's, for which that must be pinned: Windows' subsystem for Linux cannot.
    fits = VLLM_VERSION[:2] in RUNNER_V2 and current_platform.is_cuda() and current_platform.is_pin_memory_available()
    runner_v2 = os.environ.setdefault(RUNNER_VARIABLE, str(int(several_steps and fits))) != "0"
    if runner_v2 and several_steps and fits:
        os.environ.setdefault(UNCOMPILED_VARIABLE, "1")
    return runner_v2


def make_engine_args(**arguments: Any) -> AsyncEngineArgs:
    """Return AsyncEngineArgs; raises ValueError that names every argument this release does not have."""
    if VLLM_VERSION >= (0, 11, 1):  # every token is a piece before. Goes when that is the oldest supported release.
        arguments.setdefault("stream_interval", STREAM_INTERVAL)
    known = {field.name for field in fields(AsyncEngineArgs)}
    if unknown := sorted(set(arguments) - known):
        raise ValueError(f"vLLM {vllm.__version__} has no engine argument {', '.join(unknown)}.")
    return AsyncEngineArgs(**arguments)


def prepare_core(arguments: Mapping[str, Any]) -> None:
    """Do, in a process that becomes an engine core with these engine arguments, what it would do first: read the tokenizer.

    Only for the time it saves: raises whatever vLLM raises, also where a release has other names.
    """
    if not NEEDS_NO_TOKENIZER and Path(arguments["model"]).is_dir():  # else it may not be on this machine yet
        from vllm.tokenizers import cached_tokenizer_from_config

        cached_tokenizer_from_config(make_engine_args(**arguments).create_model_config())


def make_executor(engine_args: AsyncEngineArgs) -> tuple[VllmConfig, Any]:
    """Do what an engine core does first: load the model; returns vLLM's configuration and the executor that holds it."""
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.executor.abstract import Executor

    config = engine_args.create_engine_config(UsageContext.ENGINE_CONTEXT)
    return config, Executor.get_class(config)(config)


@contextmanager
def processes_from(wrap: Callable[[Any], Any]) -> Iterator[None]:
    """Have vLLM start its engine core from what `wrap` makes of its multiprocessing context."""
    try:
        from vllm.v1.engine import utils
    except ImportError:  # 0.8.5, whose engine V0 has no core. Goes with its adapter.
        yield
        return
    stated = utils.get_mp_context
    utils.get_mp_context = lambda: wrap(stated())
    try:
        yield
    finally:
        utils.get_mp_context = stated


async def abort(engine: AsyncLLMEngine, request_id: str) -> None:
    """Stop one request."""
    await engine.abort(request_id)


def stop_listening(engine: AsyncLLMEngine) -> None:
    """Have the engine take no more outputs, on its event loop: vLLM would log the end of its core as an error."""
    handler = getattr(engine, "output_handler", None)  # 0.8.5's engine V0 has none
    if handler is not None:
        handler.cancel()


def shutdown(engine: AsyncLLMEngine, timeout: float) -> None:
    """Stop the engine's processes, waiting at most `timeout` seconds for the requests in them."""
    if VLLM_VERSION >= (0, 18):
        engine.shutdown(timeout=timeout)
    else:  # ends at once. Goes when the oldest supported release is 0.18.
        engine.shutdown()


def choices() -> list[tuple[str, str]]:
    """Return each choice made by version, and why, for the log and for `deepseek-ocr doctor`; after `choose_runner`."""
    hook = "_apply_hf_processor_main" if VLLM_VERSION >= (0, 29) else "_call_hf_processor"
    made = [(f"picture hook {hook}", "vLLM tokenizes the prompt itself from 0.29 on")]
    if os.environ.get(RUNNER_VARIABLE, "0") != "0":
        made.append(("model runner V2", f"it decodes several steps at once; {RUNNER_VARIABLE}=0 keeps model runner V1"))
    elif VLLM_VERSION >= (0, 12):
        made.append(
            (
                "model runner V1",
                f"V2 decodes several steps at once, from graphs on one NVIDIA GPU, with vLLM {RUNNER_V2_NAMES}",
            )
        )
    if VLLM_VERSION < (0, 18):
        made.append(("the engine stops at once", "it waits for running requests from 0.18 on"))
    return made


# The model


class _Model(nn.Module, SupportsMultiModal, SupportsPP):
    """From 0.13: what a subclass writes is what vLLM calls."""

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor | None:
        return self.get_language_model().compute_logits(hidden_states)


class _FieldWiseModel(_Model):
    """From 0.11.1 to 0.12: vLLM batches by the fields config only where a model asks for it.

    Goes when the oldest supported release is 0.13.
    """

    merge_by_field_config = True
    # What `keep_on_cpu` says from 0.13 on.
    multimodal_cpu_fields = frozenset({"grid"})


class _MergingModel(_FieldWiseModel):
    """Up to 0.11.0: two methods have other names, and the second puts the pictures' embeddings into their places.

    It finds them by the image token alone, which a prompt holds nowhere else and a model does not write.
    Goes when the oldest supported release is 0.11.1.
    """

    def get_multimodal_embeddings(self, **kwargs: Any) -> list[torch.Tensor]:
        return self.embed_multimodal(**kwargs)

    def get_input_embeddings(self, input_ids: torch.Tensor, multimodal_embeddings: Any = None) -> torch.Tensor:
        embedded = self.get_language_model().get_input_embeddings(input_ids)
        if multimodal_embeddings is not None and len(multimodal_embeddings) > 0:
            pictures = torch.cat(list(multimodal_embeddings)).to(embedded.dtype)
            places = (input_ids == self._image_token()).unsqueeze(-1)
            embedded = embedded.masked_scatter(places, pictures)
        return embedded

    def _image_token(self) -> int:
        if "_image_token_id" not in self.__dict__:
            from vllm.transformers_utils.tokenizer import cached_tokenizer_from_config

            tokenizer = cached_tokenizer_from_config(self.vllm_config.model_config)
            (self._image_token_id,) = tokenizer.encode(self.get_placeholder_str("image", 0), add_special_tokens=False)
        return self._image_token_id


class _BatchingModel(_MergingModel):
    """Up to 0.10.2: each picture's inputs come with a batch of one around them, and logits take a second argument.

    Goes when the oldest supported release is 0.11.0.
    """

    def get_multimodal_embeddings(self, **kwargs: Any) -> list[torch.Tensor]:
        return self.embed_multimodal(
            **{name: [entry for batch in batches for entry in batch] for name, batches in kwargs.items()}
        )

    def compute_logits(self, hidden_states: torch.Tensor, sampling_metadata: Any = None) -> torch.Tensor | None:
        return self.get_language_model().compute_logits(hidden_states, sampling_metadata)


def _model_base() -> type[_Model]:
    if VLLM_VERSION >= (0, 13):
        return _Model
    if VLLM_VERSION >= (0, 11, 1):
        return _FieldWiseModel
    return _MergingModel if VLLM_VERSION >= (0, 11) else _BatchingModel


PictureModelBase: Any = _model_base()


def language_model(config: VllmConfig, hf_config: Any, prefix: str) -> nn.Module:
    """Return vLLM's DeepSeek mixture of experts with plain multi-head attention."""
    # Published configs name DeepseekV2, which is the same class; some mirrors leave the name out. Up to 0.11.0 that class
    # knows latent attention only. Goes when the oldest supported release is 0.11.1.
    early = VLLM_VERSION < (0, 11, 1)
    name = "DeepseekForCausalLM" if early else "DeepseekV2ForCausalLM"
    if VLLM_VERSION[:2] in _GROUPED and current_platform.is_cuda():
        hf_config = _ungrouped(hf_config)
    model = init_vllm_registered_model(vllm_config=config, hf_config=hf_config, prefix=prefix, architectures=[name])
    if early and current_platform.is_cpu():
        # Its experts are Triton kernels, which no CPU runs.
        for module in model.modules():
            if hasattr(module, "pack_params"):
                module.forward = MethodType(_run_experts, module)
    if (0, 14) <= VLLM_VERSION < (0, 15) and current_platform.is_cpu():
        _make_activation()
    if (0, 20) <= VLLM_VERSION < (0, 25) and current_platform.is_cpu():
        _mend_activation()
    return model


def _ungrouped(hf_config: Any) -> Any:
    """Return a configuration with as many groups as experts where it has one group: vLLM chooses among all experts at once then.

    In the one group it chooses the same ones. Where it scales their weights it does so only in groups: then nothing is changed.
    """
    if (hf_config.n_group, hf_config.topk_group, hf_config.routed_scaling_factor) != (1, 1, 1.0):
        return hf_config
    changed = copy.copy(hf_config)
    changed.n_group = hf_config.n_routed_experts
    return changed


def _run_experts(self: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    """Do what `DeepseekMoE.forward` does, one expert after the other; for tests on the CPU."""
    scores, _ = self.gate(hidden_states)
    weights, chosen = scores.float().softmax(-1).topk(self.top_k)
    if self.config.norm_topk_prob:
        weights = weights / weights.sum(-1, keepdim=True)
    total = self.shared_experts(hidden_states)
    for number, expert in enumerate(self.experts):
        rows, places = (chosen == number).nonzero(as_tuple=True)
        if len(rows):
            total.index_add_(0, rows, expert(hidden_states[rows]) * weights[rows, places, None].to(total.dtype))
    return total


def _make_activation() -> None:
    """Make the layer with which vLLM's experts on the CPU activate now, when vLLM allows it.

    0.14 makes it at the first step, which vLLM refuses outside of loading. Goes when the oldest supported release is 0.15.
    """
    from vllm.model_executor.layers.activation import SiluAndMul
    from vllm.model_executor.layers.fused_moe.cpu_fused_moe import _CPU_MOE_ACT

    _CPU_MOE_ACT["silu"] = SiluAndMul()


def _mend_activation() -> None:
    """Give vLLM's experts on the CPU their activation as a function, as the releases before and after do.

    From 0.20 to 0.24 they make a layer of it at each step, which vLLM refuses outside of loading; float32 on a processor
    with AMX comes that way. Goes when the oldest supported release is 0.25.
    """
    from vllm.model_executor.layers.activation import SiluAndMul
    from vllm.model_executor.layers.fused_moe.activation import MoEActivation
    from vllm.model_executor.layers.fused_moe.cpu_fused_moe import _CPU_MOE_ACT_FN

    _CPU_MOE_ACT_FN[MoEActivation.SILU] = SiluAndMul.forward_native


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


def processor_defaults(model_config: Any) -> Mapping[str, object]:
    """Return the engine argument `mm_processor_kwargs`: the options of requests that give none."""
    return model_config.multimodal_config.mm_processor_kwargs or {}


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

    # Asked for from 0.30 on.
    requires_tokenizer = False

    def _apply_hf_processor_main(self, mm_items: MultiModalDataItems, *args: Any, **kwargs: Any) -> BatchFeature:
        # The options are called hf_processor_mm_kwargs in 0.29 and 0.30 and hf_kwargs from 0.31 on.
        options: Mapping[str, object] = next(iter((*args, *kwargs.values())), {})
        pictures = mm_items["image"].get_all() if "image" in mm_items else []
        return BatchFeature(self.process_pictures(pictures, options) if pictures else {})


class _PicturesAlone(_PicturesOnly):
    """From 0.31: vLLM asks the processor for the prompt with which it measures memory."""

    def get_dummy_inputs(self, seq_len: int, mm_counts: Mapping[str, int], *args: Any, **kwargs: Any) -> Any:
        return _with_places(super().get_dummy_inputs(seq_len, mm_counts, *args, **kwargs), self.info, mm_counts)


class _PromptlessDummies(BaseDummyInputsBuilder):
    """Up to 0.30: vLLM asks here for the prompt with which it measures memory. Goes when the oldest supported release is 0.31."""

    def get_dummy_processor_inputs(self, seq_len: int, mm_counts: Mapping[str, int], *args: Any, **kwargs: Any) -> Any:
        return _with_places(
            super().get_dummy_processor_inputs(seq_len, mm_counts, *args, **kwargs), self.info, mm_counts
        )


def _with_places(inputs: Any, info: Any, mm_counts: Mapping[str, int]) -> Any:
    """Give vLLM's own prompt the places of its pictures, which it has none of without a tokenizer."""
    if info.ctx.tokenizer is None:
        inputs.prompt = [info.image_token] * mm_counts.get("image", 0)
    return inputs


PictureDummiesBase: Any = _PromptlessDummies if VLLM_VERSION < (0, 31) else BaseDummyInputsBuilder


class _PicturesAndPrompt(_PictureHook, BaseMultiModalProcessor):
    """Up to 0.28: this hook also tokenizes the prompt. Goes when the oldest supported release is 0.29."""

    def _call_hf_processor(
        self,
        prompt: str,
        mm_data: Mapping[str, Any],
        mm_kwargs: Mapping[str, object],
        tok_kwargs: Mapping[str, object],
    ) -> BatchFeature:
        tokenizer = self.info.get_tokenizer()
        ids = [] if tokenizer is None else tokenizer.encode(prompt, **tok_kwargs)
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
    if VLLM_VERSION >= (0, 31):
        return _PicturesAlone
    if VLLM_VERSION >= (0, 29):
        return _PicturesOnly
    return _PicturesAndPrompt if VLLM_VERSION >= (0, 16) else _PicturesPromptAndParser


PictureProcessorBase: Any = _processor_base()

# Last, so that it finds all of the above.
if _ADAPTER is not None:
    globals().update(_ADAPTER.replacements(importlib.import_module(__name__)))
