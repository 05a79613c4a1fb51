"""vLLM 0.8.5, the release DeepSeek-OCR was published for: its engine V0 behind the names of vllm_compat.

Where that release is installed, `vllm_compat` imports this file, and at its own end puts `replacements` in the place of
its names. Nothing else knows of it: deleting the file ends the support, and the release is refused like its neighbours.

Engine V0 lives in the service's process, not in one of its own, and takes the n-gram rule as a callable of each request's.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

# Engine V1 of this release cannot be given the rule. Before vLLM's engine is imported.
os.environ["VLLM_USE_V1"] = "0"

from vllm.distributed.parallel_state import destroy_distributed_environment, destroy_model_parallel
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.engine.async_llm_engine import AsyncEngineDeadError, AsyncLLMEngine
from vllm.sampling_params import SamplingParams

from app.vllm_models.ngram_state import NgramState, read_rule


def replacements(compat: Any) -> dict[str, Any]:
    """Return what takes the place of names of `compat`, which has all of its own by now."""
    return {
        "AsyncEngineArgs": EngineArguments,
        "AsyncLLMEngine": InProcessEngine,
        "EngineDeadError": AsyncEngineDeadError,
        "PictureModelBase": _model_base(compat._BatchingModel),
        "PictureProcessorBase": _processor_base(compat._PicturesPromptAndParser),
        "SamplingParams": sampling_params,
        "abort": abort,
        "choices": choices,
        "processor_defaults": processor_defaults,
        "shutdown": shutdown,
    }


# The engine


@dataclass
class EngineArguments(AsyncEngineArgs):
    """With the names of later releases; the rule comes with each request, so its class is not needed here."""

    logits_processors: Any = None
    mm_processor_cache_gb: float = 4

    def __post_init__(self) -> None:
        self.disable_mm_preprocessor_cache = not self.mm_processor_cache_gb
        super().__post_init__()


class InProcessEngine(AsyncLLMEngine):
    """Engine V0 with the attribute that engine V1 has."""

    @property
    def model_config(self) -> Any:
        return self.engine.model_config


async def abort(engine: InProcessEngine, request_id: str) -> None:
    """Stop one request; nothing is left of it where the engine has died."""
    with contextlib.suppress(AsyncEngineDeadError):
        await engine.abort(request_id)


def shutdown(engine: InProcessEngine, timeout: float) -> None:
    """Stop the engine at once, from any thread, and make room for the next in this process."""
    task = engine._background_loop_unshielded
    if task is not None:
        with contextlib.suppress(RuntimeError):  # its event loop is closed
            task.get_loop().call_soon_threadsafe(engine.shutdown_background_loop)
    engine.engine.model_executor.shutdown()
    destroy_model_parallel()
    destroy_distributed_environment()


def choices() -> list[tuple[str, str]]:
    return [
        ("engine V0 in this process", "engine V1 of 0.8.5 cannot be given the no-repeat n-gram rule"),
        ("the engine stops at once", "engine V0 does not wait for running requests"),
    ]


# The n-gram rule


def sampling_params(extra_args: Mapping[str, Any] | None = None, **fields: Any) -> SamplingParams:
    """Return vLLM's parameters with the rule that `extra_args` ask for; raises ValueError for a wrong one."""
    return SamplingParams(**fields, logits_processors=[RequestRule(extra_args)])


class RequestRule:
    """The rule for one request, which vLLM calls with its answer so far at each step."""

    def __init__(self, extra_args: Mapping[str, Any] | None) -> None:
        self._answer: list[int] = []
        self._state = NgramState(1)
        self._state.follow(0, read_rule(extra_args), self._answer)

    def __call__(self, tokens: Sequence[int], logits: torch.Tensor) -> torch.Tensor:
        """Set the logits (vocabulary,) of forbidden tokens to minus infinity."""
        # vLLM hands out a new copy of all tokens each time; the state looks at what is new in its own.
        del self._answer[len(tokens) :]
        self._answer += tokens[len(self._answer) :]
        _, forbidden = self._state.banned()
        logits[torch.from_numpy(forbidden).to(logits.device)] = -torch.inf
        return logits


# The model and its processor


def processor_defaults(model_config: Any) -> Mapping[str, object]:
    """Return the engine argument `mm_processor_kwargs`."""
    return model_config.mm_processor_kwargs or {}


def _model_base(base: Any) -> Any:
    class Model(base):
        """Pictures come to `forward` itself, which later releases give their embeddings."""

        def __init_subclass__(cls, **options: Any) -> None:
            super().__init_subclass__(**options)
            cls.forward = _embedding(cls.forward)

    return Model


def _embedding(forward: Callable[..., Any]) -> Callable[..., Any]:
    def embed_first(
        self: Any,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        **pictures: Any,
    ) -> Any:
        if inputs_embeds is None and intermediate_tensors is None:
            inputs_embeds = self.get_input_embeddings(input_ids, self.get_multimodal_embeddings(**pictures))
        return forward(self, input_ids, positions, intermediate_tensors, inputs_embeds)

    return embed_first


def _processor_base(base: Any) -> Any:
    class Processor(base):
        """The hook has no options for the tokenizer, and fields are asked for in another way."""

        def __init_subclass__(cls, **options: Any) -> None:
            super().__init_subclass__(**options)
            cls._get_prompt_updates = _by_picture(cls._get_prompt_updates)

        def _call_hf_processor(self, prompt: str, mm_data: Mapping[str, Any], mm_kwargs: Mapping[str, object]) -> Any:
            return super()._call_hf_processor(prompt, mm_data, mm_kwargs, {})

    return Processor


class _Picture:
    """One picture's fields."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = fields

    def get_data(self) -> dict[str, Any]:
        return {name: field.data for name, field in self._fields.items()}


def _by_picture(get_updates: Callable[..., Any]) -> Callable[..., Any]:
    def ask(self: Any, mm_items: Any, hf_processor_mm_kwargs: Any, out_mm_kwargs: Any) -> Any:
        pictures = out_mm_kwargs.get_items("image") if "image" in mm_items else []
        return get_updates(self, mm_items, hf_processor_mm_kwargs, {"image": [_Picture(one) for one in pictures]})

    return ask
