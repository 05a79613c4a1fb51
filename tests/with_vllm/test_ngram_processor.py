"""The logits processor that vLLM loads: equal to vLLM's own, in vLLM's own batch, and deaf to bad values."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from app.vllm_models.ngram_state import PUBLISHED, NgramRule
from tests.with_vllm.ngram_plain import OFF, VOCABULARY, Batch, Request, grow, plain_rule, random_changes

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def processors() -> Any:
    pytest.importorskip("vllm.v1.sample.logits_processor", reason="vLLM is not installed")
    from app.vllm_models import ngram

    return ngram


@pytest.fixture(scope="module")
def upstream() -> Any:
    """The class vLLM itself ships for DeepSeek-OCR."""
    pytest.importorskip("vllm.v1.sample.logits_processor", reason="vLLM is not installed")
    try:
        from vllm.model_executor.models.deepseek_ocr import NGramPerReqLogitsProcessor
    except ImportError as error:
        pytest.skip(f"vLLM's own class does not import here: {error}")
    return NGramPerReqLogitsProcessor


def new_processor(kind: Any, device: str = "cpu", speculative: object = None) -> Any:
    import torch

    scheduler = SimpleNamespace(max_num_seqs=6)
    config = SimpleNamespace(scheduler_config=scheduler, speculative_config=speculative)
    return kind(config, torch.device(device), device != "cpu")


def as_vllm(change: SimpleNamespace, size: int, extra_args: Callable[[NgramRule], dict[str, Any] | None]) -> Any:
    """The change in vLLM's own terms; None where nothing changed."""
    from vllm.sampling_params import SamplingParams
    from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality

    if not (change.removed or change.added or change.moved):
        return None
    directions = {True: MoveDirectionality.SWAP, False: MoveDirectionality.UNIDIRECTIONAL}
    added = [(row, SamplingParams(extra_args=extra_args(new.rule)), [1], new.tokens) for row, new in change.added]
    moved = [(source, target, directions[both]) for source, target, both in change.moved]
    return BatchUpdate(batch_size=size, removed=change.removed, added=added, moved=moved)


def upstream_args(rule: NgramRule) -> dict[str, Any] | None:
    if rule.size == 0:
        return None
    return {"ngram_size": rule.size, "window_size": rule.window, "whitelist_token_ids": list(rule.whitelist)}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(20))
def test_the_logits_equal_those_of_the_class_vllm_ships(processors: Any, upstream: Any, seed: int) -> None:
    """Size 1 is left out: by an accident of slicing, vLLM's class then bans nothing."""
    import torch

    random, batch = Random(seed), Batch()
    ours, theirs = new_processor(processors.NoRepeatNgram), new_processor(upstream)
    offered = [OFF, PUBLISHED, NgramRule(2, 6, (1,)), NgramRule(3, 90, (7,)), NgramRule(5, 20, ())]
    bans = 0
    for _ in range(150):
        change = random_changes(random, batch, offered)
        ours.update_state(as_vllm(change, len(batch.rows), NgramRule.extra_args))
        theirs.update_state(as_vllm(change, len(batch.rows), upstream_args))
        for request in batch.rows:
            grow(random, request.tokens, 2)
        logits = torch.randn(len(batch.rows), VOCABULARY, generator=torch.Generator().manual_seed(seed))
        expected = theirs.apply(logits.clone())
        assert torch.equal(ours.apply(logits.clone()), expected)
        bans += int(torch.isinf(expected).sum())
    assert bans > 50


