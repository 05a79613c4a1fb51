"""Milliseconds a view of our vision encoder, as it is and in the ways it could be run.

    python -m benchmarks.gpu_encoder --model DIR --json encoder.json
    python -m benchmarks.gpu_encoder --model DIR --profile

DIR needs a config.json only: the weights are random, by a seed. Global views and tiles are encoded in batches of several
sizes by each variant: as it is (eager), each block compiled, the whole compiled, captured as a CUDA graph. `first_s` is
the first call, with its compilation; `again_s` the same once more in a process that forgot it, from what is kept on
disk. `rms` is the root mean square of the difference from eager float32, relative to it; `off` the same from eager in
this number format. `--attention` times the ways to attend with relative positions alone (see benchmarks.attention).

Runs on a CPU too, where what needs a GPU is left out and said so.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch._dynamo
from torch import Tensor

from app.vllm_models import deepencoder
from app.vllm_models.deepencoder import DeepEncoder, Encode, EncoderConfig, has_kernel
from app.vllm_models.encoder_passes import EncoderPasses
from benchmarks.attention import measure_attention
from benchmarks.machine import describe_machine
from benchmarks.report import Report, write_result
from tools.random_checkpoint import random_tensor

# Side in pixels, and how many views at once.
CASES = ((1024, (1, 8, 16)), (640, (6, 24, 48, 96)))
# A variant is timed for about this long, after one call that counts apart.
TIMED_SECONDS = 0.3
# Blocks differ by window, width and batch, and each difference compiles its code anew.
MOST_RECOMPILATIONS = 256
PROFILED_ROWS = 25


class Unavailable(RuntimeError):
    """This variant cannot run here; the message says why."""


def make_encoder(model: Path, seed: int) -> DeepEncoder:
    """Return the encoder that a model folder's config.json describes, with random weights, in bfloat16."""
    encoder = DeepEncoder(EncoderConfig.from_hf(json.loads((model / "config.json").read_text())))
    for name, parameter in encoder.named_parameters():
        parameter.data = random_tensor(f"model.{name}", tuple(parameter.shape), seed)
    encoder.eval().requires_grad_(False)
    return encoder


def blocks_of(encoder: DeepEncoder) -> list[torch.nn.Module]:
    return [*encoder.sam_model.blocks, *encoder.vision_model.transformer.layers]


def eager(encoder: DeepEncoder) -> Encode:
    return encoder


def compiled_blocks(encoder: DeepEncoder, dynamic: bool = False) -> Encode:
    """Compile each block on its own; blocks of a kind share their code."""
    for block in blocks_of(encoder):
        block.compile(dynamic=dynamic)
    return encoder


def compiled_blocks_dynamic(encoder: DeepEncoder) -> Encode:
    """The same, for any number of views at once."""
    return compiled_blocks(encoder, dynamic=True)


def compiled_whole(encoder: DeepEncoder) -> Encode:
    compiled: Encode = torch.compile(encoder, dynamic=False)
    return compiled


def autotuned_blocks(encoder: DeepEncoder) -> Encode:
    """Compile each block with Triton's matrix products tried out; takes minutes."""
    for block in blocks_of(encoder):
        block.compile(dynamic=False, mode="max-autotune-no-cudagraphs")
    return encoder


def captured(encoder: DeepEncoder) -> Encode:
    return capture(encoder)


def captured_blocks(encoder: DeepEncoder) -> Encode:
    """Compile each block, and capture the whole."""
    return capture(compiled_blocks(encoder))


def as_served(encoder: DeepEncoder) -> Encode:
    """As the service runs it for views of these sides: blocks compiled for any number of views, few views captured."""
    return EncoderPasses(encoder, [side for side, _ in CASES])


def channels_last(encoder: DeepEncoder) -> Encode:
    """Keep the convolutions' weights and features with channels last."""
    for part in (encoder.sam_model.neck, encoder.sam_model.net_2, encoder.sam_model.net_3):
        part.to(memory_format=torch.channels_last)
    return encoder


