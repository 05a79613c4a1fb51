"""Compare our model module with the DeepSeek-OCR class that vLLM ships, on one seeded random checkpoint.

    make parity [ARGS="--pages 3"]
    python -m benchmarks.parity --torchvision FOLDER [--checkpoint FOLDER | --size encoder]

Both sides run in vLLM's own processes, one after the other, in Gundam; first in float32, then in bfloat16:

- Pixel values are equal exactly.
- In float32, image embeddings differ by at most FLOAT32_TOLERANCE of their root mean square, and greedy decoding under
  a no-repeat n-gram rule tight enough to act gives the same tokens.
- In bfloat16, embeddings differ by rounding: each side is held against itself in float32, and ours is no farther from
  it than theirs; and they are no farther apart than two independent errors of these sizes. Tokens are counted only: a
  random model's near ties fall either way.

vLLM's class imports torchvision; FOLDER holds one, for the release of PyTorch that is installed, without its compiled
libraries (see the Makefile). Ends with 1 where a comparison fails. Needs vLLM 0.32, and at full size 24 GiB of memory.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.processes import ROOT, write_operators, write_plugin

PROMPT = "<image>\nFree OCR."
NGRAM_SIZE, NGRAM_WINDOW = 3, 30
THEIR_RULE = "vllm.model_executor.models.deepseek_ocr:NGramPerReqLogitsProcessor"
OUR_RULE = "app.vllm_models.ngram:NoRepeatNgram"
# Largest difference of two float32 embedding values, of their root mean square. Sums of a few thousand products in
# another order differ by about 1e-6 in each of 36 layers.
FLOAT32_TOLERANCE = 1e-4
# How much farther from float32 ours may be than theirs on one page, and the two from each other than independent
# errors would be. Which of two equally rough sums is nearer on a page is chance, to a few percent.
CHANCE = 1.05


def make_pages(count: int) -> list[Image.Image]:
    """Return pages of several shapes, so that several tile grids occur: whole, half, columns, strips, stamps."""
    from benchmarks.pages import render_pages

    shapes = ((1240, 1754), (1240, 877), (620, 1754), (1240, 400), (600, 600))
    pages = [page.image.convert("RGB") for page in render_pages(count, "latin", seed=3)]
    return [page.crop((0, 0, *shapes[number % len(shapes)])) for number, page in enumerate(pages)]


def record(model: Any) -> None:
    """Keep, in vLLM's worker, what the encoder returns for each step."""
    encode = model.embed_multimodal

    def encode_and_keep(**inputs: Any) -> Any:
        model.kept = encode(**inputs)
        return model.kept

    model.embed_multimodal = encode_and_keep


def take(model: Any) -> Any:
    """Return the embeddings of the last picture, in float32."""
    return model.kept[0].float()


def run_side(side: str, folder: Path, count: int, tokens: int, dtype: str) -> list[dict[str, Any]]:
    """Run every page through one side's engine; returns its views, embeddings and tokens."""
    from vllm import LLM, SamplingParams
    from vllm.multimodal import MULTIMODAL_REGISTRY

    from app.vllm_models import ENGINE_ARGUMENTS, encode_prompt
    from app.vllm_models.ngram_state import NgramRule

    ours = side == "ours"
    rule = NgramRule(NGRAM_SIZE, NGRAM_WINDOW, ()).extra_args()
    theirs = {"ngram_size": NGRAM_SIZE, "window_size": NGRAM_WINDOW, "whitelist_token_ids": []}
    started = time.monotonic()
    engine = LLM(
        model=str(folder),
        dtype=dtype,
        enforce_eager=True,
        max_model_len=4096,
        max_num_seqs=4,
        skip_mm_profiling=True,
        logits_processors=[OUR_RULE if ours else THEIR_RULE],
        **(ENGINE_ARGUMENTS if ours else {"enable_prefix_caching": False, "mm_processor_cache_gb": 0}),
    )
    print(f"{side}: engine up after {time.monotonic() - started:.0f} s", flush=True)
    print(f"{side}: class {engine.apply_model(describe)[0]}", flush=True)
    engine.apply_model(record)
    tokenizer = engine.get_tokenizer()
    processor = MULTIMODAL_REGISTRY.create_processor(engine.model_config, tokenizer=tokenizer)
    prompt = encode_prompt(tokenizer, PROMPT)
    sampling = SamplingParams(
        temperature=0.0, max_tokens=tokens, ignore_eos=True, logprobs=2, extra_args=rule if ours else theirs
    )
    results = []
    for number, page in enumerate(make_pages(count)):
        started = time.monotonic()
        inputs = processor(prompt, processor.info.parse_mm_data({"image": page}))
        request = {"prompt_token_ids": prompt, "multi_modal_data": {"image": page}}
        output = engine.generate(request, sampling, use_tqdm=False)[0]
        results.append(
            {
                "views": inputs["mm_kwargs"]["image"][0].get_data(),
                "embedding": engine.apply_model(take)[0],
                "prompt": list(output.prompt_token_ids),
                "tokens": list(output.outputs[0].token_ids),
                "gaps": [_gap(scores) for scores in output.outputs[0].logprobs],
            }
        )
        print(f"{side}: page {number} in {time.monotonic() - started:.0f} s", flush=True)
    return results


