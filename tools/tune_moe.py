"""Find the fastest Triton blocks for DeepSeek-OCR's mixture of experts on this GPU, and write vLLM's table of them.

    python -m tools.tune_moe tables --minutes 3
    VLLM_TUNED_CONFIG_FOLDER=tables python -m app serve

vLLM looks for `E=64,N=896,device_name=....json` in VLLM_TUNED_CONFIG_FOLDER, then among its own, and takes the entry
whose batch size is nearest; without a table it logs "Using default MoE config". So that a table from a run that was
cut short misleads nobody, sizes that were not reached hold vLLM's default.

Candidates are compiled side by side first, then timed on random weights and tokens, each as a captured graph: all
shortly, the fastest few again for longer. The default is always among them.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

Config = dict[str, int]

# Of the published checkpoint.
EXPERTS, TOP_K, HIDDEN, INTERMEDIATE = 64, 6, 1280, 896
# Tokens in a step: first the sizes that decide how fast pages are read, then prefill, then the rest.
BATCHES = (256, 128, 512, 64, 8192, 32, 384, 192, 96, 4096, 16, 1, 8, 48, 1024, 2048, 2, 4, 24, 3072, 1536)
# A Hopper multiprocessor's shared memory that one block may use.
SHARED_BYTES = 227 * 2**10
# Launches in a captured graph, replays at first, and for the FINALISTS.
LAUNCHES, FEW_REPLAYS, MANY_REPLAYS, FINALISTS = 10, 2, 20, 5


def candidates(batch: int) -> list[Config]:
    """Return the blocks worth a try for so many tokens: none that is far from what an expert gets of them."""
    rows = max(1, batch * TOP_K // EXPERTS)
    return [
        {
            "BLOCK_SIZE_M": m,
            "BLOCK_SIZE_N": n,
            "BLOCK_SIZE_K": k,
            "GROUP_SIZE_M": group,
            "SPLIT_K": 1,
            "num_warps": warps,
            "num_stages": stages,
        }
        for m in (16, 32, 64, 128)
        if (m == 16 and rows <= 32) or m // 4 <= rows <= 16 * m
        for n in (64, 128, 256)
        for k in (64, 128)
        for group in ((1,) if rows < 128 else (1, 16))
        for warps in (4, 8)
        for stages in (3, 4, 5)
        if _sensible(m, n, k, warps, stages)
    ]


def _sensible(m: int, n: int, k: int, warps: int, stages: int) -> bool:
    fits = 2 * stages * k * (m + n) <= SHARED_BYTES
    # A warp has at least 16 x 64 of the result, and at most what its registers hold.
    return fits and m * n >= warps * 512 and m * n <= warps * 4096


class Layer:
    """One layer's experts with random weights, and random tokens for them."""

    def __init__(self) -> None:
        import torch

        self.torch = torch
        torch.manual_seed(0)
        options = {"dtype": torch.bfloat16, "device": "cuda"}
        self.gate_up = torch.randn(EXPERTS, 2 * INTERMEDIATE, HIDDEN, **options) / HIDDEN**0.5
        self.down = torch.randn(EXPERTS, HIDDEN, INTERMEDIATE, **options) / INTERMEDIATE**0.5

    def work(self, batch: int, config: Config | None) -> Callable[[], Any]:
        """Return a call of vLLM's experts on `batch` tokens with these blocks, or with vLLM's own choice."""
        from vllm.model_executor.layers.fused_moe import fused_experts, override_config

        tokens = self.torch.randn(batch, HIDDEN, dtype=self.torch.bfloat16, device="cuda")
        scores = self.torch.randn(batch, EXPERTS, device="cuda").softmax(-1)
        weights, chosen = scores.topk(TOP_K)
        chosen = chosen.to(self.torch.int32)

        def run() -> Any:
            with override_config(config):
                return fused_experts(tokens, self.gate_up, self.down, weights, chosen)

        return run

    def microseconds(self, batch: int, config: Config | None, replays: int) -> float:
        """Return what a call takes, launched from a graph as in the engine; raises what Triton raises."""
        torch, run = self.torch, self.work(batch, config)
        run()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(LAUNCHES):
                run()
        graph.replay()
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(replays):
            graph.replay()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) * 1000 / (replays * LAUNCHES)


