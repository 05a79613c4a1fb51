"""The other side of benchmarks.gpu_service: the DeepSeek-OCR class that vLLM ships, and our encoder without vLLM.

Both run in processes of their own, which gpu_service starts; not made to be started by hand.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

PROMPT = "<image>\nFree OCR."
RULE = "vllm.model_executor.models.deepseek_ocr:NGramPerReqLogitsProcessor"
# The published rule, which our service has on for every request.
PUBLISHED: dict[str, Any] = {"ngram_size": 30, "window_size": 90, "whitelist_token_ids": {128821, 128822}}


def read_pages(folder: Path) -> list[Image.Image]:
    """Return the uploaded pages, decoded as the service decodes them."""
    return [Image.open(file).convert("RGB") for file in sorted(folder.glob("*.jpg"))]


def cut_page(file: Path, resolution: str) -> Any:
    """Return an uploaded page's `Views` in a resolution, as the service prepares them."""
    import numpy as np

    from app.ocr.resolution import RESOLUTIONS
    from app.vllm_models.views import ViewOptions, prepare_views

    size = RESOLUTIONS[resolution]
    pixels = np.asarray(Image.open(file).convert("RGB"))
    return prepare_views(pixels, ViewOptions(size.base_size, size.image_size, size.crop_mode))


def start_peer(model: Path, **arguments: Any) -> Any:
    """Return vLLM's `LLM` with its own class, after its own recipe, and the service's share of memory."""
    from vllm import LLM

    recipe = {
        "enable_prefix_caching": False,
        "mm_processor_cache_gb": 0,
        "logits_processors": [RULE],
        "gpu_memory_utilization": 0.75,
        "limit_mm_per_prompt": {"image": 1},
    }
    return LLM(model=str(model), **recipe, **arguments)


def run_peer(options: argparse.Namespace) -> dict[str, Any]:
    """Read all pages at once with vLLM's class, twice; returns tokens, texts, times and the embeddings' file."""
    import torch
    import vllm
    from vllm import SamplingParams

    from app.vllm_models import encode_prompt

    started = time.monotonic()
    engine = start_peer(
        options.model,
        dtype=options.dtype,
        max_model_len=options.max_model_len,
        max_num_seqs=256,
        max_num_batched_tokens=8192,
        enforce_eager=options.eager,
    )
    ready = time.monotonic() - started
    ids = encode_prompt(engine.get_tokenizer(), PROMPT)
    pages = read_pages(options.pages)
    requests = [{"prompt_token_ids": ids, "multi_modal_data": {"image": page}} for page in pages]
    plain = SamplingParams(
        temperature=0.0, max_tokens=options.tokens, skip_special_tokens=False, extra_args=dict(PUBLISHED)
    )
    engine.generate(requests[0], plain, use_tqdm=False)  # whatever is compiled at the first page
    started = time.perf_counter()
    outputs = engine.generate(requests, plain, use_tqdm=False)
    seconds = time.perf_counter() - started
    # Again, in another order and with scores: how far the class agrees with itself, and how near its choices were.
    scored = plain.clone()
    scored.logprobs = 2
    again = engine.generate(requests[::-1], scored, use_tqdm=False)[::-1]
    embedded = embed_pages(engine, ids, pages[: options.embeddings])
    torch.save(embedded, options.out.with_suffix(".pt"))
    return {
        "vllm": vllm.__version__,
        "class": engine.apply_model(describe)[0],
        "ready_s": round(ready, 1),
        "seconds": round(seconds, 2),
        "texts": [output.outputs[0].text for output in outputs],
        "tokens": [list(output.outputs[0].token_ids) for output in outputs],
        "prompt_tokens": [len(output.prompt_token_ids) for output in outputs],
        "again": [list(output.outputs[0].token_ids) for output in again],
        "gaps": [[gap(scores) for scores in output.outputs[0].logprobs] for output in again],
    }