def describe(model: Any) -> str:
    """Return the class of the model in vLLM's worker."""
    return f"{type(model).__module__}.{type(model).__qualname__}"


def _gap(scores: dict[int, Any]) -> float:
    """Return how far the first token is ahead of the second."""
    best = sorted((score.logprob for score in scores.values()), reverse=True)
    return float(best[0] - best[1])


def pixels_equal(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """Say whether our uint8 views, normalised as our encoder does, are bit for bit their pixel values."""
    import torch

    from app.vllm_models.deepencoder import normalise

    pixels, crops = theirs["pixel_values"], theirs["images_crop"]
    same: bool = torch.equal(normalise(ours["global_view"][None], pixels.dtype), pixels.reshape(-1, *pixels.shape[-3:]))
    if not len(ours["tiles"]):
        return same and not crops.any()
    return same and torch.equal(normalise(ours["tiles"], crops.dtype), crops.reshape(-1, *crops.shape[-3:]))


def rms(values: Any) -> float:
    return float(values.double().square().mean().sqrt())


def difference(some: Any, other: Any, scale: float) -> float:
    """Return the root mean square of a difference, of `scale`."""
    return rms(some - other) / scale


def compare_float32(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> bool:
    """Print what differs, page by page and at most; returns whether everything that must agree does."""
    good, largest = True, 0.0
    for number, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        scale = rms(other["embedding"])
        most = float((mine["embedding"] - other["embedding"]).abs().max()) / scale
        largest = max(largest, most)
        same = mine["tokens"] == other["tokens"] and mine["prompt"] == other["prompt"]
        equal = pixels_equal(mine["views"], other["views"])
        good &= equal and same and most <= FLOAT32_TOLERANCE
        print(
            f"float32, page {number}: {_pixels(equal)}; {len(mine['embedding'])} embeddings differ by "
            f"{difference(mine['embedding'], other['embedding'], scale):.7f} (rms), {most:.7f} at most; {_tokens(mine, other)}"
        )
    print(f"float32: largest difference of an embedding value {largest:.7f} of their rms; allowed {FLOAT32_TOLERANCE}")
    return good


def compare_bfloat16(results: dict[str, list[dict[str, Any]]], exact: dict[str, list[dict[str, Any]]]) -> bool:
    """The same in bfloat16, where each side is held against its own embeddings in float32, `exact`."""
    good, largest = True, 0.0
    for number, (mine, other) in enumerate(zip(results["ours"], results["theirs"], strict=True)):
        scale = rms(exact["theirs"][number]["embedding"])
        off = difference(mine["embedding"], exact["ours"][number]["embedding"], scale)
        other_off = difference(other["embedding"], exact["theirs"][number]["embedding"], scale)
        apart = difference(mine["embedding"], other["embedding"], scale)
        most = float((mine["embedding"] - other["embedding"]).abs().max()) / scale
        largest = max(largest, most)
        equal = pixels_equal(mine["views"], other["views"])
        good &= equal and off <= CHANCE * other_off and apart <= CHANCE * (off**2 + other_off**2) ** 0.5
        print(
            f"bfloat16, page {number}: {_pixels(equal)}; {len(mine['embedding'])} embeddings "
            + (f"differ by {apart:.5f} (rms), {most:.5f} at most" if most else "equal bit for bit")
            + f"; from float32 ours {off:.5f}, theirs {other_off:.5f}; {_tokens(mine, other)}"
        )
    print(f"bfloat16: largest difference of an embedding value {largest:.5f} of their rms")
    return good


def _pixels(equal: bool) -> str:
    return f"pixels {'equal' if equal else 'DIFFER'}"


def _tokens(mine: dict[str, Any], other: dict[str, Any]) -> str:
    """Say how many tokens are equal up to the first other one, and how sure ours was there."""
    pairs = list(zip(mine["tokens"], other["tokens"], strict=True))
    first = next((place for place, (a, b) in enumerate(pairs) if a != b), None)
    if first is None:
        return f"all {len(pairs)} tokens equal"
    return f"first {first} of {len(pairs)} tokens equal, then ours led by {mine['gaps'][first]:.4f}"


def run_children(arguments: argparse.Namespace, work: Path, dtype: str) -> dict[str, list[dict[str, Any]]]:
    """Run each side in a process of its own and return what they wrote."""
    import torch

    results = {}
    for side in ("ours", "theirs"):
        paths = [ROOT / "backend", ROOT, work / "site"]
        if side == "theirs":
            paths += [work / "operators", arguments.torchvision.resolve()]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "CUDA_VISIBLE_DEVICES": "",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "HF_HUB_OFFLINE": "1",
            "VLLM_LOGGING_LEVEL": "ERROR",
            "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS": "3600",  # a busy machine is no fault
            "VLLM_ALLOW_INSECURE_SERIALIZATION": "1",  # apply_model sends a function
        }
        # Not "-m": functions sent to vLLM's worker must not live in __main__.
        start = "import sys; from benchmarks.parity import main; sys.exit(main(sys.argv[1:]))"
        command = [sys.executable, "-c", start, "--side", side, "--work", str(work)]
        command += ["--dtype", dtype]
        for name in ("checkpoint", "pages", "tokens"):
            command += [f"--{name}", str(getattr(arguments, name))]
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
        results[side] = torch.load(work / f"{side}.pt", weights_only=False)
    return results


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--torchvision", type=Path, help="a folder with torchvision, which vLLM's own class imports")
    parser.add_argument("--size", choices=("encoder", "full"), default="full")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", type=Path, help="a model folder to use instead of a new random one")
    parser.add_argument("--pages", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--float32-only", action="store_true", help="leave bfloat16 out")
    parser.add_argument("--side", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    parser.add_argument("--dtype", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.side:
        import torch

        results = run_side(options.side, options.checkpoint, options.pages, options.tokens, options.dtype)
        torch.save(results, options.work / f"{options.side}.pt")
        return 0
    if options.torchvision is None or not (options.torchvision / "torchvision").is_dir():
        parser.error("--torchvision must name a folder that holds torchvision: vLLM's own class imports it")
    with tempfile.TemporaryDirectory(prefix="parity-") as folder:
        good = run(options, Path(folder))
    print("parity: " + ("everything agrees" if good else "NOT EVERYTHING AGREES"))
    return 0 if good else 1


def run(options: argparse.Namespace, work: Path) -> bool:
    """Compare in float32, then in bfloat16."""
    sys.path.insert(0, str(ROOT / "backend"))
    write_plugin(work)
    write_operators(work)
    if options.checkpoint is None:
        from tools.random_checkpoint import write_checkpoint

        options.checkpoint = work / "checkpoint"
        write_checkpoint(options.checkpoint, options.size, options.seed)
    exact = run_children(options, work, "float32")
    good = compare_float32(exact["ours"], exact["theirs"])
    if not options.float32_only:
        good &= compare_bfloat16(run_children(options, work, "bfloat16"), exact)
    return good


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
