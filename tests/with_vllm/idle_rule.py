"""A logits processor that forbids nothing: what an engine has whose runner does not keep the n-gram rule."""

from __future__ import annotations

import torch

from app.vllm_models.ngram import NoRepeatNgram


class IdleRule(NoRepeatNgram):
    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        return logits
