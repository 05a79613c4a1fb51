"""Write the model folder that vLLM loads: config, tokenizer and bfloat16 weights under their published names."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tools.random_checkpoint import byte_tokenizer, write_processor, write_tokenizer
from tools.tiny_reader.model import Reader, published_names
from tools.tiny_reader.sizes import make_config

WEIGHTS = "model.safetensors"


def write_folder(model: Reader, folder: Path) -> None:
    """Write the whole model folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(make_config(), indent=2) + "\n", encoding="utf-8")
    write_processor(folder)
    write_tokenizer(folder, byte_tokenizer())
    weights = {
        name: parameter.detach().to("cpu", torch.bfloat16).contiguous() for name, parameter in published_names(model)
    }
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def read_folder(folder: Path) -> Reader:
    """Return the model of a folder, in bfloat16."""
    model = Reader(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    model.to(torch.bfloat16).eval()
    weights = load_file(folder / WEIGHTS)
    with torch.no_grad():
        for name, parameter in published_names(model):
            parameter.copy_(weights.pop(name))
    if weights:
        raise ValueError(f"{folder / WEIGHTS} holds unknown parameters: {', '.join(sorted(weights))}.")
    return model
