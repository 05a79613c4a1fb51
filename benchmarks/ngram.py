"""What the no-repeat n-gram rule costs at every step, ours and that of the class vLLM ships, in one run.

    python -m benchmarks.ngram --sequences 512 --tokens 600

Both logits processors get the same requests and the same tokens, first of text that never repeats, then of text that
loops on whatever is banned (the worst case: real loops end there), and are timed over update_state and apply, all
that vLLM calls in a step. Times are of the clock on the wall, by percentile, and of the processor (cpu_mean), which
other work on the machine disturbs less. Exits with 1 where what the two banned over all steps differs.

Needs vLLM, and torchvision, which vLLM's class imports, and backend/ on PYTHONPATH. With --device cuda the time is
what the engine's thread spends, not the GPU; and the kernel that keeps the rule with vLLM's model runner V2, on the GPU
alone, is timed too, at the end of the same text.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import vllm
from vllm.model_executor.models.deepseek_ocr import NGramPerReqLogitsProcessor
from vllm.sampling_params import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate

from app.vllm_models.ngram import NoRepeatNgram
from app.vllm_models.ngram_state import NgramRule
from benchmarks.machine import processor_name

PERCENTILES = (50, 90, 99, 100)
KERNEL_CALLS = 200


@dataclass(frozen=True)
class Load:
    """What is decoded: how many sequences, how long, over how many tokens, and the period of a loop (0: none)."""

    name: str
    sequences: int
    tokens: int
    vocabulary: int
    period: int

    def steps(self) -> Iterator[list[int]]:
        """The token of each sequence at each step; a loop begins after a sixth of the text."""
        draws = random.Random(1)
        written: list[list[int]] = []
        for step in range(self.tokens):
            if self.period and step > self.tokens // 6 and step >= self.period:
                written.append(written[step - self.period])
            else:
                written.append([draws.randrange(self.vocabulary) for _ in range(self.sequences)])
            yield written[-1]


class Timed:
    """A processor with its own copy of every sequence, and the time of each of its steps."""

    def __init__(self, kind: Any, extra_args: dict[str, Any], load: Load, device: str) -> None:
        config = SimpleNamespace(scheduler_config=SimpleNamespace(max_num_seqs=load.sequences), speculative_config=None)
        self.processor = kind(config, torch.device(device), device != "cpu")
        self.outputs: list[list[int]] = [[] for _ in range(load.sequences)]
        params = SamplingParams(extra_args=extra_args)
        added = [(row, params, [0], output) for row, output in enumerate(self.outputs)]
        self.update: Any = BatchUpdate(batch_size=load.sequences, removed=[], added=added, moved=[])
        self.wall: list[float] = []
        self.cpu: list[float] = []

    def step(self, logits: torch.Tensor, tokens: list[int]) -> torch.Tensor:
        """Add a token to every sequence and apply the rule; only the rule is timed."""
        for output, token in zip(self.outputs, tokens, strict=True):
            output.append(token)
        wall, cpu = time.perf_counter(), time.thread_time()
        self.processor.update_state(self.update)
        logits = self.processor.apply(logits)
        self.cpu.append((time.thread_time() - cpu) * 1000)
        self.wall.append((time.perf_counter() - wall) * 1000)
        self.update = None
        return logits

    def milliseconds(self) -> dict[str, float]:
        figures = {f"p{which}": float(np.percentile(self.wall, which)) for which in PERCENTILES}
        figures["cpu_mean"] = sum(self.cpu) / len(self.cpu)
        return {name: round(figure, 3) for name, figure in figures.items()}


def measure(load: Load, rule: NgramRule, device: str) -> dict[str, Any]:
    """Run both over one load, step by step in turn, so that both meet the same disturbances."""
    asked = {"ngram_size": rule.size, "window_size": rule.window, "whitelist_token_ids": list(rule.whitelist)}
    upstream = Timed(NGramPerReqLogitsProcessor, asked, load, device)
    ours = Timed(NoRepeatNgram, rule.extra_args(), load, device)
    logits = [torch.zeros(load.sequences, load.vocabulary, device=device) for _ in range(2)]
    for tokens in load.steps():
        upstream.step(logits[0], tokens)
        ours.step(logits[1], tokens)
    if not torch.equal(*logits):
        sys.exit(f"{load.name}: the two banned different tokens")
    before, after = upstream.milliseconds(), ours.milliseconds()
    kernel = {"kernel_ms": kernel_milliseconds(ours.outputs, load, rule)} if device != "cpu" else {}
    return {
        "load": load.name,
        "size": rule.size,
        "window": rule.window,
        "banned": int(torch.isinf(logits[0]).sum()),
        "upstream_ms": before,
        "ours_ms": after,
        "upstream_to_ours": {name: round(before[name] / after[name], 1) for name in ("p50", "cpu_mean")},
        **kernel,
    }


def kernel_milliseconds(texts: list[list[int]], load: Load, rule: NgramRule) -> float:
    """Return the milliseconds that the GPU takes to ban all tokens after these texts, each of which follows one token."""
    from app.vllm_models.ngram_kernel import ban, describe

    tokens = torch.tensor([[0, *text] for text in texts], dtype=torch.int32, device="cuda")
    slots = torch.arange(len(texts), dtype=torch.int32, device="cuda")
    lengths = torch.full_like(slots, tokens.shape[1])
    rules = torch.from_numpy(np.stack([describe(rule, 1)] * len(texts))).to("cuda")
    logits = torch.zeros(len(texts), load.vocabulary, device="cuda")
    ban(logits, slots, tokens, lengths, rules)  # compiles it
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(KERNEL_CALLS):
        ban(logits, slots, tokens, lengths, rules)
    end.record()
    end.synchronize()
    return round(float(begin.elapsed_time(end)) / KERNEL_CALLS, 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=600, help="generated by each sequence")
    parser.add_argument(
        "--vocabulary", type=int, default=8192, help="columns of the logits; the rule's cost is the same"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--wide", action="store_true", help="measure a window of 1024 too, which takes minutes")
    parser.add_argument("--json", type=Path, help="write the result to this file too")
    options = parser.parse_args()
    torch.set_num_threads(1)  # as vLLM does in its workers
    rules = [NgramRule(30, 90, ()), NgramRule(20, 50, ())] + [NgramRule(35, 1024, ())] * options.wide
    shape = (options.sequences, options.tokens, options.vocabulary)
    loads = [Load("text", *shape, period=0), Load("loop of 7", *shape, period=7)]
    runs = [measure(load, rule, options.device) for rule in rules for load in loads]
    result = {
        "sequences": options.sequences,
        "tokens": options.tokens,
        "device": torch.cuda.get_device_name() if options.device != "cpu" else processor_name(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "vllm": vllm.__version__,
        "runs": runs,
    }
    for run in runs:
        print(f"{run['size']}/{run['window']} {run['load']}: {run['upstream_to_ours']} times, {run['banned']} banned")
        print(f"    upstream {run['upstream_ms']}\n    ours     {run['ours_ms']}")
        if "kernel_ms" in run:
            print(f"    kernel   {run['kernel_ms']} on the GPU")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
