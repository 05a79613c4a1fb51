"""The parameters of a DeepSeek-OCR checkpoint: what must be there, by its published names and shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from app.vllm_models.deepencoder import DeepEncoder, EncoderConfig

Shape = tuple[int, ...]

ENCODER_PREFIXES = (
    "model.sam_model.",
    "model.vision_model.",
    "model.projector.",
    "model.image_newline",
    "model.view_seperator",
)
# In published checkpoints, and without use: CLIP reads SAM's features, not pixels, and positions are counted.
IGNORED = frozenset(
    {"model.vision_model.embeddings.patch_embedding.weight", "model.vision_model.embeddings.position_ids"}
)
LISTED = 8


class CheckpointError(ValueError):
    """The checkpoint is not a whole DeepSeek-OCR; the message lists what is missing, unexpected or misshapen."""


def encoder_shapes(config: Any) -> dict[str, Shape]:
    """Return the shape of every parameter of the encoder by its name on disk."""
    with torch.device("meta"):
        encoder = DeepEncoder(EncoderConfig.from_hf(config))
    return {f"model.{name}": tuple(parameter.shape) for name, parameter in encoder.named_parameters()}


def language_shapes(config: Any) -> dict[str, Shape]:
    """Return the shape of every parameter of the language model by its name on disk.

    `config` is the language model's part: DeepSeek's mixture of experts with plain multi-head attention.
    """

    def get(name: str) -> int:
        return int(config[name] if isinstance(config, Mapping) else getattr(config, name))

    width, vocabulary = get("hidden_size"), get("vocab_size")
    head = width // get("num_attention_heads")
    shapes: dict[str, Shape] = {
        "model.embed_tokens.weight": (vocabulary, width),
        "model.norm.weight": (width,),
        "lm_head.weight": (vocabulary, width),
    }
    for layer in range(get("num_hidden_layers")):
        prefix = f"model.layers.{layer}"
        keys = head * get("num_key_value_heads")
        shapes |= {
            f"{prefix}.input_layernorm.weight": (width,),
            f"{prefix}.post_attention_layernorm.weight": (width,),
            f"{prefix}.self_attn.q_proj.weight": (width, width),
            f"{prefix}.self_attn.k_proj.weight": (keys, width),
            f"{prefix}.self_attn.v_proj.weight": (keys, width),
            f"{prefix}.self_attn.o_proj.weight": (width, width),
        }
        if layer < get("first_k_dense_replace"):
            shapes |= _mlp_shapes(f"{prefix}.mlp", width, get("intermediate_size"))
            continue
        inner, experts = get("moe_intermediate_size"), get("n_routed_experts")
        shapes[f"{prefix}.mlp.gate.weight"] = (experts, width)
        shapes |= _mlp_shapes(f"{prefix}.mlp.shared_experts", width, inner * get("n_shared_experts"))
        for expert in range(experts):
            shapes |= _mlp_shapes(f"{prefix}.mlp.experts.{expert}", width, inner)
    return shapes


def _mlp_shapes(prefix: str, width: int, inner: int) -> dict[str, Shape]:
    return {
        f"{prefix}.gate_proj.weight": (inner, width),
        f"{prefix}.up_proj.weight": (inner, width),
        f"{prefix}.down_proj.weight": (width, inner),
    }


def is_encoder_name(name: str) -> bool:
    """Say whether a name on disk belongs to the encoder."""
    return name.startswith(ENCODER_PREFIXES)


def is_ignored(name: str) -> bool:
    """Say whether a name on disk is known and needs no place to go."""
    return name in IGNORED or name.endswith("rotary_emb.inv_freq")


def describe_faults(missing: Iterable[str], unexpected: Iterable[str], misshapen: Iterable[str] = ()) -> str:
    """Return one sentence per kind of fault, with the first names of each; empty where there are none."""
    kinds = (("missing", missing), ("unexpected", unexpected), ("of the wrong shape", misshapen))
    sentences = []
    for kind, names in kinds:
        if listed := sorted(names):
            more = f" and {len(listed) - LISTED} more" if len(listed) > LISTED else ""
            sentences.append(f"{len(listed)} parameters are {kind}: {', '.join(listed[:LISTED])}{more}.")
    return " ".join(sentences)
