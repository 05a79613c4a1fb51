"""Room for several tokens a step: vLLM's own scheduler with ours on top, and a runner that fills the room without a GPU."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from random import Random
from typing import Any

import pytest

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("ignore")]

BLOCK, MAX_LENGTH, SIDE_BY_SIDE = 16, 160, 6


def token(request: str, place: int) -> int:
    """The token that a request has at one place of its text, whatever else runs."""
    return 100 + (7 * place + 31 * int(request)) % 50


@pytest.fixture(scope="module")
def config(small_checkpoint: Path, vllm_environment: dict[str, str]) -> Any:
    pytest.importorskip("vllm.v1.worker.gpu.model_runner", reason="this vLLM has no model runner V2")
    from app import vllm_compat
    from app.vllm_models import ENGINE_ARGUMENTS, register

    register()
    arguments = ENGINE_ARGUMENTS | {
        "model": str(small_checkpoint),
        "max_model_len": MAX_LENGTH,
        "max_num_seqs": SIDE_BY_SIDE,
        "max_num_batched_tokens": 200,
        "enforce_eager": True,
    }
    return vllm_compat.make_engine_args(**arguments).create_engine_config()


def make_scheduler(config: Any, blocks: int) -> Any:
    import torch
    from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
    from vllm.v1.structured_output import StructuredOutputManager

    from app.vllm_models.multi_step import MultiStepScheduler

    spec = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=8, dtype=torch.float32)
    cache = KVCacheConfig(num_blocks=blocks, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)])
    config.cache_config.num_gpu_blocks = blocks
    scheduler = MultiStepScheduler(config, cache, StructuredOutputManager(config), BLOCK)
    scheduler.use_v2_model_runner = True  # which vLLM itself takes with Triton alone
    return scheduler


class Runner:
    """What the runner V2 and the GPU know: each request's tokens, and for how many of them the cache holds something."""

    def __init__(self) -> None:
        self.tokens: dict[str, list[int]] = {}
        self.prompts: dict[str, int] = {}
        self.computed: dict[str, int] = {}
        self.blocks: dict[str, int] = {}
        self.most = 0

    def run(self, step: Any) -> Any:
        from vllm.v1.outputs import ModelRunnerOutput

        for request in (step.finished_req_ids or set()) | (step.preempted_req_ids or set()):
            self.tokens.pop(request, None)
        for new in step.scheduled_new_reqs:
            self.tokens[new.req_id] = list(new.prefill_token_ids)
            self.prompts[new.req_id] = len(new.prompt_token_ids)
            self.computed[new.req_id] = new.num_computed_tokens
            self.blocks[new.req_id] = len(new.block_ids[0])
        known = step.scheduled_cached_reqs
        for request, blocks in zip(known.req_ids, known.new_block_ids, strict=True):
            self.blocks[request] += len(blocks[0]) if blocks is not None else 0
        room = step.scheduled_spec_decode_tokens
        extra = min(map(len, room.values()), default=0)
        self.most = max(self.most, 1 + extra)
        sampled = []
        for request, count in step.num_scheduled_tokens.items():
            sampled.append(self.decode(request, count - len(room.get(request, ())), extra if request in room else 0))
        ids = list(step.num_scheduled_tokens)
        return ModelRunnerOutput(ids, {request: row for row, request in enumerate(ids)}, sampled)

    def decode(self, request: str, count: int, extra: int) -> list[int]:
        tokens = self.tokens[request]
        self.computed[request] += count
        assert self.computed[request] <= len(tokens), "a token that is not there yet was to be read"
        if self.computed[request] < len(tokens):
            return []  # of a prompt in pieces
        written = []
        for place in range(1 + extra):
            self.computed[request] += bool(place)
            assert self.computed[request] <= BLOCK * self.blocks[request], "there is no room in the cache"
            written.append(token(request, len(tokens) - self.prompts[request]))
            tokens.append(written[-1])
        assert len(tokens) <= MAX_LENGTH + 1
        return written


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("blocks", [200, 14])
def test_each_request_gets_its_tokens_in_order_and_no_more(config: Any, blocks: int, seed: int) -> None:
    """Steps are handed out before the one under way has ended; with few blocks, requests give way to others and come back."""
    from vllm.sampling_params import SamplingParams
    from vllm.v1.request import Request

    random = Random(seed)
    scheduler, runner = make_scheduler(config, blocks), Runner()
    wanted: dict[str, int] = {}
    written: dict[str, list[int]] = {}
    waiting, under_way, preempted = deque(range(20)), deque(), 0
    for _ in range(2000):
        while waiting and random.random() < 0.4:
            name = str(waiting.popleft())
            prompt = [random.randrange(50) for _ in range(random.choice([1, 20, 70]))]
            wanted[name] = random.choice([1, 2, 3, 4, 5, 37, 90, MAX_LENGTH])
            written[name] = []
            params = SamplingParams(temperature=0.0, max_tokens=wanted[name], ignore_eos=True)
            wanted[name] = min(wanted[name], MAX_LENGTH - len(prompt))
            scheduler.add_request(Request(name, prompt, params, None))
        step = scheduler.schedule()
        preempted += len(step.preempted_req_ids or ())
        under_way.append((step, runner.run(step)))
        if len(under_way) == 2 or not step.num_scheduled_tokens:
            for outputs in scheduler.update_from_output(*under_way.popleft()).values():
                for output in outputs.outputs:
                    written[output.request_id] += output.new_token_ids
        if not waiting and not under_way and not scheduler.has_unfinished_requests():
            break
    assert not scheduler.has_unfinished_requests()
    assert written == {name: [token(name, place) for place in range(count)] for name, count in wanted.items()}
    assert runner.most == 4
    assert (preempted > 0) is (blocks == 14), preempted
