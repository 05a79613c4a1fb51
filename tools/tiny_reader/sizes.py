"""The tiny reader's config.json: the published architecture with every size cut until git can hold it."""

from __future__ import annotations

import copy
from typing import Any

from tools.random_checkpoint import CONFIG

# Ids of `tools.random_checkpoint.byte_tokenizer`: three control tokens, 256 bytes, ten tokens of the model's own.
BOS, EOS, PAD, FIRST_BYTE, FIRST_OWN = 0, 1, 2, 3, 259
VOCABULARY = 272

LANGUAGE = {
    "hidden_size": 256,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 128,
    "max_position_embeddings": 4096,
    "vocab_size": VOCABULARY,
    # The defaults of the class, which the published config leaves out.
    "norm_topk_prob": False,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "routed_scaling_factor": 1.0,
    "scoring_func": "softmax",
}
SAM = {"width": 144, "layers": 5, "heads": 3, "global_attn_indexes": [3], "downsample_channels": [128, 256]}
CLIP = {"width": 256, "layers": 2, "heads": 4}


NOTICE = (
    "This is the tiny reader, a test model of 8 million parameters: it reads a few lines of clean printed ASCII text. "
    "For real pages set MODEL_PATH to deepseek-ai/DeepSeek-OCR."
)


def make_config() -> dict[str, Any]:
    """Return the tiny reader's config.json."""
    config = copy.deepcopy(CONFIG) | {"notice": NOTICE}
    config["language_config"] |= LANGUAGE
    config["projector_config"] |= {"input_dim": 2 * CLIP["width"], "n_embed": LANGUAGE["hidden_size"]}
    config["vision_config"]["width"]["sam_vit_b"] |= SAM
    config["vision_config"]["width"]["clip-l-14-224"] |= CLIP
    return config
