"""Several decoding steps in one of the engine's, so that its core does once for all of them what it does on its one thread.

From one token of a request to the next that thread needs 2 ms for one request and 13 ms for 256; an H200 needs 1 ms and 7.
So the scheduler makes room for `EXTRA` tokens more in each request that decodes, as it does for the drafts of speculative
decoding, and the runner fills it by decoding on, for which nothing has to leave the GPU. To the rest of vLLM these are
drafts that were all accepted. The tokens are those of single steps.

Classes for vLLM's engine arguments `scheduler_cls` and `worker_cls`, with model runner V2 (`vllm_compat.RUNNER_V2`).
"""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from vllm import SamplingParams
from vllm.config import CUDAGraphMode
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.worker.gpu.input_batch import InputBatch, prepare_pos_seq_lens
from vllm.v1.worker.gpu.model_runner import GPUModelRunner
from vllm.v1.worker.gpu_worker import Worker

from app.vllm_models.expert_kernels import compiling_experts

if TYPE_CHECKING:
    from vllm.v1.core.sched.output import SchedulerOutput

# One H200, pages/s in Gundam and in Base, and seconds for a page alone, 600 tokens each: 28.0, 33.4 and 1.43 without; 29.5, 53.0
# and 0.77 with 3; 28.5, 54.1 and 0.78 with 7, of which a page's end wastes more.
EXTRA = 3
# Most requests of which all that lies between two further steps is captured too, once for each number of them. A step of so few takes
# the GPU no longer than the core's thread takes to launch its parts one by one.
CAPTURED = 32
# Bytes that all captured graphs are taken to need: on one H200 vLLM's own and these together take 0.3 GiB.
GRAPH_MEMORY = 2**29


