"""What the GPU does while pages are read: the time of each kernel, and the engine core's calls, in a window of each load.

    python -m benchmarks.gpu_kernels --model DIR --json kernels.json
    python -m benchmarks.gpu_kernels --model DIR --variant '{"max_num_seqs": 512}'

The service's engine reads drawn pages without HTTP, as in the part `engine` of benchmarks.gpu_rate, and vLLM's profiler of
PyTorch records its core for a moment of each load. `busy` is the share of the moment in which at least one kernel ran; `steps` are
vLLM's, with the requests that began a page in them and those that wrote on, and the tokens of each. Recording makes what
runs on the CPU slower, by about half; kernels take their time. On a CPU PyTorch's operators stand for kernels.

Needs a vLLM with the argument `profiler_config`, and fonts for the pages (see benchmarks.pages).
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine
from benchmarks.processes import cache_folders, environment, run_alone, write_plugin
from benchmarks.rate_engine import read_all, started
from benchmarks.report import Report, read_result, write_result
from benchmarks.uploads import draw_pages

ON_GPU = ("kernel", "gpu_memcpy", "gpu_memset")
# Names of kernels may hold all their template's arguments.
NAME_LENGTH = 90
ROWS = 25

Event = dict[str, Any]


def summarise(events: Iterable[Event]) -> dict[str, Any]:
    """Return the figures of one trace: the events of PyTorch's profiler, whose times are in microseconds."""
    timed = [event for event in events if "dur" in event]
    ran = [event for event in timed if event.get("cat") in ON_GPU]
    ran = ran or [event for event in timed if event.get("cat") == "cpu_op"]
    spans = sorted((event["ts"], event["ts"] + event["dur"]) for event in ran)
    if not spans:
        return {"left_out": "nothing ran in this moment"}
    busy, end = 0.0, spans[0][0]
    for begun, ended in spans:
        busy += max(0.0, ended - max(begun, end))
        end = max(end, ended)
    span = end - spans[0][0]
    calls = [event for event in timed if event.get("cat") in ("cuda_runtime", "cuda_driver")]
    steps = [event for event in timed if event.get("cat") == "user_annotation" and "execute" in event["name"]]
    return {
        "ms": round(span / 1000, 2),
        "busy_percent": round(100 * busy / span),
        "steps": [{"what": step["name"], "ms_on_the_cpu": round(step["dur"] / 1000, 2)} for step in steps],
        "kernels": longest(ran),
        "calls": longest(calls),
    }


def longest(events: Iterable[Event]) -> list[dict[str, Any]]:
    """Return the names that took the most time together."""
    times, counts = Counter[str](), Counter[str]()
    for event in events:
        name = event["name"][:NAME_LENGTH]
        times[name] += event["dur"]
        counts[name] += 1
    return [{"ms": round(ms / 1000, 3), "count": counts[name], "name": name} for name, ms in times.most_common(ROWS)]


def read_traces(folder: Path, known: set[Path]) -> list[Event]:
    """Return the events of the traces that are new in a folder, and remember those."""
    new = sorted(set(folder.rglob("*.trace.json.gz")) - known)
    known.update(new)
    return [event for file in new for event in json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]]


async def measure(options: argparse.Namespace, variant: dict[str, Any], report: Report) -> None:
    """Start the service's engine, and record a moment of every load."""
    traces = options.work / "traces"
    traces.mkdir(parents=True, exist_ok=True)
    profiler = {"profiler": "torch", "torch_profiler_dir": str(traces), "torch_profiler_with_stack": False}
    arguments = {
        "dtype": options.dtype,
        "profiler_config": profiler | {"ignore_frontend": True, "torch_profiler_dump_cuda_time_total": False},
    }
    settings = {
        "inference_engine": "vllm_direct",
        "model_path": str(options.model),
        "max_model_len": options.max_model_len,
        "max_queue": options.pages + 64,
        "enforce_eager": options.eager,
        "loop_retries": 0,
        "request_timeout_seconds": 900,
        "jobs_enabled": False,
        **variant,
        "engine_args": json.dumps(arguments | variant.get("engine_args", {})),
    }
    async with started(settings) as app:
        vllm, reader = app.state.supervisor.engine._engine, app.state.reader
        files = sorted((options.work / "pages").glob("*.jpg"))[: options.pages]
        pages = await asyncio.to_thread(lambda: [file.read_bytes() for file in files])
        most = settings.get("max_num_seqs", 384)
        known: set[Path] = set()
        await read_all(reader, pages[:2], options.resolution, options.tokens, 0)  # whatever the first page compiles
        for name, some, tokens, at_once, delay in (
            ("1 token", pages, 1, 0, options.delays[0]),
            ("all write", pages[:most], options.tokens, 0, options.delays[1]),
            (f"{most} side by side", pages, options.tokens, most, options.delays[2]),
            ("one alone", pages[:1], options.tokens, 1, options.delays[3]),
        ):
            load = asyncio.create_task(read_all(reader, some, options.resolution, tokens, at_once))
            await asyncio.sleep(delay)
            await vllm.start_profile()
            await asyncio.sleep(options.window)
            await vllm.stop_profile()
            await load
            report.add(name, summarise(await asyncio.to_thread(read_traces, traces, known)))


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    if options.job:
        asyncio.run(measure(options, json.loads(options.job), Report(options.json, options.job)))
        return 0
    with ExitStack() as stack:
        options.work = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gpu-kernels-")))
        options.json = (options.json or options.work / "kernels.json").resolve()
        draw_pages(options.work / "pages", options.pages)
        write_result(options.json, {"command": arguments, "machine": describe_machine(), "parts": {}})
        variables = environment(write_plugin(options.work)) | cache_folders(options.work)
        variables.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        faults = []
        for variant in options.variant or [{}]:
            own = ["--work", str(options.work), "--json", str(options.json), "--job", json.dumps(variant)]
            faults.append(run_alone("benchmarks.gpu_kernels", [*arguments, *own], variables, options.part_timeout))
        print_tables(read_result(options.json))
    return int(any(faults))


def print_tables(result: dict[str, Any]) -> None:
    for part, loads in result["parts"].items():
        for load, figures in loads.items():
            if "left_out" in figures:
                print(f"\n{part} {load}: {figures['left_out']}")
                continue
            print(
                f"\n{part} {load}: {figures['ms']} ms, busy {figures['busy_percent']} %, {len(figures['steps'])} steps"
            )
            for row in figures["kernels"]:
                print(f"{row['ms']:10.3f} ms {row['count']:6d}  {row['name']}")


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=lambda name: Path(name).resolve(), required=True, help="a model folder")
    parser.add_argument("--pages", type=int, default=512, help="pages of each load, all different")
    parser.add_argument("--tokens", type=int, default=600, help="most tokens of output of each page")
    parser.add_argument("--resolution", default="gundam")
    parser.add_argument("--window", type=float, default=0.25, help="seconds that are recorded of each load")
    parser.add_argument(
        "--delays", type=float, nargs=4, default=[1.5, 9, 12, 0.6], help="seconds from each load's start to the record"
    )
    parser.add_argument("--variant", action="append", type=json.loads, metavar="JSON", help="settings; default: {}")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--max-model-len", type=int, default=8192)
    parser.add_argument("--eager", action="store_true", help="without compiled graphs")
    parser.add_argument("--part-timeout", type=float, default=600)
    parser.add_argument("--work", type=lambda name: Path(name).resolve(), help="keep pages and what is compiled here")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
