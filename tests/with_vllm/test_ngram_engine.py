"""The no-repeat n-gram rule in a running engine, with a model that loops without it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.vllm_models.ngram_state import PUBLISHED, NgramRule
from tests.with_vllm.ngram_plain import OFF, plain_rule
from tests.with_vllm.tiny_service import IN_CORE

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

STEPS = 180
PROMPT = [5, 6, 7, 8]
RULES = [OFF, PUBLISHED, NgramRule(3, 40, ()), NgramRule(2, 24, (17, 56)), NgramRule(1, 8, ()), NgramRule(6, 200, ())]


@pytest.fixture(scope="module")
def looping_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small random Llama whose next token hangs almost only on the last one: greedy, it soon loops."""
    pytest.importorskip("vllm.v1.sample.logits_processor", reason="vLLM is not installed")
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(2)
    shape = LlamaConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.5,  # wide, so that the best two logits never come close to a tie
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=1,
    )
    folder = tmp_path_factory.mktemp("looping_model")
    model = LlamaForCausalLM(shape)
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.data *= 0.001
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def decoded_plainly(looping_model: Path) -> list[list[int]]:
    """What greedy decoding gives under each of RULES when the whole sequence is computed anew at every step."""
    import torch
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(looping_model, dtype=torch.float32)
    outputs: list[list[int]] = [[] for _ in RULES]
    for _ in range(STEPS):
        with torch.no_grad():
            logits = model(torch.tensor([PROMPT + output for output in outputs])).logits[:, -1]
        for row, rule in enumerate(RULES):
            logits[row, sorted(plain_rule(outputs[row], rule))] = -torch.inf
            outputs[row].append(int(logits[row].argmax()))
    return outputs


@pytest.fixture
def engine(looping_model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A CPU engine whose cache holds two of the sequences in full, so that it preempts and resumes requests."""
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    backend = Path(__file__).parents[2] / "backend"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(backend), os.environ.get("PYTHONPATH", "")]))
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.engine.async_llm_engine import AsyncLLMEngine

    arguments = AsyncEngineArgs(
        model=str(looping_model),
        skip_tokenizer_init=True,
        dtype="float32",
        enforce_eager=True,
        max_model_len=256,
        max_num_seqs=4,
        block_size=32,
        num_gpu_blocks_override=16,
        enable_prefix_caching=False,
        logits_processors=["app.vllm_models.ngram:NoRepeatNgram"],
        **IN_CORE,
    )
    running = AsyncLLMEngine.from_engine_args(arguments)
    yield running
    running.shutdown()


async def generate(engine: Any, name: str, extra_args: dict[str, Any] | None) -> list[int]:
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    params = SamplingParams(
        temperature=0.0,
        max_tokens=STEPS,
        ignore_eos=True,
        detokenize=False,
        extra_args=extra_args,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
    async for output in engine.generate({"prompt_token_ids": PROMPT}, params, name):
        return list(output.outputs[0].token_ids)
    raise AssertionError("the engine answered nothing")


def preemptions() -> float:
    from prometheus_client import REGISTRY

    families = [family for family in REGISTRY.collect() if family.name == "vllm:num_preemptions"]
    return sum(sample.value for family in families for sample in family.samples if sample.name.endswith("_total"))


async def test_the_engine_gives_the_tokens_of_plain_decoding_under_each_rule_and_outlives_bad_values(
    engine: Any, decoded_plainly: list[list[int]]
) -> None:
    """Twelve requests in four rows, with preemptions: without the rule the model loops, with it on it does not."""
    asked = [rule.extra_args() for rule in RULES]
    asked[RULES.index(PUBLISHED)] = None  # the default, on for who says nothing
    answers = await asyncio.gather(*(generate(engine, f"{n}", asked[n % len(RULES)]) for n in range(2 * len(RULES))))
    assert answers == decoded_plainly * 2
    assert preemptions() > 0
    assert [repeats(answers[0], rule) > 0 for rule in RULES] == [False, True, True, True, True, True]
    assert [repeats(answer, rule) for answer, rule in zip(answers, RULES, strict=False)] == [0] * len(RULES)

    with pytest.raises(Exception, match=r"^no_repeat_window must be from 1 to 1024, got 0$"):
        await generate(engine, "bad", {"no_repeat_window": 0})
    assert await generate(engine, "after", asked[2]) == decoded_plainly[2]


def repeats(tokens: list[int], rule: NgramRule) -> int:
    """How many of the tokens the rule would have banned."""
    return sum(token in plain_rule(tokens[:place], rule) for place, token in enumerate(tokens))
