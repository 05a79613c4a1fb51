"""The no-repeat n-gram rule as one kernel of Triton's, for vLLM's model runner V2.

That runner keeps the tokens of all requests where the GPU can read them, and the core does not learn the newest before the
next step is on its way. The kernel looks at them anew each time: no state follows the batch.
"""

from __future__ import annotations

import numpy as np
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor

from app.vllm_models.ngram_state import MAX_WHITELIST, NgramRule

# Columns of a request's row in the table of rules: the size, the longest lag, the prompt's tokens, and the whitelist.
COLUMNS = 3 + MAX_WHITELIST
# Lags compared at once; the published rule has 61.
_LAGS = 64
_BLANK = -1  # no token


@triton.jit
def _ban(  # type: ignore[no-untyped-def]  # Triton would take annotations for types of its own
    logits, slots, tokens, lengths, rules, logits_stride, tokens_stride,
    WHITELIST: tl.constexpr, LAGS: tl.constexpr,
):  # fmt: skip
    """Forbid one row's tokens. Lag 1 is the newest token, 2 the one before; `newest` points to it."""
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + row).to(tl.int64)
    rule = rules + slot * (3 + WHITELIST)
    size = tl.load(rule)
    if size > 0:
        limit = tl.load(rule + 1)
        length = tl.load(lengths + slot)
        generated = length - tl.load(rule + 2)
        newest = tokens + slot * tokens_stride + length - 1
        passed = tl.load(rule + 3 + tl.arange(0, WHITELIST))
        for first in range(1, tl.minimum(limit, generated) + 1, LAGS):
            lag = first + tl.arange(0, LAGS)
            same = (lag <= limit) & (lag + size - 1 <= generated)
            compared = 0
            while (compared < size - 1) & (tl.max(same.to(tl.int32), 0) > 0):
                token = tl.load(newest - compared)
                same = same & (tl.load(newest - compared - lag, mask=same, other=-1) == token)
                compared += 1
            if tl.max(same.to(tl.int32), 0) > 0:
                after = tl.load(newest + 1 - lag, mask=same, other=-2)
                listed = tl.max((after[:, None] == passed[None, :]).to(tl.int32), 1)
                tl.store(logits + row * logits_stride + after, float("-inf"), mask=same & (listed == 0))


def ban(logits: Tensor, slots: Tensor, tokens: Tensor, lengths: Tensor, rules: Tensor) -> None:
    """Set the logits of forbidden tokens to minus infinity, in place.

    `logits` is (rows, vocabulary), and `slots` (rows,) says where each row's request is in the rest: `tokens` (slots,
    positions) of 32 bits, prompt first; `lengths` (slots,), prompt and what was generated; `rules` (slots, COLUMNS) of 32
    bits, as `describe` writes them.
    """
    _ban[(len(logits),)](
        logits, slots, tokens, lengths, rules, logits.stride(0), tokens.stride(0),
        WHITELIST=MAX_WHITELIST, LAGS=_LAGS, num_warps=1,
    )  # fmt: skip


def describe(rule: NgramRule, prompt_tokens: int) -> NDArray[np.int32]:
    """Return the rule of a request, after a prompt of so many tokens, as a row of the table."""
    row = np.full(COLUMNS, _BLANK, np.int32)
    row[:3] = rule.size, rule.window - rule.size + 1, prompt_tokens
    row[3 : 3 + len(rule.whitelist)] = rule.whitelist
    return row
