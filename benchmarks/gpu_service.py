"""The service's answers with vLLM over HTTP, compared with those of the class that vLLM ships.

    python -m tools.random_checkpoint DIR --size full        # or the published weights
    python -m benchmarks.gpu_service --model DIR --uploads 64 --tokens 256

Starts the service as a person does, sends the uploads at the same moment, then the same ones again as streams.
Afterwards vLLM's own class reads the same pages offline, with the same prompt and the same no-repeat n-gram rule.
Greedy choices between tokens that are almost equally likely fall by rounding, which depends
on what else is in the batch: so each side is also compared with itself, and for each page that differs the distance
of the two best tokens at that place is given. `--dtype float32` leaves little to rounding. How fast both are, on as
many pages as they can take, measures benchmarks.gpu_rate.

Needs vLLM, and torchvision, which vLLM's class imports. Exits with 1 when an answer is not 200.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import describe_machine
from benchmarks.processes import PEER_RUNNER, ROOT, environment, write_operators, write_plugin
from benchmarks.service import served
from benchmarks.uploads import Load, draw_pages, run_load, summarise


def measure_service(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Send all uploads at once, twice; returns the figures of both times and, under "texts", the answers."""
    log = options.log or work / "service.log"
    started = time.monotonic()
    with served(log, ready_timeout=options.ready_timeout, **service_settings(options, work)) as service:
        ready = time.monotonic() - started
        print(f"service ready after {ready:.1f} s", flush=True)
        loads, texts = {}, []
        for name, stream in (("at once", False), ("at once, streamed", True)):
            answers, _ = run_load(service.url, Load(work / "pages", options.uploads, options.tokens, stream=stream))
            loads[name] = summarise(answers)
            texts.append([answer.text for answer in answers])
    return {"ready_s": round(ready, 1), "loads": loads, "texts": texts}


def service_settings(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Return the service's environment: as few settings as the comparison needs."""
    return {
        **{name: value for name, value in environment(work / "site").items() if name.isupper()},
        "inference_engine": "vllm_direct",
        "model_path": options.model.resolve(),
        "max_model_len": options.max_model_len,
        "max_queue": max(64, options.uploads),
        "enforce_eager": options.eager,
        "engine_args": json.dumps({"dtype": options.dtype}),
        "loop_retries": 0,  # a second reading under other settings could not be compared
        "request_timeout_seconds": 900,
    } | dict(setting.split("=", 1) for setting in options.setting)


def run_part(part: str, options: argparse.Namespace, work: Path) -> tuple[dict[str, Any], Any]:
    """Run one part of gpu_peer in a process of its own; returns its JSON and its tensors."""
    import torch

    out = work / f"{part}.json"
    # Not "-m": functions sent to vLLM's worker must not live in __main__.
    start = "import sys; from benchmarks.gpu_peer import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", start, part, "--pages", str(work / "pages"), "--out", str(out)]
    for name in ("model", "tokens", "dtype", "max_model_len", "embeddings"):
        command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    command += ["--eager"] * options.eager
    more = [write_operators(work), options.torchvision.resolve()] if options.torchvision and part == "peer" else []
    variables = (
        environment(work / "site", *more)
        | (PEER_RUNNER if part == "peer" else {})
        | {
            "VLLM_ALLOW_INSECURE_SERIALIZATION": "1",
            "VLLM_LOGGING_LEVEL": "WARNING",
        }
    )
    subprocess.run(command, cwd=ROOT, env=variables, check=True)
    return json.loads(out.read_text()), torch.load(out.with_suffix(".pt"))


def compare_texts(ours: list[str], peer: dict[str, Any], decode: Callable[[list[int]], str]) -> dict[str, Any]:
    """Return how many pages have the same text on both sides and, for the others, where they part.

    The service's answers are text, so the token at which a page parts is the first one that the common text lacks.
    """
    parted, equal = [], 0
    for number, (mine, other, tokens) in enumerate(zip(ours, peer["texts"], peer["tokens"], strict=True)):
        if mine == other:
            equal += 1
            continue
        common = other[
            : next((i for i, pair in enumerate(zip(mine, other, strict=False)) if pair[0] != pair[1]), len(mine))
        ]
        low, high = 0, len(tokens)
        while low < high:
            middle = (low + high + 1) // 2
            fits = common.startswith(decode(tokens[:middle]).rstrip("\ufffd"))
            low, high = (middle, high) if fits else (low, middle - 1)
        again = peer["again"][number]
        known = tokens[:low] == again[:low] and low < len(peer["gaps"][number])
        parted.append({"page": number, "token": low, "gap": peer["gaps"][number][low] if known else None})
    return {"pages": len(ours), "equal": equal, "parted": parted}


