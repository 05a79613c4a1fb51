"""The service with vLLM over HTTP, measured, and its answers compared with those of the class that vLLM ships.

    python -m tools.random_checkpoint DIR --size full        # or the published weights
    python -m benchmarks.gpu_service --model DIR --uploads 64 --tokens 256

Starts the service as a person does, sends the uploads at the same moment, then the same ones again as streams, then a
few one after another. Afterwards vLLM's own class reads the same pages offline, with the same prompt and the same
no-repeat n-gram rule. Greedy choices between tokens that are almost equally likely fall by rounding, which depends
on what else is in the batch: so each side is also compared with itself, and for each page that differs the distance
of the two best tokens at that place is given. `--dtype float32` leaves little to rounding.

Needs vLLM, and torchvision, which vLLM's class imports. Exits with 1 when an answer is not 200.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.pages import render_page
from benchmarks.parity import write_plugin
from benchmarks.service import served

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Answer:
    """One answer: seconds from the first byte sent to the first text and to the end; `body` is the JSON."""

    status: int
    first_s: float
    total_s: float
    body: dict[str, Any]


def draw_page(number: int) -> bytes:
    """Draw one page, every fourth in Chinese, as the JPEG a client would upload."""
    page = render_page("chinese" if number % 4 == 3 else "latin", 9000 + number)
    buffer = io.BytesIO()
    page.image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


async def upload(client: httpx.AsyncClient, page: bytes, tokens: int, stream: bool) -> Answer:
    """Send one page and read its whole answer."""
    form = {"mode": "plain_ocr", "max_tokens": str(tokens), "stream": str(stream).lower()}
    started, first, event, data = time.perf_counter(), 0.0, "", ""
    files = {"image": ("page.jpg", page, "image/jpeg")}
    async with client.stream("POST", "/api/ocr", files=files, data=form) as response:
        if not stream or response.status_code != 200:
            text = (await response.aread()).decode()
            seconds = time.perf_counter() - started
            return Answer(response.status_code, seconds, seconds, json.loads(text))
        async for line in response.aiter_lines():
            if line.startswith("event:"):
                event = line.removeprefix("event:").strip()
                first = first or time.perf_counter() - started
            elif line.startswith("data:") and event in ("result", "error"):
                data = line.removeprefix("data:")
    status = 200 if event == "result" else 500
    return Answer(status, first, time.perf_counter() - started, json.loads(data))


async def send_all(url: str, pages: Sequence[bytes], tokens: int, stream: bool) -> tuple[list[Answer], float]:
    """Send every page at the same moment; returns the answers and the seconds until the last."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=900, limits=limits, trust_env=False) as client:
        started = time.perf_counter()
        answers = await asyncio.gather(*(upload(client, page, tokens, stream) for page in pages))
        return list(answers), time.perf_counter() - started


async def send_in_turn(url: str, pages: Sequence[bytes], tokens: int) -> list[Answer]:
    """Send pages one after another, as streams."""
    async with httpx.AsyncClient(base_url=url, timeout=900, trust_env=False) as client:
        return [await upload(client, page, tokens, True) for page in pages]


def summarise(answers: list[Answer], seconds: float) -> dict[str, Any]:
    """Return the figures of a load; times in seconds."""
    good = [answer for answer in answers if answer.status == 200]
    tokens = sum(answer.body["usage"]["output_tokens"] for answer in good)
    problems = [answer.body for answer in answers if answer.status != 200]
    return {
        "uploads": len(answers),
        "statuses": dict(Counter(str(answer.status) for answer in answers)),
        "problem": problems[0] if problems else None,
        "seconds": round(seconds, 2),
        "pages_per_s": round(len(good) / seconds, 2),
        "output_tokens": tokens,
        "image_tokens": sum(answer.body["usage"]["image_tokens"] for answer in good),
        "tokens_per_s": round(tokens / seconds, 1),
        "finish": dict(Counter(answer.body["finish_reason"] for answer in good)),
        "looped": sum(answer.body["looped"] for answer in good),
        "latency_s": percentiles([answer.total_s for answer in good]),
        "first_text_s": percentiles([answer.first_s for answer in good if answer.first_s < answer.total_s]),
        "stages_ms": {
            stage: percentiles([answer.body["timing"][stage] for answer in good])
            for stage in (good[0].body["timing"] if good else ())
        },
    }


def percentiles(values: list[float]) -> dict[str, float]:
    return {f"p{which}": round(float(np.percentile(values, which)), 3) for which in (50, 99)} if values else {}


def measure_service(options: argparse.Namespace, pages: list[bytes], work: Path) -> dict[str, Any]:
    """Run the service through every load; returns figures and, under "texts", the answers of the first two."""
    log = options.log or work / "service.log"
    started = time.monotonic()
    with served(log, ready_timeout=options.ready_timeout, **service_settings(options, work)) as service:
        ready = time.monotonic() - started
        print(f"service ready after {ready:.1f} s", flush=True)
        asyncio.run(send_in_turn(service.url, pages[:1], options.tokens))
        loads, texts = {}, []
        for name, stream in (("at once", False), ("at once, streamed", True)):
            answers, seconds = asyncio.run(send_all(service.url, pages, options.tokens, stream))
            loads[name] = summarise(answers, seconds)
            texts.append([answer.body.get("raw_text", "") for answer in answers])
            print(name, json.dumps(loads[name]), flush=True)
            if options.quick:
                break
        started = time.perf_counter()
        alone = asyncio.run(send_in_turn(service.url, pages[: 2 if options.quick else 8], options.tokens))
        loads["one at a time"] = summarise(alone, time.perf_counter() - started)
        for load in options.load:
            uploads, tokens = map(int, load.split(":"))
            many = [pages[number % len(pages)] for number in range(uploads)]
            answers, seconds = asyncio.run(send_all(service.url, many, tokens, False))
            loads[f"{uploads} at once, {tokens} tokens"] = summarise(answers, seconds)
        index = httpx.get(f"{service.url}/", timeout=30).json()
    return {"ready_s": round(ready, 1), "loads": loads, "texts": texts, "service": index}


