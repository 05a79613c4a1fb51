"""What vLLM's model runner V2 keeps for our model: its own state of a model with pictures, and the no-repeat n-gram rule.

That runner prepares a step with kernels on the GPU and reads no token on the CPU. The classes that change logits for runner V1
do not fit it, and up to 0.30 it takes no others; the state that a model brings along sees each request, and the sampler.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from vllm.v1.worker.gpu.buffer_utils import UvaBackedTensor
from vllm.v1.worker.gpu.model_states.default import DefaultModelState

from app.vllm_models.ngram_kernel import COLUMNS, ban, describe
from app.vllm_models.ngram_state import NO_DRAFTS, heed_rule
from app.vllm_models.processing import largest_views

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.sampling_params import SamplingParams
    from vllm.v1.core.sched.output import NewRequestData
    from vllm.v1.worker.gpu.input_batch import InputBatch
    from vllm.v1.worker.gpu.mm.encoder_cache import EncoderCache
    from vllm.v1.worker.gpu.sample.sampler import Sampler


class PictureState(DefaultModelState):
    """vLLM's state with each request's rule; raises ValueError with speculative decoding, whose drafts the rule does not see."""

    def __init__(
        self, vllm_config: VllmConfig, model: nn.Module, encoder_cache: EncoderCache | None, device: torch.device
    ) -> None:
        if vllm_config.speculative_config is not None:
            raise ValueError(NO_DRAFTS)
        super().__init__(vllm_config, model, encoder_cache, device)
        # By slot; they stay until the slot's next request. The table stays where it is, since captured graphs read it.
        self._written = UvaBackedTensor((self.max_num_reqs, COLUMNS), torch.int32)
        self._rules = torch.zeros(self.max_num_reqs, COLUMNS, dtype=torch.int32, device=device)
        self._greedy = np.zeros(self.max_num_reqs, np.bool_)

    def add_request(self, req_index: int, new_req_data: NewRequestData) -> None:
        """Take over what a request asks for."""
        super().add_request(req_index, new_req_data)
        params = new_req_data.sampling_params
        rule = heed_rule(params.extra_args if params else None)
        self._written.np[req_index] = describe(rule, len(new_req_data.prompt_token_ids))
        self._greedy[req_index] = _takes_best(params)

    def apply_staged_writes(self) -> None:
        """Show the GPU the rules of new requests."""
        super().apply_staged_writes()
        self._rules.copy_(self._written.copy_to_uva())

    def dummy_inputs_embeds(self, num_tokens: int) -> Tensor:
        """Have the first step, in which vLLM measures memory, encode as many pictures as a step may bring.

        vLLM 0.33 brings them itself, and 0.26 none.
        """
        if not self.model.encoder_ready:
            views = largest_views()
            count = max(1, self.scheduler_config.max_num_encoder_input_tokens // views.placeholders)
            whole, tiles = (torch.from_numpy(pixels).to(self.device) for pixels in (views.global_view, views.tiles))
            self.model.embed_multimodal(
                global_view=[whole] * count, tiles=[tiles] * count, grid=torch.tensor([views.grid] * count)
            )
        return super().dummy_inputs_embeds(num_tokens)

    def embed_tokens(self, tokens: Tensor) -> None:
        """Write the embeddings of words, (requests,), to where captured decoding steps read them."""
        self.encoder_runner.inputs_embeds[: len(tokens)] = self.model.get_language_model().embed_input_ids(tokens)

    def custom_sampler(self, sampler: Sampler) -> tuple[RuleSampler, None]:
        """Put the rule before vLLM's sampler."""
        return RuleSampler(sampler, self._rules, self._greedy), None


class RuleSampler:
    """vLLM's sampler, which gets to see no forbidden token."""

    def __init__(self, sampler: Sampler, rules: Tensor, greedy: NDArray[np.bool_]) -> None:
        self._sampler = sampler
        self._rules = rules
        self._greedy = greedy
        self._joined = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sampler, name)

    def add_request(self, *args: Any, **kwargs: Any) -> None:
        """Take over what a request asks for."""
        self._sampler.add_request(*args, **kwargs)
        self._joined = True

    def apply_staged_writes(self) -> None:
        """Show the GPU what new requests ask for; without one, vLLM would copy all of it again at each step."""
        if self._joined:
            self._sampler.apply_staged_writes()
        self._joined = False

    def __call__(self, logits: Tensor, input_batch: InputBatch) -> Any:
        """Sample a token for each row of `logits`, (requests, vocabulary)."""
        self._ban(logits, input_batch)
        return self._sampler(logits, input_batch)

    def is_greedy(self, input_batch: InputBatch) -> bool:
        """Return whether `best` samples what a call would, for all requests of a batch."""
        return bool(self._greedy[input_batch.idx_mapping_np].all())

    def best(self, logits: Tensor, input_batch: InputBatch) -> Tensor:
        """Return the likeliest token of each row that is not forbidden, (requests, 1)."""
        self._ban(logits, input_batch)
        return logits.argmax(-1, keepdim=True)

    def _ban(self, logits: Tensor, input_batch: InputBatch) -> None:
        kept = self._sampler.req_states
        ban(
            logits,
            input_batch.idx_mapping,
            kept.all_token_ids.gpu,
            kept.total_len.gpu,
            self._rules,
        )


def _takes_best(params: SamplingParams | None) -> bool:
    """Return whether a request's token is the likeliest that the rule leaves: whether it asks for nothing else."""
    return params is not None and not (
        params.temperature
        or params.logprobs is not None
        or params.logit_bias
        or params.bad_words
        or params.min_tokens
        or params.allowed_token_ids
        or params.presence_penalty
        or params.frequency_penalty
        or params.repetition_penalty != 1.0
    )
