"""How many pages a second a GPU reads: the service in process and over HTTP, and the class that vLLM ships, in one run.

    python -m tools.random_checkpoint DIR --size full        # or the published weights
    python -m benchmarks.gpu_rate --model DIR --json rate.json

Parts, each in processes of its own, one after the other:

- http: the service over loopback, uploads from client processes; its start with cold and with warm caches, which the
  parts after it use too.
- engine: the service's engine, decoders and reader on JPEG bytes, without HTTP, in every resolution asked for.
- cost: the engine again, with one of resolution, tokens and pages side by side varied; `python -m benchmarks.rate_cost` draws it.
- peer: vLLM's own class, offline, on the same pages already decoded, once for each --peer-variant.
- peer-serve: the same class behind `vllm serve`, with API server processes, renderer workers and encoder graphs.

The published no-repeat n-gram rule is on everywhere. The result holds the busiest threads of each load and what the
GPU did, and is written after every load. Exits with 1 when a part fails; the others still run.

Needs vLLM; torchvision for the peer, which vLLM's class imports; fonts for the pages (see benchmarks.pages).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine
from benchmarks.processes import PEER_RUNNER, cache_folders, environment, run_alone, write_operators, write_plugin
from benchmarks.report import Report, print_table, read_result, write_result
from benchmarks.uploads import draw_pages

PARTS = ("http", "engine", "cost", "peer", "peer-serve")
# Of the parts `engine` (all but `half`) and `http` (the last three); `half` is at half the rate that `full` has shown.
LOADS = ("prefill", "burst", "full", "alone", "half")
PEER_VARIANTS: tuple[dict[str, Any], ...] = ({}, {"max_num_seqs": 256}, {"max_num_seqs": 512})


def plan(options: argparse.Namespace) -> list[tuple[str, dict[str, Any]]]:
    """Return the parts to run, each with its own settings."""
    jobs: list[tuple[str, dict[str, Any]]] = []
    for part in options.parts:
        variants: list[dict[str, Any]] = [{}]
        if part == "engine":
            variants += options.variant
        elif part == "peer":
            variants = options.peer_variant or list(PEER_VARIANTS)
        jobs += [(part, variant) for variant in variants]
    return jobs


def service_settings(options: argparse.Namespace, variant: dict[str, Any]) -> dict[str, Any]:
    """Return the service's settings: the defaults but for what the loads need, and what was asked for."""
    asked = {name.lower(): value for name, value in (setting.split("=", 1) for setting in options.setting)}
    arguments = {"dtype": options.dtype} | json.loads(asked.pop("engine_args", "{}")) | variant.get("engine_args", {})
    return {
        "inference_engine": "vllm_direct",
        "model_path": str(options.model),
        "max_model_len": options.max_model_len,
        "max_queue": options.side_by_side + 64,
        "enforce_eager": options.eager,
        "loop_retries": 0,  # a random model's text may look like a loop, and would be read again
        "request_timeout_seconds": 900,
        "jobs_enabled": False,
        **asked,
        **variant,
        "engine_args": json.dumps(arguments),
    }


def run_job(options: argparse.Namespace, part: str, variant: dict[str, Any]) -> None:
    """Run one part, in its own process."""
    from benchmarks import rate_cost, rate_engine, rate_http, rate_peer

    report = Report(options.json, label(part, variant))
    if part == "engine":
        rate_engine.run(options, service_settings(options, variant), report)
    elif part == "cost":
        rate_cost.run(options, service_settings(options, variant), report)
    elif part == "http":
        rate_http.run(options, service_settings(options, variant), report)
    elif part == "peer":
        rate_peer.run_offline(options, variant, report)
    else:
        rate_peer.run_serve(options, variant, report)


def label(part: str, variant: dict[str, Any]) -> str:
    return f"{part} {json.dumps(variant)}" if variant else part


def start_job(options: argparse.Namespace, arguments: list[str], job: tuple[str, dict[str, Any]], site: Path) -> str:
    """Run one part in a process of its own; returns what went wrong, if anything."""
    peer = job[0].startswith("peer")
    more = [write_operators(options.work), options.torchvision.resolve()] if options.torchvision and peer else []
    variables = environment(site, *more) | cache_folders(options.work) | (PEER_RUNNER if peer else {})
    variables["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"  # apply_model sends a function
    variables.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    own = ["--work", str(options.work), "--json", str(options.json), "--job", json.dumps(job)]
    return run_alone("benchmarks.gpu_rate", [*arguments, *own], variables, options.part_timeout)


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    with contextlib.ExitStack() as stack:
        if options.work is None:
            options.work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gpu-rate-")))
        options.work = options.work.resolve()
        options.folder, options.site = options.work / "pages", options.work / "site"
        if options.job:
            run_job(options, *json.loads(options.job))
            return 0
        return run(options, arguments)


def run(options: argparse.Namespace, arguments: list[str]) -> int:
    """Draw the pages and run every part."""
    options.json = (options.json or options.work / "rate.json").resolve()
    started = time.monotonic()
    draw_pages(options.folder, max(options.pages, options.peer_pages))
    print(f"{options.pages} pages after {time.monotonic() - started:.0f} s", flush=True)
    site = write_plugin(options.work)
    write_result(options.json, {"command": arguments, "machine": describe_machine(), "parts": {}})
    for job in plan(options):
        started = time.monotonic()
        fault = start_job(options, arguments, job, site)
        seconds = {"seconds": round(time.monotonic() - started)}
        Report(options.json, label(*job)).add("whole part", seconds | ({"failed": fault} if fault else {}))
    result = read_result(options.json)
    print(json.dumps(result["machine"]))
    print_table(result)
    return int(any("failed" in loads["whole part"] for loads in result["parts"].values()))


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=lambda name: Path(name).resolve(), required=True, help="a model folder")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--pages", type=int, default=768, help="pages of each load, all different")
    parser.add_argument("--peer-pages", type=int, default=192, help="pages of the peer's loads, the first of those")
    parser.add_argument("--tokens", type=int, default=600, help="most tokens of output of each page")
    parser.add_argument("--side-by-side", type=int, default=384, help="pages under way in a closed loop")
    parser.add_argument("--resolutions", nargs="+", default=["gundam", "base"])
    parser.add_argument("--loads", nargs="+", choices=LOADS, default=LOADS, help="of `http` and `engine`")
    parser.add_argument("--clients", type=int, default=4, help="client processes")
    parser.add_argument("--setting", action="append", default=[], metavar="NAME=VALUE", help="of the service")
    parser.add_argument(
        "--variant",
        action="append",
        default=[],
        type=json.loads,
        metavar="JSON",
        help='run `engine` again with these settings too: \'{"max_num_seqs": 512, "engine_args": {"kv_cache_dtype": "fp8"}}\'',
    )
    parser.add_argument(
        "--peer-variant",
        action="append",
        type=json.loads,
        metavar="JSON",
        help="arguments of vLLM's LLM for one run of `peer`; default: none, 256 and 512 sequences",
    )
    parser.add_argument("--serve-args", default="", help="further arguments of `vllm serve`, in one string")
    parser.add_argument("--warm", action="store_true", help="`http` without the start with cold caches")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--max-model-len", type=int, default=8192)
    parser.add_argument("--eager", action="store_true", help="all sides without compiled graphs")
    parser.add_argument("--torchvision", type=Path, help="a folder with torchvision, where none is installed")
    parser.add_argument("--ready-timeout", type=float, default=600)
    parser.add_argument("--part-timeout", type=float, default=900)
    parser.add_argument("--work", type=Path, help="keep pages, caches and logs here, and use what is there")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