def service_settings(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Return the service's environment: as few settings as the comparison needs."""
    most = max([options.uploads, *(int(load.split(":")[0]) for load in options.load)])
    return {
        **{name: value for name, value in environment(work).items() if name.isupper()},
        "inference_engine": "vllm_direct",
        "model_path": options.model.resolve(),
        "max_model_len": options.max_model_len,
        "max_queue": max(64, most),
        "enforce_eager": options.eager,
        "engine_args": json.dumps({"dtype": options.dtype}),
        "loop_retries": 0,  # a second reading under other settings could not be compared
        "request_timeout_seconds": 900,
    } | dict(setting.split("=", 1) for setting in options.setting)


def environment(work: Path) -> dict[str, str]:
    paths = [str(ROOT / "backend"), str(ROOT), str(work / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "HF_HUB_OFFLINE": "1",
        "VLLM_USE_V2_MODEL_RUNNER": "0",
    }


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
    variables = environment(work) | {"VLLM_ALLOW_INSECURE_SERIALIZATION": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
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


def machine() -> dict[str, Any]:
    import torch
    import transformers
    import vllm

    return {
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cpus": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "vllm": vllm.__version__,
    }


def write_json(options: argparse.Namespace, result: dict[str, Any]) -> None:
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


def print_table(result: dict[str, Any]) -> None:
    for name, figures in result["loads"].items():
        times = {key: list(figures[key].values()) for key in ("latency_s", "first_text_s")}
        print(
            f"{name:<28} {figures['pages_per_s']:>7} pages/s {figures['tokens_per_s']:>9} tokens/s  "
            f"latency p50/p99 {times['latency_s']}  first text p50/p99 {times['first_text_s']}  {figures['statuses']}"
        )
    if "texts" in result:
        parted = result["texts"]["parted"]
        gaps = [page["gap"] for page in parted if page["gap"] is not None]
        print(f"same text on both sides: {result['texts']['equal']} of {result['texts']['pages']} pages", end="")
        if parted:
            print(f"; the others part at token {np.median([page['token'] for page in parted]):g} (median)", end="")
        print(f", the best two there {np.median(gaps):g} apart (median)" if gaps else "")
    for name in ("machine", "peer", "own_answers_equal_twice", "peer_equal_to_itself", "embeddings"):
        if name in result:
            print(f"{name}: {json.dumps(result[name])}")


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    with tempfile.TemporaryDirectory(prefix="gpu-service-") as folder:
        work = Path(folder)
        write_plugin(work)
        (work / "pages").mkdir()
        with ProcessPoolExecutor() as pool:
            pages = list(pool.map(draw_page, range(options.uploads)))
        for number, page in enumerate(pages):
            (work / "pages" / f"{number:04}.jpg").write_bytes(page)
        result = {"command": " ".join(arguments), **measure_service(options, pages, work)}
        texts = result.pop("texts")
        if len(texts) == 2:
            result["own_answers_equal_twice"] = agreement(*texts)
        result["machine"] = machine()
        write_json(options, result)
        if not options.no_peer:
            peer, theirs = run_part("peer", options, work)
            from transformers import PreTrainedTokenizerFast

            tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(options.model / "tokenizer.json"))
            names = ("vllm", "class", "ready_s", "seconds")
            result["peer"] = {name: peer[name] for name in names}
            result["peer"]["pages_per_s"] = round(len(pages) / peer["seconds"], 2)
            result["peer"]["output_tokens"] = sum(map(len, peer["tokens"]))
            result["peer_equal_to_itself"] = agreement(peer["tokens"], peer["again"])
            result["texts"] = compare_texts(texts[0], peer, tokenizer.decode)
            encoder, ours = run_part("encoder", options, work)
            result["encoder"] = encoder
            result["embeddings"] = compare_embeddings(ours, theirs, options.dtype)
    print_table(result)
    write_json(options, result)
    return int(any(set(load["statuses"]) != {"200"} for load in result["loads"].values()))


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a model folder")
    parser.add_argument("--uploads", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=256, help="most tokens of output of each page")
    parser.add_argument("--load", action="append", default=[], metavar="UPLOADS:TOKENS", help="a further load")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--max-model-len", type=int, default=8192)
    parser.add_argument("--eager", action="store_true", help="both sides without compiled graphs")
    parser.add_argument("--embeddings", type=int, default=4, help="pages whose image embeddings are compared too")
    parser.add_argument("--quick", action="store_true", help="the first load only, for the comparison")
    parser.add_argument("--no-peer", action="store_true", help="measure the service only")
    parser.add_argument("--setting", action="append", default=[], metavar="NAME=VALUE", help="of the service")
    parser.add_argument("--ready-timeout", type=float, default=600)
    parser.add_argument("--log", type=Path, help="keep the service's log here")
    parser.add_argument("--json", type=Path, help="also write the result here")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
