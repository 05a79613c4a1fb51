"""What a decoding step costs, without pictures: random text prompts in the service's engine, the n-gram rule on and off.

    python -m benchmarks.gpu_decode --model DIR --json decode.json
    python -m benchmarks.gpu_decode --model DIR --variant '{}' --variant '{"engine_args": {"kv_cache_dtype": "fp8"}}'

Each variant, a JSON object of the service's settings, starts the engine anew, in a process of its own, with the arguments
that the service gives it. `ms_a_step` is taken while all sequences decode and none prefills or has ended: over the
tokens of the sequence that began last, until the first one ends.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, aclosing
from pathlib import Path
from typing import Any

import psutil

from benchmarks.busy import watched
from benchmarks.machine import describe_machine
from benchmarks.processes import cache_folders, environment, run_alone, write_plugin
from benchmarks.report import Report, print_table, read_result, write_result

# Ids that every tokenizer has and that mean nothing special.
LOWEST_ID, HIGHEST_ID = 16, 200
Piece = tuple[float, int]


async def decode(engine: Any, prompt: Sequence[int], tokens: int, rule: Any, name: str) -> list[Piece]:
    """Write exactly `tokens` tokens; returns when each piece came, and how many tokens there were then."""
    from app.vllm_compat import RequestOutputKind, SamplingParams

    params = SamplingParams(
        temperature=0.0,
        max_tokens=tokens,
        ignore_eos=True,
        skip_special_tokens=False,
        extra_args=rule.extra_args(),
        output_kind=RequestOutputKind.DELTA,
    )
    pieces: list[Piece] = []
    async with aclosing(engine.generate({"prompt_token_ids": list(prompt)}, params, name)) as outputs:
        async for output in outputs:
            count = (pieces[-1][1] if pieces else 0) + len(output.outputs[0].token_ids)
            pieces.append((time.perf_counter(), count))
    return pieces


async def measure(engine: Any, sequences: int, options: argparse.Namespace, rule: Any) -> dict[str, Any]:
    """Run so many sequences side by side."""
    draws = random.Random(sequences)
    prompts = [draws.choices(range(LOWEST_ID, HIGHEST_ID), k=options.prompt) for _ in range(sequences)]
    with watched() as busy:
        started = time.perf_counter()
        runs = await asyncio.gather(
            *(
                decode(engine, prompt, options.tokens, rule, f"{sequences}-{rule.size}-{number}")
                for number, prompt in enumerate(prompts)
            )
        )
        seconds = time.perf_counter() - started
    step = step_seconds(runs)
    return {
        "seconds": round(seconds, 2),
        "prefill_s": round(max(pieces[0][0] for pieces in runs) - started, 2),
        "ms_a_step": step and round(step * 1000, 3),
        "tokens_per_s": step and round(sequences / step),
        **busy,
    }


def step_seconds(runs: Sequence[Sequence[Piece]]) -> float | None:
    """Return the seconds a step takes while all sequences decode; None where they never do."""
    last = max(runs, key=lambda pieces: pieces[0][0])
    end = min(pieces[-1][0] for pieces in runs)
    within = [piece for piece in last if piece[0] <= end]
    if len(within) < 2:
        return None
    (begun, before), (ended, after) = within[0], within[-1]
    return (ended - begun) / (after - before)


async def run_variant(options: argparse.Namespace, variant: dict[str, Any], report: Report) -> None:
    """Start the engine as the service does, and measure every number of sequences."""
    from app.engine.vllm_loading import Loading
    from app.engines import vllm_options
    from app.settings import Settings
    from app.vllm_compat import shutdown
    from app.vllm_models.ngram_state import PUBLISHED, NgramRule

    asked = {"dtype": options.dtype} | variant.pop("engine_args", {})
    base = {"model_path": str(options.model), "max_num_seqs": max(options.sequences), "enforce_eager": options.eager}
    settings = base | {"max_model_len": options.max_model_len, "engine_args": json.dumps(asked)} | variant
    engine, _ = await Loading(vllm_options(Settings(_env_file=None, **settings))).run()
    try:
        report.add("start", {"ready_s": round(time.time() - psutil.Process().create_time(), 1)})
        await measure(engine, min(options.sequences), options, PUBLISHED)  # whatever the first steps compile
        for sequences in options.sequences:
            for name, rule in (("rule on", PUBLISHED), ("rule off", NgramRule(0))):
                report.add(f"{sequences} sequences, {name}", await measure(engine, sequences, options, rule))
    finally:
        shutdown(engine, 5)


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    if options.job:
        variant = json.loads(options.job)
        asyncio.run(run_variant(options, variant, Report(options.json, options.job)))
        gc.collect()  # vLLM's objects refer to each other in circles, and complain at the interpreter's end
        return 0
    with ExitStack() as stack:
        work = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gpu-decode-")))
        options.json = (options.json or work / "decode.json").resolve()
        write_result(options.json, {"command": arguments, "machine": describe_machine(), "parts": {}})
        variables = environment(write_plugin(work)) | cache_folders(work)
        variables.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        faults = []
        for variant in options.variant or [{}]:
            job = json.dumps(variant)
            own = [*arguments, "--json", str(options.json), "--job", job]
            faults.append(run_alone("benchmarks.gpu_decode", own, variables, options.part_timeout))
            if faults[-1]:
                Report(options.json, job).add("whole variant", {"failed": faults[-1]})
        result = read_result(options.json)
    print(json.dumps(result["machine"]))
    print_table(result)
    return int(any(faults))


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=lambda name: Path(name).resolve(), required=True, help="a model folder")
    parser.add_argument("--sequences", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--prompt", type=int, default=900, help="tokens of each prompt")
    parser.add_argument("--tokens", type=int, default=200, help="tokens written by each sequence")
    parser.add_argument("--variant", action="append", type=json.loads, metavar="JSON", help="settings; default: {}")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--max-model-len", type=int, default=8192)
    parser.add_argument("--eager", action="store_true", help="without compiled graphs")
    parser.add_argument("--part-timeout", type=float, default=600)
    parser.add_argument("--work", type=lambda name: Path(name).resolve(), help="keep what is compiled here")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