def mask_everywhere(encoder: DeepEncoder) -> Encode:
    """Attend with the positions as a mask, as in float32, instead of with our kernel."""
    if not has_kernel(encoder.image_newline):
        raise Unavailable("on a CPU and in float32 the encoder attends by mask alone")

    def encode(pixels: Tensor) -> Tensor:
        with mock.patch.object(deepencoder, "has_kernel", return_value=False):
            return encoder(pixels)

    return encode


VARIANTS: dict[str, Callable[[DeepEncoder], Encode]] = {
    function.__name__: function
    for function in (
        eager,
        channels_last,
        mask_everywhere,
        captured,
        compiled_blocks,
        compiled_blocks_dynamic,
        captured_blocks,
        as_served,
        compiled_whole,
        autotuned_blocks,
    )
}
DEFAULT_VARIANTS = [name for name in VARIANTS if name != "autotuned_blocks"]
COMPILED = {
    "compiled_blocks",
    "compiled_blocks_dynamic",
    "captured_blocks",
    "as_served",
    "compiled_whole",
    "autotuned_blocks",
}


def capture(encode: Encode) -> Encode:
    """Return a function that replays a CUDA graph, captured anew for each number and size of views."""
    if not torch.cuda.is_available():
        raise Unavailable("there is no GPU to capture a graph on")
    graphs: dict[torch.Size, tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}

    def replay(pixels: Tensor) -> Tensor:
        if pixels.shape not in graphs:
            given = pixels.clone()
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(2):
                    encode(given)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                result = encode(given)
            graphs[pixels.shape] = graph, given, result
        graph, given, result = graphs[pixels.shape]
        given.copy_(pixels)
        graph.replay()
        return result

    return replay


def on_gpu(encoder: DeepEncoder) -> bool:
    return bool(encoder.image_newline.is_cuda)


def make_views(side: int, count: int, device: str, seed: int) -> Tensor:
    """Return random pixels, uint8 (count, side, side, 3)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, generator=generator).to(device)


def seconds_of(work: Callable[[], Any], device: str) -> float:
    """Return the seconds one call takes, until the GPU is done."""
    started = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def mean_seconds(work: Callable[[], Any], device: str) -> float:
    """Return what a call takes on average over TIMED_SECONDS, the GPU kept busy all the time."""
    once = seconds_of(work, device)
    count = max(1, min(100, round(TIMED_SECONDS / max(once, 1e-6))))
    return seconds_of(lambda: [work() for _ in range(count)], device) / count


def rms(values: Tensor) -> float:
    return float(values.double().square().mean().sqrt())


class Bench:
    """The encoder in one number format on one device, and what eager float32 makes of the first case of each side."""

    def __init__(self, encoder: DeepEncoder, options: argparse.Namespace) -> None:
        self.options = options
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.encoder = encoder.to(self.device, getattr(torch, options.dtype))
        self.exact: dict[int, Tensor] = {}
        self.plain: dict[int, Tensor] = {}
        exact = copy.deepcopy(self.encoder).float()
        for side, counts in options.cases:
            views = make_views(side, counts[0], self.device, side)
            self.exact[side], self.plain[side] = exact(views).cpu(), self.encoder(views).cpu()

    def run(self, name: str, report: Report) -> None:
        """Measure one variant in every case."""
        try:
            for side, counts in self.options.cases:
                encode = self.prepare(name)
                for count in counts:
                    report.add(f"{count} of {side}", self.measure(encode, side, count))
            if name in COMPILED:
                side, counts = self.options.cases[0]
                again = self.prepare(name)
                views = make_views(side, counts[0], self.device, side)
                report.add("compiled again", {"again_s": round(seconds_of(lambda: again(views), self.device), 2)})
        except Unavailable as reason:
            report.add("left out", {"reason": str(reason)})
        except Exception as error:  # noqa: BLE001 - one variant that fails must not cost the others
            report.add("failed", {"failed": f"{type(error).__name__}: {str(error)[:500]}"})

    def prepare(self, name: str) -> Encode:
        """Return the variant, made on a copy of the encoder with nothing compiled in this process."""
        torch.compiler.reset()
        if self.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        return VARIANTS[name](copy.deepcopy(self.encoder))

    def measure(self, encode: Encode, side: int, count: int) -> dict[str, Any]:
        views = make_views(side, count, self.device, side)
        first = seconds_of(lambda: encode(views), self.device)
        seconds = mean_seconds(lambda: encode(views), self.device)
        figures = {"ms_a_view": round(seconds * 1000 / count, 3), "first_s": round(first, 2)}
        if self.device == "cuda":
            figures["peak_mib"] = round(torch.cuda.max_memory_allocated() / 2**20)
        if count == len(self.exact[side]):
            result, exact, plain = encode(views).cpu().float(), self.exact[side], self.plain[side].float()
            scale = rms(exact)
            figures["rms"] = round(rms(result - exact) / scale, 7)
            figures["off"] = round(rms(result - plain) / scale, 7)
            figures["largest_off"] = round(float((result - plain).abs().max()) / scale, 6)
        return figures


def profile(bench: Bench) -> None:
    """Print where eager's time goes, for the second case of each side."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if bench.device == "cuda" else [])]
    for side, counts in bench.options.cases:
        count = counts[min(1, len(counts) - 1)]
        views = make_views(side, count, bench.device, side)
        for _ in range(2):
            bench.encoder(views)
        with profiled(activities=activities) as profiler:
            bench.encoder(views)
            if bench.device == "cuda":
                torch.cuda.synchronize()
        print(f"{count} views of {side}")
        order = f"self_{bench.device}_time_total"
        print(profiler.key_averages().table(sort_by=order, row_limit=PROFILED_ROWS, max_name_column_width=90))


