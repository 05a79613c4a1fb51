"""DeepEncoder: SAM, then CLIP on SAM's features, then a linear projection to the language model's width.

Plain PyTorch; nothing of vLLM. Parameter names are those of the published checkpoint without its
leading "model.". Sizes come from the checkpoint's config.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Published with SAM and DeepSeek-OCR and written in no config.
SAM_PATCH = 16
SAM_WINDOW = 14
SAM_TABLE_SIDE = 64
NECK_CHANNELS = 256
MLP_RATIO = 4
SAM_EPSILON, CLIP_EPSILON = 1e-6, 1e-5

# Positions (patches) encoded at once; more would not be faster. In bf16 each took 21 KiB at the peak (one H200),
# so that one for each 512 KiB of a GPU's memory keeps a chunk below a twentieth of it.
BYTES_PER_POSITION = 2**19
MOST_POSITIONS, CPU_POSITIONS = 65536, 8192

# Square views of one size, uint8 (views, side, side, 3), to (views, q, q, width) with q = side / 64.
Encode = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes of the encoder; `clip_table_side` is the side of CLIP's position table, in patches."""

    sam_width: int
    sam_layers: int
    sam_heads: int
    sam_global_layers: frozenset[int]
    channels: tuple[int, int]
    clip_width: int
    clip_layers: int
    clip_heads: int
    clip_patch: int
    clip_table_side: int
    output_width: int

    @classmethod
    def from_hf(cls, config: Any) -> EncoderConfig:
        """Read the sizes from a checkpoint's config object (or its JSON)."""
        vision, projector = _member(config, "vision_config"), _member(config, "projector_config")
        widths = _member(vision, "width")
        sam, clip = widths["sam_vit_b"], widths["clip-l-14-224"]
        channels = tuple(sam["downsample_channels"])
        sizes = cls(
            sam_width=sam["width"],
            sam_layers=sam["layers"],
            sam_heads=sam["heads"],
            sam_global_layers=frozenset(sam["global_attn_indexes"]),
            channels=(channels[0], channels[1]),
            clip_width=clip["width"],
            clip_layers=clip["layers"],
            clip_heads=clip["heads"],
            clip_patch=clip["patch_size"],
            clip_table_side=clip["image_size"] // clip["patch_size"],
            output_width=_member(projector, "n_embed"),
        )
        sizes.check(_member(projector, "projector_type"), _member(projector, "input_dim"))
        return sizes

    def check(self, projector_type: str, input_dim: int) -> None:
        """Raise ValueError for sizes that do not fit together."""
        if projector_type != "linear":
            raise ValueError(f"DeepSeek-OCR's projector is 'linear', this config says {projector_type!r}.")
        if self.channels[1] != self.clip_width:
            raise ValueError(f"SAM ends in {self.channels[1]} channels, but CLIP's width is {self.clip_width}.")
        if self.channels[1] + self.clip_width != input_dim:
            raise ValueError(
                f"The projector reads {input_dim} features; there are {self.channels[1]} + {self.clip_width}."
            )


def _member(config: Any, name: str) -> Any:
    return config[name] if isinstance(config, Mapping) else getattr(config, name)


class LinearProjector(nn.Module):
    """The projection into the language model's width; a module of its own for its parameter names."""

    def __init__(self, input_width: int, output_width: int) -> None:
        super().__init__()
        self.layers = nn.Linear(input_width, output_width)

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features)


class DeepEncoder(nn.Module):
    """Views of pictures in, token embeddings out."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.sam_model = SamEncoder(config)
        self.vision_model = ClipEncoder(config)
        self.projector = LinearProjector(config.channels[1] + config.clip_width, config.output_width)
        self.image_newline = nn.Parameter(torch.empty(config.output_width))
        # Spelt as in the checkpoint.
        self.view_seperator = nn.Parameter(torch.empty(config.output_width))

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode square views of one size.

        `pixels` is uint8 (views, side, side, 3); the result (views, q, q, width) with q = side / 64.
        """
        features = self.sam_model(normalise(pixels, self.image_newline.dtype))
        tokens = self.vision_model(features)
        both = torch.cat((tokens, features.flatten(2).transpose(1, 2)), dim=-1)
        return self.projector(both).unflatten(1, features.shape[-2:])

    def embed_pictures(
        self,
        global_views: Sequence[Tensor],
        tiles: Sequence[Tensor],
        grids: Sequence[tuple[int, int]],
        encode: Encode | None = None,
    ) -> list[Tensor]:
        """Return each picture's token embeddings, (placeholders, width), in the order of the prompt.

        `global_views[i]` is uint8 (base, base, 3); `tiles[i]` uint8 (columns * rows, side, side, 3) in
        row-major order of `grids[i]` = (columns, rows). Views of one size are encoded together, whichever
        picture they come from, by `encode` where it is given: `forward` made faster.
        """
        most = positions_at_once(self.image_newline)
        encoded = _encode_by_size([*(view[None] for view in global_views), *tiles], encode or self, most)
        wholes, parts = encoded[: len(global_views)], encoded[len(global_views) :]
        return [self._lay_out(whole[0], part, grid) for whole, part, grid in zip(wholes, parts, grids, strict=True)]

    def _lay_out(self, whole: Tensor, tiles: Tensor, grid: tuple[int, int]) -> Tensor:
        """Put one picture's tokens in order: tiles as one stitched grid, the global view, the separator."""
        pieces = [self._end_rows(whole), self.view_seperator[None]]
        columns, rows = grid
        if columns:
            stitched = tiles.unflatten(0, (rows, columns)).transpose(1, 2).flatten(2, 3).flatten(0, 1)
            pieces.insert(0, self._end_rows(stitched))
        return torch.cat(pieces)

    def _end_rows(self, tokens: Tensor) -> Tensor:
        """Write a newline embedding after each row of (rows, columns, width) and flatten the rows."""
        newlines = self.image_newline.expand(tokens.shape[0], 1, -1)
        return torch.cat((tokens, newlines), dim=1).flatten(0, 1)