def test_tokens_that_arrive_after_the_update_are_counted_and_greedy_decoding_is_not_exempt(processors: Any) -> None:
    import torch

    batch, request = Batch(), Request(NgramRule(2, 9))
    processor = new_processor(processors.NoRepeatNgram)
    assert processor.is_argmax_invariant() is False
    processor.update_state(as_vllm(batch.change(set(), [request], []), 1, NgramRule.extra_args))
    for token, banned in [(3, []), (4, []), (3, [4])]:
        request.tokens.append(-1)  # as asynchronous scheduling leaves it until the token has come
        processor.update_state(None)
        request.tokens[-1] = token
        assert torch.isinf(processor.apply(torch.zeros(1, VOCABULARY))).nonzero()[:, 1].tolist() == banned


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(10))
def test_the_rule_is_kept_in_vllms_own_batch_under_asynchronous_scheduling(processors: Any, seed: int) -> None:
    """vLLM's InputBatch, driven as its model runner drives it: every new id is -1 until just before sampling.

    The CPU engine turns asynchronous scheduling off, so this is as near to it as a CPU comes.
    """
    import torch

    random, truth = Random(seed), dict[str, Request]()
    processor = new_processor(processors.NoRepeatNgram)
    batch = vllm_batch(processor)
    cached: dict[str, Any] = {}
    paused: list[str] = []
    bans = 0
    for step in range(250):
        for name in [name for name in batch.req_ids if random.random() < 0.04]:
            batch.remove_request(name)  # finished, or preempted and back some steps later
            if random.random() < 0.5:
                paused.append(name)
        while batch.num_reqs < 6 and random.random() < 0.4:
            if paused and random.random() < 0.5:
                name = paused.pop(0)
                cached[name].output_token_ids = list(truth[name].tokens)
            else:
                name, rule = f"{step}-{len(truth)}", random.choice([OFF, NgramRule(2, 8, (1,)), NgramRule(3, 90, ())])
                truth[name], cached[name] = Request(rule), vllm_request(name, rule)
            batch.add_request(cached[name])
        batch.condense()
        if batch.num_reqs > 1 and random.random() < 0.2:
            batch.swap_states(*random.sample(range(batch.num_reqs), 2))
        batch.refresh_metadata()
        batch.update_async_output_token_ids()
        batch.prev_sampled_token_ids = None
        names = list(batch.req_ids)
        if not names:
            continue
        logits = processor.apply(torch.zeros(len(names), VOCABULARY))
        found = [set(torch.isinf(row).nonzero()[:, 0].tolist()) for row in logits]
        assert found == [plain_rule(truth[name].tokens, truth[name].rule) for name in names]
        bans += sum(map(len, found))
        sampled = [random.randrange(3) for _ in names]
        for name, token in zip(names, sampled, strict=True):
            truth[name].tokens.append(token)
            cached[name].output_token_ids.append(-1)
        batch.prev_req_id_to_index = {name: row for row, name in enumerate(names)}
        event = SimpleNamespace(synchronize=lambda: None)
        batch.set_async_sampled_token_ids(torch.tensor(sampled)[:, None], event)
    assert bans > 100


def vllm_batch(processor: Any) -> Any:
    import torch
    from vllm.v1.sample.logits_processor import LogitsProcessors
    from vllm.v1.worker.gpu_input_batch import InputBatch

    return InputBatch(
        max_num_reqs=6,
        max_model_len=512,
        max_num_batched_tokens=512,
        device=torch.device("cpu"),
        vocab_size=VOCABULARY,
        block_sizes=[16],
        max_num_blocks_per_req=[32],
        logitsprocs=LogitsProcessors([processor]),
        logitsprocs_need_output_token_ids=True,
    )


def vllm_request(name: str, rule: NgramRule) -> Any:
    from vllm.sampling_params import SamplingParams
    from vllm.v1.worker.gpu_input_batch import CachedRequestState

    return CachedRequestState(
        req_id=name,
        prompt_token_ids=[1, 2],
        mm_features=[],
        sampling_params=SamplingParams(temperature=0.0, extra_args=rule.extra_args()),
        generator=None,
        block_ids=([0],),
        num_computed_tokens=0,
        output_token_ids=[],
    )


def test_placeholders_that_are_never_filled_are_reported_once(
    processors: Any, caplog: pytest.LogCaptureFixture
) -> None:
    import torch

    batch, request = Batch(), Request(PUBLISHED, [-1])
    processor = new_processor(processors.NoRepeatNgram)
    processor.update_state(as_vllm(batch.change(set(), [request], []), 1, NgramRule.extra_args))
    for _ in range(3):
        processor.apply(torch.zeros(1, VOCABULARY))
        request.tokens.append(-1)
    assert [record.message.split()[0] for record in caplog.records] == ["no_repeat_ngram_blind:"]


def test_bad_values_that_reach_the_engine_core_leave_the_default_rule_on(
    processors: Any, caplog: pytest.LogCaptureFixture
) -> None:
    import torch

    class Bigrams(processors.NoRepeatNgram):  # type: ignore[misc]
        default_rule = NgramRule(2, 9)

    batch, request = Batch(), Request(OFF, [3, 4, 3])
    processor = new_processor(Bigrams)
    change = batch.change(set(), [request], [])
    processor.update_state(as_vllm(change, 1, lambda _: {"no_repeat_ngram_size": "30"}))
    assert torch.isinf(processor.apply(torch.zeros(1, VOCABULARY))).nonzero()[:, 1].tolist() == [4]
    assert "no_repeat_ngram_refused" in caplog.text


def test_speculative_decoding_is_refused(processors: Any) -> None:
    with pytest.raises(ValueError, match="does not work with speculative decoding"):
        new_processor(processors.NoRepeatNgram, speculative=object())


def test_a_step_never_waits_for_the_gpu(processors: Any) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    batch, request = Batch(), Request(NgramRule(2, 9), [3, 4, 3])
    processor = new_processor(processors.NoRepeatNgram, device="cuda")
    processor.update_state(as_vllm(batch.change(set(), [request], []), 1, NgramRule.extra_args))
    logits = torch.zeros(1, VOCABULARY, device="cuda")
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for token in (4, 3, 4, 3):
            processor.apply(logits)
            request.tokens.append(token)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.isinf(logits).nonzero()[:, 1].tolist() == [3, 4]