class MultiStepScheduler(AsyncScheduler):
    """vLLM's scheduler, which makes room for `EXTRA` tokens more in each request that decodes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.num_spec_tokens = EXTRA
        self._spec_token_placeholders = [-1] * EXTRA

    def make_spec_decoding_stats(self, *args: Any, **kwargs: Any) -> None:
        """Count no drafts: there are none."""


class MultiStepRunner(GPUModelRunner):
    """vLLM's model runner V2, which fills that room by decoding on."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Of the step under way: each request's room, and whether its tokens have been taken over into the state.
        self._room: dict[str, list[int]] = {}
        self._taken_over = False
        ids = torch.zeros(self.max_num_reqs, dtype=torch.int64, device=self.device)
        self._one, self._none = torch.ones_like(ids, dtype=torch.int32), torch.zeros_like(ids, dtype=torch.int32)
        # What lies between two steps, by the number of requests; and where its graphs find their slots and leave their tokens.
        self._between: dict[int, torch.cuda.CUDAGraph] = {}
        self._slots, self._newest = ids[:CAPTURED], ids[:CAPTURED, None].clone()

    @torch.inference_mode()
    def profile_run(self, *args: Any, **kwargs: Any) -> None:
        """Run the largest step there is, as vLLM does to measure memory, with all kernels of the experts compiled beside it."""
        # Two of the largest: Triton makes a kernel of its own of what 16 divides.
        largest = (self.max_num_tokens, self.max_num_tokens - 1)
        sizes = {*(self.compilation_config.cudagraph_capture_sizes or ()), *largest}
        with compiling_experts(self.model, self.vllm_config, sizes):
            super().profile_run(*args, **kwargs)

    def profile_cudagraph_memory(self) -> int:
        """Return what graphs will take, without capturing them once only to see: 4 s of a start, 8 s with cold caches."""
        return GRAPH_MEMORY

    def capture_model(self, *args: Any, **kwargs: Any) -> Any:
        """Capture vLLM's graphs and ours."""
        # vLLM collects garbage before this, at the end of it and after it, 0.4 s each time: what it has walked through stays.
        gc.freeze()
        used = super().capture_model(*args, **kwargs)
        gc.freeze()
        self._capture_between()
        return used

    def execute_model(self, scheduler_output: SchedulerOutput, *args: Any, **kwargs: Any) -> Any:
        """Run the step as if no request had room for more than one token."""
        self._room = scheduler_output.scheduled_spec_decode_tokens
        if self._room:
            counts = {
                request: count - len(self._room.get(request, ()))
                for request, count in scheduler_output.num_scheduled_tokens.items()
            }
            scheduler_output = replace(
                scheduler_output,
                num_scheduled_tokens=counts,
                total_num_scheduled_tokens=sum(counts.values()),
                scheduled_spec_decode_tokens={},
            )
        return super().execute_model(scheduler_output, *args, **kwargs)

    def sample(self, hidden_states: Tensor, input_batch: InputBatch, grammar_output: Any) -> Any:
        """Sample each request's token, and decode on where there is room: all as far as the one with the least.

        What room is left counts as drafts that were rejected; all of it where a request wants to know the scores of its tokens.
        """
        output, sampled, rejected = super().sample(hidden_states, input_batch, grammar_output)
        extra = min(map(len, self._room.values()), default=0)
        if extra and output.logprobs_tensors is None and (graph := self._graph(input_batch)) is not None:
            first = output.sampled_token_ids
            super().postprocess_sampled(input_batch.idx_mapping, first, sampled, rejected, input_batch.query_start_loc)
            self._taken_over = True
            output.sampled_token_ids = self._decode_on(input_batch, first, extra, graph)
            sampled[: len(self._room)] += extra
        return output, sampled, rejected

    def postprocess_sampled(self, *args: Any, **kwargs: Any) -> None:
        """Take the step's tokens over into the state, unless that was done."""
        if not self._taken_over:
            super().postprocess_sampled(*args, **kwargs)
        self._taken_over = False

    def _graph(self, batch: InputBatch) -> Any:
        """Return the captured decoding step of all requests with room, None where there is none."""
        count = len(self._room)
        # They come first in a batch, but for a prompt of which a single token was left.
        return self._find_graph(count) if self._room.keys() >= set(batch.req_ids[:count]) else None

    def _find_graph(self, count: int) -> Any:
        graph = self.cudagraph_manager.dispatch(count, count, 1, 0)
        return graph if graph.cg_mode == CUDAGraphMode.FULL else None

    def _decode_on(self, step: InputBatch, first: Tensor, extra: int, graph: Any) -> Tensor:
        """Return the tokens of all requests, (requests, 1 + extra), of which those with room have so many."""
        count = len(self._room)
        tokens = first.new_zeros((len(first), 1 + extra))
        tokens[:, :1] = first
        batch = self._decoding(step, count, graph)
        greedy = self.sampler.is_greedy(batch)
        between = self._between.get(count) if greedy else None
        if between is not None:
            self._slots[:count] = batch.idx_mapping
        self.block_tables.gather_block_tables(batch.idx_mapping, num_reqs_padded=batch.num_reqs_after_padding)
        self._prepare(batch, first[:count])
        for place in range(1, 1 + extra):
            hidden = self.cudagraph_manager.run_fullgraph(graph)[:count]
            if between is not None:
                between.replay()
                sampled = self._newest[:count]
            else:
                sampled = self._take(batch, hidden, greedy)
                if place < extra:
                    self._prepare(batch, sampled)
            tokens[:count, place : place + 1] = sampled
        return tokens

    def _prepare(self, batch: InputBatch, tokens: Tensor, for_capture: bool = False) -> None:
        """Write what the captured step reads, for the newest tokens, (requests, 1), into vLLM's buffers."""
        self.model_state.embed_tokens(tokens[:, 0])
        prepare_pos_seq_lens(
            batch.idx_mapping,
            batch.query_start_loc,
            self.req_states.num_computed_tokens.gpu,
            self.input_buffers.positions,
            self.input_buffers.seq_lens,
        )
        batch.seq_lens_cpu_upper_bound[: batch.num_reqs] += 1
        slots = self.block_tables.compute_slot_mappings(
            batch.idx_mapping, batch.query_start_loc, batch.positions, num_tokens_padded=batch.num_tokens_after_padding
        )
        tables = tuple(table[: batch.num_reqs_after_padding] for table in self.block_tables.input_block_tables)
        self.model_state.prepare_attn(
            batch, CUDAGraphMode.FULL, tables, slots, self.attn_groups, self.kv_cache_config, for_capture=for_capture
        )

    def _take(self, batch: InputBatch, hidden: Tensor, greedy: bool) -> Tensor:
        """Sample from what a step left, (requests, width), and take the tokens, (requests, 1), over into the state."""
        count = batch.num_reqs
        logits = self.model.compute_logits(hidden)
        sampled = self.sampler.best(logits, batch) if greedy else self.sampler(logits, batch).sampled_token_ids
        super().postprocess_sampled(
            batch.idx_mapping, sampled, self._one[:count], self._none[:count], batch.query_start_loc
        )
        return sampled

    @torch.inference_mode()
    def _capture_between(self) -> None:
        """Capture taking over the likeliest tokens and preparing for the next, on buffers that stay where they are."""
        # Others than FlashAttention plan each step on the CPU.
        if any(group.backend.get_name() != "FLASH_ATTN" for groups in self.attn_groups for group in groups):
            return
        pool = torch.cuda.graph_pool_handle()
        for count in range(min(CAPTURED, self.max_num_reqs), 0, -1):
            if (graph := self._find_graph(count)) is None:
                continue
            dummy = InputBatch.make_dummy(count, count, self.input_buffers)
            batch = self._decoding(replace(dummy, idx_mapping=self._slots[:count]), count, graph)
            hidden = self.cudagraph_manager.hidden_states[:count]

            def between(batch: InputBatch = batch, hidden: Tensor = hidden, count: int = count) -> None:
                self._newest[:count] = self._take(batch, hidden, greedy=True)
                self._prepare(batch, self._newest[:count], for_capture=True)

            between()  # what a first call compiles and sets up must not be captured
            self._between[count] = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._between[count], pool=pool, capture_error_mode="thread_local"):
                between()

    def _decoding(self, step: InputBatch, count: int, graph: Any) -> InputBatch:
        """Return a batch of the first `count` requests of a step, with one token each, padded as the graph is."""
        buffers, requests, padded = self.input_buffers, graph.num_reqs, graph.num_tokens
        starts = buffers.query_start_loc
        torch.clamp(torch.arange(len(starts), dtype=starts.dtype, device=starts.device), max=count, out=starts)
        lengths = torch.zeros(requests, dtype=torch.int32)
        lengths[:count] = step.seq_lens_cpu_upper_bound[:count]
        rows = np.arange(requests + 1, dtype=np.int32)
        # vLLM 0.33 has these fields, 0.26 not yet.
        newer = {"has_prefill": False, "decode_graph_eligible": True} if hasattr(step, "has_prefill") else {}
        return replace(
            step,
            req_ids=step.req_ids[:count],
            num_reqs=count,
            num_reqs_after_padding=requests,
            idx_mapping=step.idx_mapping[:count],
            idx_mapping_np=step.idx_mapping_np[:count],
            expanded_idx_mapping=step.idx_mapping[:count],
            expanded_local_pos=step.expanded_local_pos[:count],
            num_scheduled_tokens=np.ones(count, np.int32),
            num_tokens=count,
            num_tokens_after_padding=padded,
            query_start_loc=starts[: requests + 1],
            query_start_loc_np=np.minimum(rows, count),
            seq_lens=buffers.seq_lens[:requests],
            seq_lens_cpu_upper_bound=lengths,
            num_computed_tokens_np=step.num_computed_tokens_np[:count],
            prefill_len_np=step.prefill_len_np[:count],
            num_computed_prefill_tokens_np=step.prefill_len_np[:count],
            is_prefilling_np=np.zeros(count, np.bool_),
            input_ids=buffers.input_ids[:padded],
            positions=buffers.positions[:padded],
            is_padding=buffers.is_padding[:padded],
            logits_indices=starts[:count],
            cu_num_logits=starts[: count + 1],
            cu_num_logits_np=rows[: count + 1],
            **newer,
        )


class MultiStepWorker(Worker):
    """vLLM's worker with that runner."""

    def init_device(self) -> None:
        """Take the GPU; vLLM's own runner holds nothing yet."""
        super().init_device()
        self.model_runner = MultiStepRunner(self.vllm_config, self.device)
        # vLLM tries all there is to sampling. Ways that no page asks for take 20 s to compile, and are compiled when one does.
        SamplingParams.for_sampler_warmup = staticmethod(_as_pages_ask)


def _as_pages_ask() -> SamplingParams:
    """Return the sampling of a page that is read again, and of the check of the rule; the likeliest token is sampled anyway."""
    return SamplingParams(temperature=0.2, seed=1, logit_bias={0: 1.0})
