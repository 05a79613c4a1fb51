"""Finds out whether vLLM keeps the no-repeat n-gram rule, by asking for what the rule forbids.

Runners and releases differ in which processors they load and in which they leave out without a word, so that
only an answer proves it.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any

from app.errors import EngineStartError
from app.vllm_models.ngram_state import NgramRule

if TYPE_CHECKING:
    from app.vllm_compat import AsyncLLMEngine

log = logging.getLogger(__name__)

# No token twice.
_PROBE = NgramRule(size=1, window=8)
# An ordinary token, wanted at every step by more than any model's own preference.
_TOKEN, _FORCE = 40, 100.0


async def check_rule(engine: AsyncLLMEngine) -> None:
    """Raise EngineStartError unless the running engine keeps the rule; takes two decoding steps."""
    first, second = await _answer(engine)
    if first == _TOKEN != second:
        log.info("ngram_rule_active")
        return
    log.error("ngram_rule_inactive tokens=%d,%d", first, second)
    from app import vllm_compat

    raise EngineStartError(
        f"vLLM started, but its model runner does not keep the no-repeat n-gram rule; install a release from "
        f"{vllm_compat.SUPPORTED}, and leave VLLM_USE_V2_MODEL_RUNNER unset."
    )


async def _answer(engine: AsyncLLMEngine) -> tuple[int, int]:
    """Return the first two tokens of an answer in which one token is forced, and its repetition forbidden."""
    from app.vllm_compat import RequestOutputKind, SamplingParams

    params = SamplingParams(
        temperature=0.0,
        max_tokens=2,
        ignore_eos=True,
        detokenize=False,
        logit_bias={_TOKEN: _FORCE},
        extra_args=_PROBE.extra_args(),
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
    prompt: Any = {"prompt_token_ids": [_TOKEN]}
    tokens: list[int] = []
    async with contextlib.aclosing(engine.generate(prompt, params, "ngram-rule-check")) as outputs:
        async for output in outputs:
            tokens = list(output.outputs[0].token_ids)
    return (tokens[0], tokens[1]) if len(tokens) == 2 else (-1, -1)
