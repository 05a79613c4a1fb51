"""The no-repeat n-gram rule inside vLLM: a logits processor for its model runner V1.

Give it to the engine by name, `AsyncEngineArgs(logits_processors=["app.vllm_models.ngram:NoRepeatNgram"])`. As an
entry point alone it would load too, but vLLM then hands out placeholders instead of token ids when it schedules
asynchronously.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from vllm.v1.sample.logits_processor import LogitsProcessor, MoveDirectionality

from app.vllm_models.ngram_state import NO_DRAFTS, PUBLISHED, Integers, NgramRule, NgramState, heed_rule, read_rule

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.sampling_params import SamplingParams
    from vllm.v1.sample.logits_processor import BatchUpdate

logger = logging.getLogger(__name__)


class NoRepeatNgram(LogitsProcessor):
    """Forbids repeated n-grams as each request's extra_args ask; see `ngram_state.read_rule` for the keys.

    A request that says nothing gets `default_rule`; a subclass given to the engine instead changes it.
    """

    default_rule: ClassVar[NgramRule] = PUBLISHED

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        if vllm_config.speculative_config is not None:
            raise ValueError(NO_DRAFTS)
        self._device = torch.device(device)
        self._pin_memory = is_pin_memory and self._device.type != "cpu"
        self._state = NgramState(vllm_config.scheduler_config.max_num_seqs)
        self._impossible: torch.Tensor | None = None
        self._told_blind = False

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Raise ValueError where the request's rule cannot work; vLLM calls this in its front end from 0.17 on."""
        read_rule(sampling_params.extra_args, cls.default_rule)

    def is_argmax_invariant(self) -> bool:
        """False: greedy decoding must not skip the rule."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow the batch's changes. No token is read yet: they may still be on their way from the device."""
        if batch_update is None:
            return
        for row in batch_update.removed:
            self._state.forget(row)
        for row, params, _, output_tokens in batch_update.added:
            # vLLM before 0.17 lets bad values come this far.
            self._state.follow(row, heed_rule(params.extra_args, self.default_rule), output_tokens)
        for source, target, direction in batch_update.moved:
            if direction == MoveDirectionality.SWAP:
                self._state.swap(source, target)
            else:
                self._state.move(source, target)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Set the forbidden tokens' logits (rows are the batch's) to minus infinity, in place."""
        rows, tokens = self._state.banned()
        if self._state.blind and not self._told_blind:
            self._told_blind = True
            logger.error("no_repeat_ngram_blind: vLLM handed out token placeholders, so the rule is not kept")
        if len(rows) > 0:
            index = self._on_device(np.stack([rows, tokens]))
            if self._impossible is None:
                self._impossible = torch.full((), -torch.inf, dtype=logits.dtype, device=logits.device)
            logits.index_put_((index[0], index[1]), self._impossible)
        return logits

    def _on_device(self, values: Integers) -> torch.Tensor:
        """Copy without waiting for the device, which a copy from pageable memory would do."""
        host = torch.from_numpy(values)
        if self._pin_memory:
            host = host.pin_memory()
        return host.to(self._device, non_blocking=True)
