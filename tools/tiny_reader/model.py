"""DeepSeek-OCR in plain PyTorch: the service's own encoder and a language model to train it with.

The language model is DeepSeek's mixture of experts with plain multi-head attention, written for training:
every expert runs on every token and the router's weights, zero for all but the chosen, scale what comes out.
Parameter names are those of the published checkpoint (`published_names`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from app.vllm_models.deepencoder import DeepEncoder, EncoderConfig, normalise, resize_table


class Mlp(nn.Module):
    """A gated linear unit with SiLU."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(hidden)) * self.up_proj(hidden))


class Experts(nn.Module):
    """Shared experts beside routed ones, of which each token uses the best few."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width, inner, count = config["hidden_size"], config["moe_intermediate_size"], config["n_routed_experts"]
        self.chosen, self.inner = config["num_experts_per_tok"], inner
        self.gate = nn.Linear(width, count, bias=False)
        self.experts = nn.ModuleList(Mlp(width, inner) for _ in range(count))
        self.shared_experts = Mlp(width, inner * config["n_shared_experts"])

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output, and how unevenly the experts were used: 1 for evenly, more for worse."""
        weights = self.gate(hidden).float().softmax(-1)
        best = weights.topk(self.chosen, dim=-1)
        used = torch.zeros_like(weights).scatter(-1, best.indices, 1.0)
        share = used.flatten(0, -2).mean(0) / self.chosen
        unevenness = len(self.experts) * (share * weights.flatten(0, -2).mean(0)).sum()
        gates, ups = self._joined("gate_proj", 0), self._joined("up_proj", 0)
        scale = (weights * used).repeat_interleave(self.inner, dim=-1).to(hidden.dtype)
        inner = F.silu(F.linear(hidden, gates)) * F.linear(hidden, ups) * scale
        return F.linear(inner, self._joined("down_proj", 1)) + self.shared_experts(hidden), unevenness

    def _joined(self, name: str, dim: int) -> Tensor:
        return torch.cat([expert.get_submodule(name).weight for expert in self.experts], dim=dim)


class Attention(nn.Module):
    """Causal attention with rotary positions; `cache` holds the keys and values of what came before."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)

    def forward(self, hidden: Tensor, turns: tuple[Tensor, Tensor], cache: KeyValues | None) -> Tensor:
        """Attend within (batch, tokens, width)."""
        q, k, v = (
            projection(hidden).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(q, turns), rotate(k, turns)
        if cache is None:
            attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            first = cache.length == 0
            k, v = cache.append(k, v)
            attended = F.scaled_dot_product_attention(q, k, v, is_causal=first)
        return self.o_proj(attended.transpose(1, 2).flatten(2))


class KeyValues:
    """The keys and values of one layer, (batch, heads, tokens, head width), written as tokens come."""

    def __init__(self) -> None:
        self.length = 0
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add those of new tokens and return all."""
        room = self._keys.shape[2] if self._keys is not None else 0
        end = self.length + keys.shape[2]
        if self._keys is None or self._values is None or end > room:
            grown = [
                torch.empty(*part.shape[:2], 2 * end, part.shape[3], dtype=part.dtype, device=part.device)
                for part in (keys, values)
            ]
            if self._keys is not None and self._values is not None:
                grown[0][:, :, : self.length] = self._keys[:, :, : self.length]
                grown[1][:, :, : self.length] = self._values[:, :, : self.length]
            self._keys, self._values = grown
        self._keys[:, :, self.length : end] = keys
        self._values[:, :, self.length : end] = values
        self.length = end
        return self._keys[:, :, :end], self._values[:, :, :end]


def rotary_turns(start: int, tokens: int, head: int, base: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosine and sine, (tokens, head / 2) float32, for positions `start` onwards."""
    speeds = base ** (-torch.arange(0, head, 2, device=like.device, dtype=torch.float32) / head)
    angles = torch.arange(start, start + tokens, device=like.device, dtype=torch.float32)[:, None] * speeds
    return angles.cos(), angles.sin()


def rotate(heads: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each pair (i, i + half) of (batch, heads, tokens, head width), as NeoX does."""
    cos, sin = turns
    low, high = heads.float().chunk(2, dim=-1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1).to(heads.dtype)


class Layer(nn.Module):
    """A decoder layer."""

    def __init__(self, config: dict[str, Any], place: int) -> None:
        super().__init__()
        width, epsilon = config["hidden_size"], config["rms_norm_eps"]
        self.input_layernorm = nn.RMSNorm(width, eps=epsilon)
        self.self_attn = Attention(width, config["num_attention_heads"])
        self.post_attention_layernorm = nn.RMSNorm(width, eps=epsilon)
        dense = place < config["first_k_dense_replace"]
        self.mlp: nn.Module = Mlp(width, config["intermediate_size"]) if dense else Experts(config)

    def forward(self, hidden: Tensor, turns: tuple[Tensor, Tensor], cache: KeyValues | None) -> tuple[Tensor, Tensor]:
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), turns, cache)
        after = self.mlp(self.post_attention_layernorm(hidden))
        added, unevenness = after if isinstance(after, tuple) else (after, hidden.new_ones((), dtype=torch.float32))
        return hidden + added, unevenness