def embed_pages(engine: Any, ids: list[int], pages: list[Image.Image]) -> list[Any]:
    """Return the image embeddings of pages by the model in vLLM's worker, float32 on the CPU."""
    from vllm.multimodal import MULTIMODAL_REGISTRY
    from vllm.multimodal.utils import group_and_batch_mm_kwargs

    processor = MULTIMODAL_REGISTRY.create_processor(engine.model_config, tokenizer=engine.get_tokenizer())
    embedded = []
    for page in pages:
        inputs = processor(ids, processor.info.parse_mm_data({"image": page}))
        ((_, _, batch),) = group_and_batch_mm_kwargs([("image", inputs["mm_kwargs"]["image"][0])])
        embedded += engine.apply_model(partial(embed, dict(batch)))[0]
    return embedded


def embed(batch: dict[str, Any], model: Any) -> list[Any]:
    """Encode one picture inside vLLM's worker."""
    import torch

    device = next(model.parameters()).device
    moved = {name: value.to(device) if hasattr(value, "to") else value for name, value in batch.items()}
    with torch.inference_mode():
        return [embedding.float().cpu() for embedding in model.embed_multimodal(**moved)]


def describe(model: Any) -> str:
    """Return the class of the model in vLLM's worker."""
    return f"{type(model).__module__}.{type(model).__qualname__}"


def gap(scores: dict[int, Any]) -> float:
    """Return how far the best token is ahead of the second, in log probability."""
    best = sorted((score.logprob for score in scores.values()), reverse=True)
    return round(float(best[0] - best[1]), 5)


def run_encoder(options: argparse.Namespace) -> dict[str, Any]:
    """Embed pages with our encoder, in the service's number format and in float32; writes both as tensors."""
    import torch

    from app.vllm_models.views import ViewOptions, prepare_views

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    pages = [prepare_views(page, ViewOptions()) for page in read_pages(options.pages)[: options.embeddings]]
    results = {}
    for dtype in (getattr(torch, options.dtype), torch.float32):
        encoder = load_encoder(options.model).to(device, dtype)
        with torch.inference_mode():
            for _ in range(2):  # the second time counts
                started = time.perf_counter()
                embedded = []
                for views in pages:
                    arrays = (views.global_view, views.tiles)
                    whole, tiles = (torch.from_numpy(array.copy()).to(device) for array in arrays)
                    embedded += encoder.embed_pictures([whole], [tiles], [views.grid])
                tensors = [embedding.float().cpu() for embedding in embedded]
                seconds = time.perf_counter() - started
        results[str(dtype).removeprefix("torch.")] = tensors
    torch.save(results, options.out.with_suffix(".pt"))
    return {"float32_ms_per_page": round(seconds * 1000 / max(1, len(pages)), 1)}


def load_encoder(folder: Path) -> Any:
    """Return our encoder with the checkpoint's weights."""
    from app.vllm_models.deepencoder import DeepEncoder, EncoderConfig

    encoder = DeepEncoder(EncoderConfig.from_hf(json.loads((folder / "config.json").read_text())))
    for name, tensor in encoder_weights(folder):
        encoder.get_parameter(name.removeprefix("model.")).data.copy_(tensor)
    return encoder


def encoder_weights(folder: Path) -> Iterator[tuple[str, Any]]:
    from safetensors import safe_open

    from app.vllm_models.checkpoint import is_encoder_name, is_ignored

    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a dict
                if is_encoder_name(name) and not is_ignored(name):
                    yield name, tensors.get_tensor(name)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("part", choices=("peer", "encoder"))
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--pages", type=Path, required=True, help="a folder of *.jpg")
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--max-model-len", type=int, required=True)
    parser.add_argument("--embeddings", type=int, required=True)
    parser.add_argument("--eager", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    result = run_peer(options) if options.part == "peer" else run_encoder(options)
    options.out.write_text(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
