"""How often rounding makes a model write another text, and how near its two best tokens are where it does.

    python -m tools.random_checkpoint DIR --size full        # or the published weights
    python -m benchmarks.rounding --model DIR --resolution tiny --json rounding.json

Reads pages in plain PyTorch, in float32 on the CPU (the service's encoder, and the language model of tools.tiny_reader), and
beside each page copies of it, whose picture embeddings are off by NOISE of their size, at random. That is what sums made in
another order differ by: so this tells what to expect of two sides that compute the same (see benchmarks.same_tokens). A
choice of experts that nearly ties falls the other way then, which moves the next tokens much farther than the noise itself.

Needs PyTorch and fonts; 20 GB of memory and 8 minutes on 2 cores at full size as above. No no-repeat rule.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from benchmarks.gpu_peer import PROMPT, cut_page, load_encoder
from benchmarks.machine import describe_machine
from benchmarks.report import write_result
from benchmarks.uploads import draw_pages
from tools.tiny_reader.model import Experts, KeyValues, LanguageModel

RESOLUTIONS = ("tiny", "small", "base", "large")  # a page has as many embeddings as any other
# Of DeepSeek-V2's configuration class; the published config.json leaves them out.
DEFAULTS = {"rms_norm_eps": 1e-6, "rope_theta": 10_000.0}


class Chosen(nn.Module):
    """Runs those experts only that a token has chosen. `choice` keeps which, ascending, (batch, tokens, chosen)."""

    choice: Tensor

    def __init__(self, experts: Experts) -> None:
        super().__init__()
        self.all = experts

    def forward(self, hidden: Tensor) -> Tensor:
        flat = hidden.flatten(0, -2)
        shares, best = self.all.gate(flat).softmax(-1).topk(self.all.chosen, -1)
        self.choice = best.sort(-1).values.view(*hidden.shape[:-1], -1)
        output = self.all.shared_experts(flat)
        for number, expert in enumerate(self.all.experts):
            rows, place = (best == number).nonzero(as_tuple=True)
            if len(rows):
                output[rows] += shares[rows, place, None] * expert(flat[rows])
        return output.view_as(hidden)


def load_language(folder: Path) -> LanguageModel:
    """Return the language model of a model folder, in float32."""
    config = json.loads((folder / "config.json").read_text())["language_config"]
    with torch.device("meta"):
        language = LanguageModel(DEFAULTS | config)
    names = {name if name.startswith("lm_head.") else f"model.{name}": name for name in language.state_dict()}
    weights: dict[str, Tensor] = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            weights.update(
                (names[name], tensors.get_tensor(name).float()) for name in names.keys() & set(tensors.keys())
            )
    language.load_state_dict(weights, assign=True)
    for layer in language.layers:
        if isinstance(layer.mlp, Experts):
            layer.mlp = Chosen(layer.mlp)
    return language


def embed(options: argparse.Namespace, files: list[Path]) -> Tensor:
    """Return the pages' picture embeddings, (pages, embeddings, width)."""
    encoder, embedded = load_encoder(options.model).float(), []
    for file in files:
        views = cut_page(file, options.resolution)
        arrays = (torch.from_numpy(array.copy()) for array in (views.global_view, views.tiles))
        embedded += encoder.embed_pictures(*([array] for array in arrays), [views.grid])
    return torch.stack(embedded)


def read(options: argparse.Namespace, pictures: Tensor) -> dict[str, Any]:
    """Read the pages and their copies; returns where copies part from their pages."""
    from app.engine.vllm_text import ModelTokenizer
    from app.vllm_models import encode_prompt

    tokenizer, language = ModelTokenizer(options.model), load_language(options.model)
    caches = [KeyValues() for _ in language.layers]

    def forward(hidden: Tensor) -> tuple[Tensor, Tensor]:
        hidden, _ = language(hidden, caches)
        choices = [layer.mlp.choice for layer in language.layers if isinstance(layer.mlp, Chosen)]
        return language.lm_head(hidden[:, -1]), torch.stack(choices)

    ids = torch.tensor(encode_prompt(tokenizer, PROMPT))
    place = int((ids == tokenizer.special.image).nonzero())
    pages = len(pictures)
    generator = torch.Generator().manual_seed(0)
    noisy = pictures.repeat(options.copies, 1, 1)
    noisy *= 1 + options.noise * torch.randn(noisy.shape, generator=generator)
    pictures = torch.cat([pictures, noisy])
    before, after = (
        language.embed_tokens(some).expand(len(pictures), -1, -1) for some in (ids[:place], ids[place + 1 :])
    )
    logits, choices = forward(torch.cat([before, pictures, after], 1))
    together = torch.ones(options.copies, pages, dtype=torch.bool)  # copies that have written their page's tokens
    otherwise = torch.zeros_like(together)  # copies that have chosen other experts meanwhile
    moved, partings = torch.zeros(together.shape), []
    for step in range(options.tokens):
        otherwise |= (_of_copies(choices, 1, pages) != choices[:, None, :pages]).any(-1).any(-1).any(0) & together
        best = logits[:pages].topk(2).indices.repeat(options.copies + 1, 1)
        ahead = (logits.gather(1, best[:, :1]) - logits.gather(1, best[:, 1:])).view(-1, pages)
        moved = torch.where(together, torch.maximum(moved, (ahead[1:] - ahead[0]).abs()), moved)
        tokens = logits.argmax(-1)
        parted = together & (_of_copies(tokens, 0, pages) != tokens[:pages])
        partings += [
            {"token": step, "page": page, "ahead": float(ahead[0, page])} for _, page in parted.nonzero().tolist()
        ]
        together &= ~parted
        print(f"token {step}: {int((~together).sum())} of {together.numel()} copies have parted", flush=True)
        if step + 1 < options.tokens:
            logits, choices = forward(language.embed_tokens(tokens[:, None]))
    return {
        "copies": together.numel(),
        "parted": partings,
        "with_other_experts": int(otherwise.sum()),
        "moved_most_with_other_experts": float(moved[otherwise].max()) if otherwise.any() else None,
        "moved_most_else": float(moved[~otherwise].max()) if not otherwise.all() else None,
        "moved_over": {str(edge): int((moved > edge).sum()) for edge in (0.001, 0.01, 0.1, 0.2)},
        "pages_parted": len({parting["page"] for parting in partings}),
    }


def _of_copies(values: Tensor, dimension: int, pages: int) -> Tensor:
    """Return the part of the copies, with a dimension of them before that of the pages."""
    copies = values.narrow(dimension, pages, values.shape[dimension] - pages)
    return copies.unflatten(dimension, (-1, pages))


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    with tempfile.TemporaryDirectory(prefix="rounding-") as work, torch.inference_mode():
        figures = read(options, embed(options, draw_pages(Path(work), options.pages)))
    print(json.dumps(figures, indent=2))
    if options.json:
        write_result(options.json, {"command": " ".join(arguments), "machine": describe_machine(), **figures})
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=lambda name: Path(name).resolve(), required=True, help="a model folder")
    parser.add_argument("--resolution", choices=RESOLUTIONS, default="tiny")
    parser.add_argument("--pages", type=int, default=64)
    parser.add_argument("--copies", type=int, default=3, help="of each page")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--noise", type=float, default=3e-6, help="share of an embedding's values")
    parser.add_argument("--json", type=Path, help="also write the result here")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