def agreement(first: Sequence[Any], second: Sequence[Any]) -> int:
    return sum(a == b for a, b in zip(first, second, strict=True))


def compare_embeddings(ours: dict[str, list[Any]], theirs: list[Any], dtype: str) -> list[dict[str, float]]:
    """Return, page by page, root mean square differences relative to the embeddings' own."""

    def rms(values: Any) -> float:
        return float(values.double().square().mean().sqrt())

    rows = []
    for mine, exact, other in zip(ours[dtype], ours["float32"], theirs, strict=True):
        scale = rms(exact)
        rows.append(
            {
                "image_tokens": len(mine),
                "ours_to_theirs": round(rms(mine - other) / scale, 6),
                "ours_to_float32": round(rms(mine - exact) / scale, 6),
                "theirs_to_float32": round(rms(other - exact) / scale, 6),
            }
        )
    return rows


def write_json(options: argparse.Namespace, result: dict[str, Any]) -> None:
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


def print_table(result: dict[str, Any]) -> None:
    for name, figures in result["loads"].items():
        print(f"{name:<18} {figures['pages_per_s']} pages/s, {figures['tokens_per_s']} tokens/s, {figures['statuses']}")
    parted = result["texts"]["parted"]
    gaps = [page["gap"] for page in parted if page["gap"] is not None]
    print(f"same text on both sides: {result['texts']['equal']} of {result['texts']['pages']} pages", end="")
    if parted:
        print(f"; the others part at token {np.median([page['token'] for page in parted]):g} (median)", end="")
    print(f", the best two there {np.median(gaps):g} apart (median)" if gaps else "")
    for name in ("machine", "peer", "own_answers_equal_twice", "peer_equal_to_itself", "embeddings"):
        print(f"{name}: {json.dumps(result[name])}")


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    with tempfile.TemporaryDirectory(prefix="gpu-service-") as folder:
        work = Path(folder)
        write_plugin(work)
        draw_pages(work / "pages", options.uploads)
        result = {"command": " ".join(arguments), "machine": describe_machine(), **measure_service(options, work)}
        texts = result.pop("texts")
        result["own_answers_equal_twice"] = agreement(*texts)
        write_json(options, result)
        peer, theirs = run_part("peer", options, work)
        from transformers import PreTrainedTokenizerFast

        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(options.model / "tokenizer.json"))
        result["peer"] = {name: peer[name] for name in ("vllm", "class", "ready_s", "seconds")}
        result["peer"]["pages_per_s"] = round(options.uploads / peer["seconds"], 2)
        result["peer"]["output_tokens"] = sum(map(len, peer["tokens"]))
        result["peer_equal_to_itself"] = agreement(peer["tokens"], peer["again"])
        result["texts"] = compare_texts(texts[0], peer, tokenizer.decode)
        result["encoder"], ours = run_part("encoder", options, work)
        result["embeddings"] = compare_embeddings(ours, theirs, options.dtype)
    print_table(result)
    write_json(options, result)
    return int(any(set(load["statuses"]) != {"200"} for load in result["loads"].values()))


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a model folder")
    parser.add_argument("--uploads", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=256, help="most tokens of output of each page")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--max-model-len", type=int, default=8192)
    parser.add_argument("--eager", action="store_true", help="both sides without compiled graphs")
    parser.add_argument("--embeddings", type=int, default=4, help="pages whose image embeddings are compared too")
    parser.add_argument("--setting", action="append", default=[], metavar="NAME=VALUE", help="of the service")
    parser.add_argument("--torchvision", type=Path, help="a folder with torchvision, where none is installed")
    parser.add_argument("--ready-timeout", type=float, default=600)
    parser.add_argument("--log", type=Path, help="keep the service's log here")
    parser.add_argument("--json", type=Path, help="also write the result here")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
