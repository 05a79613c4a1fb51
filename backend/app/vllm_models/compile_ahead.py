"""The encoder's blocks compiled in parts, for processes of their own; the engine core finds them on disk.

One after the other, as the core comes to them, they took 25 s on one H200's processor, of a first start of 96 s (vLLM 0.33.0).
Importing this module imports neither vLLM nor PyTorch.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any


def compile_part(part: int, parts: int, config: Mapping[str, Any], view_options: Mapping[str, Any], dtype: str) -> None:
    """Compile every kind of block whose number is `part` modulo `parts`; raises what vLLM and PyTorch raise.

    `config` is a model's config.json, `view_options` are vLLM's `mm_processor_kwargs` and `dtype` is PyTorch's name of one.
    """
    # It changes settings of PyTorch's compiler, by which that finds what it has kept.
    importlib.import_module("vllm")

    import torch
    import torch._inductor.config

    from app.vllm_models.deepencoder import DeepEncoder, EncoderConfig
    from app.vllm_models.encoder_passes import encoder_sides, examples, keep_example
    from app.vllm_models.kept_blocks import can_keep
    from app.vllm_models.views import parse_options

    if not can_keep():
        return
    # Else each of these processes starts some of its own.
    torch._inductor.config.compile_threads = 1
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with torch.device("meta"):  # no weights are needed, and of most blocks no memory either
        encoder = DeepEncoder(EncoderConfig.from_hf(config)).to(getattr(torch, dtype))
    sides = encoder_sides(parse_options(view_options))
    with torch.inference_mode():
        for number, example in enumerate(examples(encoder, sides)):
            if number % parts == part:
                keep_example(example.on(device))