def _encode_by_size(groups: Sequence[Tensor], encode: Encode, positions: int) -> list[Tensor]:
    """Encode groups of views, (views, side, side, 3) each, and return them as (views, q, q, width).

    At most so many `positions` go into one call, but for a single view.
    """
    encoded = list(groups)
    for side in sorted({group.shape[1] for group in groups if len(group)}):
        members = [i for i, group in enumerate(groups) if len(group) and group.shape[1] == side]
        pixels = torch.cat([groups[i] for i in members])
        views = max(1, positions // (side // SAM_PATCH) ** 2)
        features = torch.cat([encode(chunk) for chunk in pixels.split(views)])
        for i, part in zip(members, features.split([len(groups[i]) for i in members]), strict=True):
            encoded[i] = part
    return encoded


def normalise(pixels: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn uint8 (views, side, side, 3) into `dtype` (views, 3, side, side) around zero.

    To [0, 1], minus 0.5, over 0.5, in float32 and in this order: bit for bit the published preprocessing.
    """
    scaled = pixels.to(torch.float32).div_(255).sub_(0.5).div_(0.5)
    return scaled.to(dtype).permute(0, 3, 1, 2).contiguous()


def positions_at_once(weights: Tensor) -> int:
    """Return how many patches may be encoded in one go where and in the number format in which the weights are."""
    if not has_kernel(weights):
        return CPU_POSITIONS
    memory = torch.cuda.get_device_properties(weights.device).total_memory
    return min(MOST_POSITIONS, int(memory // BYTES_PER_POSITION))


class SamEncoder(nn.Module):
    """SAM's image encoder with its neck and two more convolutions of stride 2."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        width, (middle, last) = config.sam_width, config.channels
        self.patch_embed = PatchEmbedding(width)
        self.pos_embed = nn.Parameter(torch.empty(1, SAM_TABLE_SIDE, SAM_TABLE_SIDE, width))
        self.blocks = nn.ModuleList(
            SamBlock(width, config.sam_heads, 0 if layer in config.sam_global_layers else SAM_WINDOW)
            for layer in range(config.sam_layers)
        )
        self.neck = nn.Sequential(
            PatchConv2d(width, NECK_CHANNELS, 1, bias=False),
            ChannelNorm(NECK_CHANNELS),
            nn.Conv2d(NECK_CHANNELS, NECK_CHANNELS, 3, padding=1, bias=False),
            ChannelNorm(NECK_CHANNELS),
        )
        self.net_2 = nn.Conv2d(NECK_CHANNELS, middle, 3, stride=2, padding=1, bias=False)
        self.net_3 = nn.Conv2d(middle, last, 3, stride=2, padding=1, bias=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode (views, 3, side, side) into (views, channels, side / 64, side / 64)."""
        hidden = self.patch_embed(pixels)
        shape = hidden.shape
        hidden = (hidden + resize_table(self.pos_embed[0], shape[1])).flatten(0, 2)
        for block in self.blocks:
            hidden = block(hidden, shape[1])
        return self.net_3(self.net_2(self.neck(hidden.view(shape).permute(0, 3, 1, 2))))


class PatchEmbedding(nn.Module):
    """Patches to vectors; a module of its own for its parameter names."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = PatchConv2d(3, width, SAM_PATCH, stride=SAM_PATCH)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.proj(pixels).permute(0, 2, 3, 1)


class PatchConv2d(nn.Conv2d):
    """A convolution whose patches do not overlap, as a matrix product.

    On a CPU vLLM's own layer does the same, and only so is the result the same bit for bit. On a GPU it is faster: cuDNN
    takes 0.26 ms of a view's 5.6 (one H200, PyTorch 2.11, bf16, 8 views of 1024 px).
    """

    def forward(self, planes: Tensor) -> Tensor:
        height, width = self.kernel_size
        patches = planes.unfold(2, height, height).unfold(3, width, width).permute(0, 2, 3, 1, 4, 5)
        return F.linear(patches.flatten(3), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


class ChannelNorm(nn.Module):
    """Layer norm over the channels of (views, channels, height, width)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels))
        self.bias = nn.Parameter(torch.empty(channels))

    def forward(self, hidden: Tensor) -> Tensor:
        # The published steps: in bfloat16 each of them rounds, which F.layer_norm would not do.
        centred = hidden - hidden.mean(1, keepdim=True)
        normed = centred / torch.sqrt(centred.pow(2).mean(1, keepdim=True) + SAM_EPSILON)
        return self.weight[:, None, None] * normed + self.bias[:, None, None]


class SamBlock(nn.Module):
    """A transformer block on (views * side * side, channels); `window` 0 attends to the whole view."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.norm1 = nn.LayerNorm(width, eps=SAM_EPSILON)
        self.attn = RelativeAttention(width, heads, window or SAM_TABLE_SIDE)
        self.norm2 = nn.LayerNorm(width, eps=SAM_EPSILON)
        self.mlp = SamMlp(width)

    def forward(self, hidden: Tensor, side: int) -> Tensor:
        normed = self.norm1(hidden).view(-1, side, side, hidden.shape[-1])
        if self.window:
            attended = join_windows(self.attn(split_windows(normed, self.window)), self.window, side)
        else:
            attended = self.attn(normed)
        hidden = hidden + attended.flatten(0, 2)
        return hidden + self.mlp(self.norm2(hidden))


class SamMlp(nn.Module):
    """Two linear layers with a GELU; a module of its own for its parameter names."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(width, MLP_RATIO * width)
        self.lin2 = nn.Linear(MLP_RATIO * width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.lin2(F.gelu(self.lin1(hidden)))


def split_windows(hidden: Tensor, window: int) -> Tensor:
    """Cut (views, side, side, channels) into (views * windows, window, window, channels), zeros past the edge."""
    views, side, _, channels = hidden.shape
    across = math.ceil(side / window)
    padded = F.pad(hidden, (0, 0, 0, across * window - side, 0, across * window - side))
    cut = padded.view(views, across, window, across, window, channels).transpose(2, 3)
    return cut.reshape(-1, window, window, channels)


def join_windows(windows: Tensor, window: int, side: int) -> Tensor:
    """Undo `split_windows` for views of `side` positions."""
    across, channels = math.ceil(side / window), windows.shape[-1]
    cut = windows.view(-1, across, across, window, window, channels).transpose(2, 3)
    return cut.reshape(-1, across * window, across * window, channels)[:, :side, :side]


class RelativeAttention(nn.Module):
    """Attention with relative positions, learned apart for height and width and added to the scores."""

    def __init__(self, width: int, heads: int, side: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.rel_pos_h = nn.Parameter(torch.empty(2 * side - 1, width // heads))
        self.rel_pos_w = nn.Parameter(torch.empty(2 * side - 1, width // heads))

    def forward(self, hidden: Tensor) -> Tensor:
        """Attend within each of (batch, side, side, channels)."""
        side = hidden.shape[1]
        q, k, v = split_heads(self.qkv(hidden.flatten(1, 2)), self.heads)
        rows = line_scores(q, relative_table(self.rel_pos_h, side), by_columns=False)
        columns = line_scores(q, relative_table(self.rel_pos_w, side), by_columns=True)
        if has_kernel(q):
            from app.vllm_models.relative_attention import attend_by_rows  # needs Triton, which only GPUs have

            attended = attend_by_rows(q, k, v, rows, columns)
        else:
            attended = attend_by_mask(q, k, v, rows, columns)
        return self.proj(attended.transpose(1, 2).reshape(hidden.shape))


def split_heads(qkv: Tensor, heads: int) -> list[Tensor]:
    """Return queries, keys and values, (batch, heads, positions, width) each, of (batch, positions, 3 * heads * width).

    By strides, as in `line_scores`: in views by sizes torch.compile makes a batch of one a case of its own, for which it
    compiles all again.
    """
    batch, positions, features = qkv.shape
    width = features // (3 * heads)
    sizes, strides = (batch, heads, positions, width), (positions * features, width, features, 1)
    whole = qkv.contiguous()
    return [whole.as_strided(sizes, strides, part * heads * width) for part in range(3)]


def line_scores(q: Tensor, table: Tensor, by_columns: bool) -> Tensor:
    """Return how much each query likes each row of keys, or each column: (batch, heads, side * side, side).

    `q` is (batch, heads, side * side, width), and `table` (query, key, width) for the places of both in a column, or row.
    """
    batch, heads, _, width = q.shape
    side = len(table)
    line, place = (1, side) if by_columns else (side, 1)
    strides = (line * q.stride(2), q.stride(0), q.stride(1), place * q.stride(2), 1)
    lines = q.as_strided((side, batch, heads, side, width), strides).contiguous()
    # As `split_heads`: of a view by sizes for the product, PyTorch 2.11 would make a case.
    count = batch * heads * side
    flat = lines.as_strided((side, count, width), (count * width, width, 1))
    scores = torch.bmm(flat, table.transpose(1, 2)).view(side, batch, heads, side, side)
    across = scores.permute(1, 2, 3, 0, 4) if by_columns else scores.permute(1, 2, 0, 3, 4)
    return across.contiguous().flatten(2, 3)


def has_kernel(values: Tensor) -> bool:
    """Whether to attend with our own kernel: on a GPU, but not in float32, to keep to what other implementations compute."""
    return values.is_cuda and values.dtype != torch.float32


def attend_by_mask(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Attend with the row and column scores as an additive mask over all pairs of positions."""
    mask = (rows.unsqueeze(-1) + columns.unsqueeze(-2)).flatten(-2)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def relative_table(table: Tensor, side: int) -> Tensor:
    """Return (query, key, channels): the entry of `table` for each distance between two of `side` positions.

    A table made for another side is resized linearly.
    """
    if len(table) != 2 * side - 1:
        stretched = F.interpolate(table.float().T[None], size=2 * side - 1, mode="linear")
        table = stretched[0].T.to(table.dtype)
    places = torch.arange(side, device=table.device)
    return table[places[:, None] - places[None, :] + side - 1]


def resize_table(table: Tensor, side: int) -> Tensor:
    """Return a position table (rows, columns, channels) resized to `side` x `side`."""
    if table.shape[0] == side:
        return table
    planes = table.float().permute(2, 0, 1)[None]
    resized = F.interpolate(planes, size=(side, side), mode="bicubic", antialias=True, align_corners=False)
    return resized[0].permute(1, 2, 0).to(table.dtype)


class ClipEncoder(nn.Module):
    """CLIP's vision transformer on features instead of pixels, without its last norm."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.embeddings = ClipEmbeddings(config.clip_width, config.clip_table_side)
        # Spelt as in the checkpoint.
        self.pre_layrnorm = nn.LayerNorm(config.clip_width, eps=CLIP_EPSILON)
        self.transformer = ClipLayers(config)

    def forward(self, features: Tensor) -> Tensor:
        """Turn (views, channels, q, q) into (views, q * q, channels)."""
        hidden = self.pre_layrnorm(self.embeddings(features))
        return self.transformer(hidden)[:, 1:]


class ClipEmbeddings(nn.Module):
    """The class token and the position table; the features take the place of patches."""

    def __init__(self, width: int, table_side: int) -> None:
        super().__init__()
        self.table_side = table_side
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.position_embedding = nn.Embedding(table_side**2 + 1, width)

    def forward(self, features: Tensor) -> Tensor:
        views, channels, side, _ = features.shape
        table = self.position_embedding.weight
        grid = resize_table(table[1:].view(self.table_side, self.table_side, channels), side)
        tokens = torch.cat((self.class_embedding.expand(views, 1, -1), features.flatten(2).transpose(1, 2)), dim=1)
        return tokens + torch.cat((table[:1], grid.flatten(0, 1)))


class ClipLayers(nn.Module):
    """The transformer's layers; a module of its own for its parameter names."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ClipLayer(config.clip_width, config.clip_heads) for _ in range(config.clip_layers))

    def forward(self, hidden: Tensor) -> Tensor:
        for layer in self.layers:
            hidden = layer(hidden)
        return hidden


class ClipLayer(nn.Module):
    """A transformer block on (views, tokens, channels)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(width, eps=CLIP_EPSILON)
        self.self_attn = ClipAttention(width, heads)
        self.layer_norm2 = nn.LayerNorm(width, eps=CLIP_EPSILON)
        self.mlp = ClipMlp(width)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + self.self_attn(self.layer_norm1(hidden))
        return hidden + self.mlp(self.layer_norm2(hidden))


class ClipAttention(nn.Module):
    """Plain attention with one matrix for queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        q, k, v = split_heads(self.qkv_proj(hidden), self.heads)
        attended = F.scaled_dot_product_attention(q, k, v)
        return self.out_proj(attended.transpose(1, 2).reshape(hidden.shape))


class ClipMlp(nn.Module):
    """Two linear layers with CLIP's quick GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, MLP_RATIO * width)
        self.fc2 = nn.Linear(MLP_RATIO * width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        wide = self.fc1(hidden)
        return self.fc2(wide * torch.sigmoid(1.702 * wide))