_layer: Layer | None = None


def compile_config(config: Config) -> bool:
    """Compile the kernels of one candidate into Triton's cache, in a worker process; says whether it can run."""
    global _layer
    _layer = _layer or Layer()
    try:
        _layer.work(64, config)()
        _layer.torch.cuda.synchronize()
    except Exception:  # noqa: BLE001 - too much shared memory or too many registers, said in many ways
        return False
    return True


def compile_all(configs: Iterable[Config], processes: int, deadline: float) -> list[Config]:
    """Return the candidates that run, compiled side by side; those not reached before the deadline are left out."""
    wanted = list(configs)
    pool = ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"))
    futures = [pool.submit(compile_config, config) for config in wanted]
    running = []
    for config, future in zip(wanted, futures, strict=True):
        try:
            if future.result(max(0.1, deadline - time.monotonic())):
                running.append(config)
        except TimeoutError:
            break
    pool.shutdown(cancel_futures=True)
    return running


def tune(layer: Layer, batch: int, configs: list[Config]) -> tuple[Config | None, float, float]:
    """Return the fastest blocks, None where vLLM's own are, with their microseconds and those of vLLM's own."""
    own = layer.microseconds(batch, None, MANY_REPLAYS)
    times = sorted(
        ((layer.microseconds(batch, config, FEW_REPLAYS), number) for number, config in enumerate(configs)),
    )
    finals = [(layer.microseconds(batch, configs[number], MANY_REPLAYS), number) for _, number in times[:FINALISTS]]
    best, number = min(finals, default=(own, -1))
    return (configs[number], best, own) if best < own else (None, own, own)


def default_config(batch: int) -> Config:
    """Return what vLLM takes for so many tokens without a table."""
    from vllm.model_executor.layers.fused_moe.fused_moe import get_default_config

    return dict(get_default_config(batch, EXPERTS, INTERMEDIATE, HIDDEN, TOP_K, None))


def file_name() -> str:
    """Return the name under which vLLM looks for this GPU's table for bfloat16."""
    from vllm.model_executor.layers.fused_moe import get_config_file_name

    return str(get_config_file_name(EXPERTS, INTERMEDIATE, None))


def write_table(file: Path, table: dict[int, Config]) -> None:
    """Write vLLM's table: batch size to blocks."""
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({str(batch): table[batch] for batch in sorted(table)}, indent=4)
    file.write_text(text + "\n")


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def run(options: argparse.Namespace) -> int:
    """Tune every batch size that time allows, and write the table after each."""
    import torch

    if not torch.cuda.is_available():
        say("There is no GPU here to tune for.")
        return 1
    started = time.monotonic()
    deadline = started + 60 * options.minutes
    wanted = {batch: candidates(batch) for batch in BATCHES}
    different = {json.dumps(config): config for configs in wanted.values() for config in configs}
    running = compile_all(different.values(), options.processes, started + 30 * options.minutes)
    able = {json.dumps(config) for config in running}
    say(f"{len(able)} of {len(different)} candidates compiled after {time.monotonic() - started:.0f} s")
    layer, file = Layer(), options.folder / file_name()
    table = {batch: default_config(batch) for batch in BATCHES}
    for batch in BATCHES:
        if time.monotonic() > deadline:
            say(f"out of time: {batch} tokens and what follows keep vLLM's default")
            break
        config, best, own = tune(layer, batch, [it for it in wanted[batch] if json.dumps(it) in able])
        table[batch] = config or table[batch]
        write_table(file, table)
        say(f"{batch:>5} tokens: {own:8.1f} us by default, {best:8.1f} us tuned, {json.dumps(config)}")
    say(str(file))
    return 0


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the table is written")
    parser.add_argument("--minutes", type=float, default=3, help="half of it at most goes into compiling")
    parser.add_argument("--processes", type=int, default=min(12, os.cpu_count() or 1), help="that compile")
    parser.add_argument("--list", action="store_true", help="only say how many candidates there are; needs no GPU")
    options = parser.parse_args(arguments)
    if options.list:
        for batch in sorted(BATCHES):
            say(f"{batch:>5} tokens: {len(candidates(batch))} candidates")
        say(f"{len({json.dumps(config) for batch in BATCHES for config in candidates(batch)})} different ones")
        return 0
    return run(options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