class LanguageModel(nn.Module):
    """Embeddings in, logits out."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config["vocab_size"], config["hidden_size"])
        self.layers = nn.ModuleList(Layer(config, place) for place in range(config["num_hidden_layers"]))
        self.norm = nn.RMSNorm(config["hidden_size"], eps=config["rms_norm_eps"])
        self.lm_head = nn.Linear(config["hidden_size"], config["vocab_size"], bias=False)

    def forward(self, hidden: Tensor, caches: list[KeyValues] | None = None) -> tuple[Tensor, Tensor]:
        """Turn (batch, tokens, width) into what the head reads, and the mean unevenness of the experts."""
        head = self.config["hidden_size"] // self.config["num_attention_heads"]
        start = caches[0].length if caches else 0
        turns = rotary_turns(start, hidden.shape[1], head, self.config["rope_theta"], hidden)
        unevenness = []
        for place, layer in enumerate(self.layers):
            hidden, part = layer(hidden, turns, caches[place] if caches else None)
            unevenness.append(part)
        return self.norm(hidden), torch.stack(unevenness).mean()


class Reader(nn.Module):
    """The whole model."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.encoder = DeepEncoder(EncoderConfig.from_hf(config))
        self.language = LanguageModel(config["language_config"])

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Encode pages of one side, uint8 (pages, side, side, 3), without tiles.

        Returns the image tokens as the prompt holds them, (pages, q * (q + 1) + 1, width), and SAM's
        features of each patch, (pages, side / 16, side / 16, SAM's width).
        """
        encoder, sam = self.encoder, self.encoder.sam_model
        patches = sam.patch_embed(normalise(pixels, encoder.image_newline.dtype))
        shape = patches.shape
        patches = (patches + resize_table(sam.pos_embed[0], shape[1])).flatten(0, 2)
        for block in sam.blocks:
            patches = block(patches, shape[1])
        patches = patches.view(shape)
        features = sam.net_3(sam.net_2(sam.neck(patches.permute(0, 3, 1, 2))))
        both = torch.cat((encoder.vision_model(features), features.flatten(2).transpose(1, 2)), dim=-1)
        tokens = encoder.projector(both).unflatten(1, features.shape[-2:])
        pages, rows = tokens.shape[:2]
        newlines = encoder.image_newline.expand(pages, rows, 1, -1)
        laid_out = torch.cat((tokens, newlines), dim=2).flatten(1, 2)
        return torch.cat((laid_out, encoder.view_seperator.expand(pages, 1, -1)), dim=1), patches

    def embed(self, images: Tensor, tokens: Tensor) -> Tensor:
        """Put image tokens, (pages, n, width), between the first of `tokens`, (pages, t), and the rest."""
        words = self.language.embed_tokens(tokens)
        return torch.cat((words[:, :1], images.to(words.dtype), words[:, 1:]), dim=1)

    @torch.inference_mode()
    def generate(self, pixels: Tensor, prompt: Tensor, end: int, longest: int) -> list[list[int]]:
        """Read pages, uint8 (pages, side, side, 3), greedily after `prompt` (t,); without the end token."""
        images, _ = self.encode(pixels)
        return self.continue_greedily(images, prompt, end, longest)

    @torch.inference_mode()
    def continue_greedily(self, images: Tensor, prompt: Tensor, end: int, longest: int) -> list[list[int]]:
        """Return the greedy answers to one prompt about each of `images` (pages, n, width)."""
        caches = [KeyValues() for _ in self.language.layers]
        hidden, _ = self.language(self.embed(images, prompt.expand(len(images), -1)), caches)
        chosen = []
        ended = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        for _ in range(longest):
            token = self.language.lm_head(hidden[:, -1]).argmax(-1)
            chosen.append(token)
            ended |= token == end
            if len(chosen) % 16 == 0 and bool(ended.all()):
                break
            hidden, _ = self.language(self.language.embed_tokens(token[:, None]), caches)
        rows = torch.stack(chosen, dim=1).tolist()
        return [row[: row.index(end)] if end in row else row for row in rows]


def published_names(model: Reader) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield every parameter under its name in the published checkpoint."""
    for name, parameter in model.encoder.named_parameters():
        yield f"model.{name}", parameter
    for name, parameter in model.language.named_parameters():
        yield (name if name.startswith("lm_head.") else f"model.{name}"), parameter


def initialise(model: Reader, seed: int) -> None:
    """Fill every parameter: norms with one, biases with zero, the rest with small normal noise."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in published_names(model):
        values = torch.zeros(parameter.shape)
        if "norm" in name or ".neck.1." in name or ".neck.3." in name:
            values.fill_(1.0 if name.endswith("weight") else 0.0)
        elif not name.endswith(".bias"):
            values.normal_(0, spread(name, parameter), generator=generator)
        with torch.no_grad():
            parameter.copy_(values)


# Layers whose output is added to the residual stream: they start small.
ADDING = ("attn.proj.weight", "out_proj.weight", "o_proj.weight", "lin2.weight", "fc2.weight", "down_proj.weight")


def spread(name: str, parameter: Tensor) -> float:
    """Return the standard deviation a parameter starts with: its fan-in's for matrices, a constant for tables."""
    if "rel_pos" in name:
        return 0.02
    if "pos_embed" in name or "position_embedding" in name or "class_embedding" in name:
        return 0.1
    if name.endswith(("embed_tokens.weight", "image_newline", "view_seperator")):
        return 0.5
    fan_in = float(parameter[0].numel())
    return fan_in**-0.5 * (0.3 if name.endswith(ADDING) else 1.0)
