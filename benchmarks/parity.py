"""Compare our model module with the DeepSeek-OCR class that vLLM ships, on one seeded random checkpoint.

    python -m benchmarks.parity --torchvision FOLDER [--size encoder|full] [--pages 10] [--tokens 32]

Both sides run in vLLM's own processes, one after the other, in Gundam. Compared are pixel values (equal exactly),
image embeddings and the tokens of greedy decoding under a no-repeat n-gram rule tight enough to act. In bfloat16 the
embeddings may differ as far as rounding goes: each side is held against float32, and ours must be as near. Tokens
must be equal in float32; in bfloat16 a random model's near ties fall either way, and the line only counts them.

vLLM's class imports torchvision; FOLDER holds one (`pip install --no-deps --target FOLDER torchvision==0.28.0` for
PyTorch 2.13). Ends with 1 where a comparison fails. Needs vLLM 0.32; `--size full` also 24 GiB of memory and 7 GB of disk.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).parents[1]
PROMPT = "<image>\nFree OCR."
NGRAM_SIZE, NGRAM_WINDOW = 3, 30
THEIR_RULE = "vllm.model_executor.models.deepseek_ocr:NGramPerReqLogitsProcessor"
OUR_RULE = "app.vllm_models.ngram:NoRepeatNgram"
# How much farther from float32 ours may be than theirs, in root mean square.
TOLERANCE = 1.1
# Largest difference of two float32 embeddings, of their root mean square.
FLOAT32_TOLERANCE = 1e-3
# PyPI's torchvision looks for these operators, which a CPU build of PyTorch does not have.
OPERATORS = """import torch

library = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


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


def encode_exactly(folder: Path, pages: Iterable[Image.Image]) -> list[Any]:
    """Return the embeddings of pages by our encoder in float32, without vLLM."""
    import json

    import torch
    from safetensors import safe_open

    from app.vllm_models.checkpoint import is_encoder_name, is_ignored
    from app.vllm_models.deepencoder import DeepEncoder, EncoderConfig
    from app.vllm_models.views import ViewOptions, prepare_views

    encoder = DeepEncoder(EncoderConfig.from_hf(json.loads((folder / "config.json").read_text())))
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a dict
                if is_encoder_name(name) and not is_ignored(name):
                    encoder.get_parameter(name.removeprefix("model.")).data.copy_(tensors.get_tensor(name))
    exact = []
    with torch.inference_mode():
        for page in pages:
            views = prepare_views(page, ViewOptions())
            whole, tiles = torch.from_numpy(views.global_view.copy()), torch.from_numpy(views.tiles.copy())
            exact += encoder.embed_pictures([whole], [tiles], [views.grid])
    return exact


def pixels_equal(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """Say whether our uint8 views, normalised as our encoder does, are bit for bit their pixel values."""
    import torch

    from app.vllm_models.deepencoder import normalise

    pixels, crops = theirs["pixel_values"], theirs["images_crop"]
    same = torch.equal(normalise(ours["global_view"][None], pixels.dtype), pixels.reshape(-1, *pixels.shape[-3:]))
    if not len(ours["tiles"]):
        return same and not crops.any()
    return same and torch.equal(normalise(ours["tiles"], crops.dtype), crops.reshape(-1, *crops.shape[-3:]))


def rms(values: Any) -> float:
    return float(values.double().square().mean().sqrt())


def compare(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], exact: list[Any], dtype: str) -> bool:
    """Print what differs, page by page and at most; returns whether everything that must agree does."""
    good = True
    print(f"{dtype}:")
    largest = 0.0
    for number, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        equal = pixels_equal(mine["views"], other["views"])
        difference = (mine["embedding"] - other["embedding"]).abs()
        scale = rms(other["embedding"])
        largest = max(largest, float(difference.max()) / scale)
        tokens = sum(a == b for a, b in zip(mine["tokens"], other["tokens"], strict=True))
        same = mine["tokens"] == other["tokens"] and mine["prompt"] == other["prompt"]
        line = (
            f"page {number}: {len(mine['embedding'])} image tokens, pixels {'equal' if equal else 'DIFFER'}; embeddings "
            f"differ by {rms(difference) / scale:.5f} rms, {float(difference.max()) / scale:.5f} at most"
        )
        good &= equal
        if dtype == "float32":
            good &= same and float(difference.max()) <= FLOAT32_TOLERANCE * scale
        elif number < len(exact):
            mine_off, other_off = (rms(side["embedding"] - exact[number]) / scale for side in (mine, other))
            line += f" (from float32: ours {mine_off:.5f}, theirs {other_off:.5f})"
            good &= mine_off <= TOLERANCE * other_off + 1e-5
        first = next(
            (i for i, pair in enumerate(zip(mine["tokens"], other["tokens"], strict=True)) if pair[0] != pair[1]), None
        )
        where = "" if first is None else f", first other token at {first}, there ours led by {mine['gaps'][first]:.4f}"
        print(f"{line}; {tokens} of {len(mine['tokens'])} tokens equal{where}")
    print(f"largest difference of an embedding value: {largest:.5f} of their root mean square")
    return good


def run_children(arguments: argparse.Namespace, work: Path, dtype: str) -> dict[str, list[dict[str, Any]]]:
    """Run each side in a process of its own and return what they wrote."""
    import torch

    (arguments.torchvision / "sitecustomize.py").write_text(OPERATORS)
    results = {}
    for side in ("ours", "theirs"):
        paths = [ROOT / "backend", ROOT, work / "site", *([arguments.torchvision] if side == "theirs" else [])]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "CUDA_VISIBLE_DEVICES": "",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "HF_HUB_OFFLINE": "1",
            "VLLM_LOGGING_LEVEL": "ERROR",
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


def write_plugin(work: Path) -> None:
    """Make vLLM find the model whether or not the service is installed."""
    info = work / "site" / "deepseek_ocr_service_parity-0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: deepseek-ocr-service-parity\nVersion: 0\n")
    (info / "entry_points.txt").write_text("[vllm.general_plugins]\ndeepseek_ocr = app.vllm_models:register\n")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--torchvision", type=Path)
    parser.add_argument("--size", choices=("encoder", "full"), default="full")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", type=Path, help="a model folder to use instead of a new random one")
    parser.add_argument("--pages", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), help="one only, instead of both")
    parser.add_argument("--exact-pages", type=int, default=3, help="pages also encoded in float32 (about 40 s each)")
    parser.add_argument("--side", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.side:
        import torch

        results = run_side(options.side, options.checkpoint, options.pages, options.tokens, options.dtype)
        torch.save(results, options.work / f"{options.side}.pt")
        return 0
    if options.torchvision is None:
        parser.error("--torchvision FOLDER is needed: vLLM's own class imports it")
    sys.path.insert(0, str(ROOT / "backend"))
    with tempfile.TemporaryDirectory(prefix="parity-") as folder:
        work = Path(folder)
        write_plugin(work)
        if options.checkpoint is None:
            from tools.random_checkpoint import write_checkpoint

            options.checkpoint = work / "checkpoint"
            write_checkpoint(options.checkpoint, options.size, options.seed)
        good = True
        for dtype in [options.dtype] if options.dtype else ["bfloat16", "float32"]:
            results = run_children(options, work, dtype)
            exact = []
            if dtype == "bfloat16":
                exact = encode_exactly(options.checkpoint, make_pages(options.pages)[: options.exact_pages])
            good &= compare(results["ours"], results["theirs"], exact, dtype)
    print("parity: " + ("everything agrees" if good else "NOT EVERYTHING AGREES"))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