def print_table(parts: dict[str, dict[str, dict[str, Any]]]) -> None:
    for name, loads in parts.items():
        for load, figures in loads.items():
            print(f"{name:<24} {load:<24} " + "  ".join(f"{key} {value}" for key, value in figures.items()))


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    torch.backends.cudnn.allow_tf32 = False  # float32 is what the others are held against
    torch._dynamo.config.recompile_limit = MOST_RECOMPILATIONS
    torch._dynamo.config.accumulated_recompile_limit = 4 * MOST_RECOMPILATIONS
    with contextlib.ExitStack() as stack:
        if options.json is None:
            options.json = Path(stack.enter_context(tempfile.TemporaryDirectory()), "encoder.json")
        cache = options.cache or stack.enter_context(tempfile.TemporaryDirectory(prefix="gpu-encoder-"))
        os.environ |= {"TORCHINDUCTOR_CACHE_DIR": f"{cache}/inductor", "TRITON_CACHE_DIR": f"{cache}/triton"}
        write_result(options.json, {"machine": describe_machine(), "dtype": options.dtype, "parts": {}})
        with torch.inference_mode():
            bench = Bench(make_encoder(options.model, options.seed), options)
            if options.profile:
                profile(bench)
                return 0
            if options.attention:
                measure_attention(bench.encoder, options.cases, Report(options.json, "attention"), mean_seconds)
            for name in options.variants:
                bench.run(name, Report(options.json, name))
        print_table(json.loads(options.json.read_text())["parts"])
    return 0


def parse_cases(text: str) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """Read "1024:1,8;640:6" as sides and numbers of views."""
    pairs = (case.split(":") for case in text.split(";"))
    return tuple((int(side), tuple(map(int, counts.split(",")))) for side, counts in pairs)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a folder with a config.json")
    parser.add_argument("--variants", nargs="*", choices=VARIANTS, default=DEFAULT_VARIANTS)
    parser.add_argument("--attention", action="store_true", help="time the ways to attend alone, first")
    parser.add_argument("--profile", action="store_true", help="only print where eager's time goes")
    parser.add_argument("--cases", type=parse_cases, default=CASES, metavar="SIDE:COUNT,COUNT;SIDE:COUNT")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, help="keep what is compiled here; default: nothing is kept")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
