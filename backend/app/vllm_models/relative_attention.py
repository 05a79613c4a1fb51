"""SAM's attention with relative positions as one kernel of Triton's, for GPUs.

Keys come row by row of the picture. Within a row the score of the key's row is one number a query, and the scores of the
columns are the same numbers in each row: they are loaded once and stay in registers. Nothing is made wider for them, and no
mask of all pairs is stored, as PyTorch's kernels ask for. One H200, PyTorch 2.11, bf16, in milliseconds: 8 views of 64 x 64
positions 1.23, and 6.9 with the positions as further features of the keys and the kernel that vLLM leaves PyTorch; 24 tiles of
40 x 40 0.87 and 3.4; 216 windows of 14 x 14 0.20, and 0.39 with a compiled mask.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

# Queries of one program, and how it runs: the fastest of 64 and 128 queries, 4 and 8 warps, 2 and 3 stages on an H200.
QUERIES = 64
LAUNCH = triton.Config({"QUERIES": QUERIES}, num_warps=4, num_stages=3)
LOG2_E = 1.4426950408889634


@triton.autotune([LAUNCH], key=[])  # one choice only: torch.compile takes warps and stages from here, not from a call
@triton.jit
def _attend(  # type: ignore[no-untyped-def]  # Triton would take annotations for types of its own
    q, k, v, rows, columns, out,
    stride_batch, stride_head, stride_position, heads,
    SCALE: tl.constexpr, SIDE: tl.constexpr, PADDED: tl.constexpr, WIDTH: tl.constexpr, QUERIES: tl.constexpr,
):  # fmt: skip
    """Attend for `QUERIES` queries of one head over all SIDE * SIDE keys, one row of them at a time.

    `SCALE` is a constant, since torch.compile would hand it over in 64 bits, in which the scores would then be computed.
    """
    batch, head = tl.program_id(1) // heads, tl.program_id(1) % heads
    positions = SIDE * SIDE
    here = batch.to(tl.int64) * stride_batch + head * stride_head
    query = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    inside = query < positions
    column = tl.arange(0, PADDED)
    real = column < SIDE
    channel = tl.arange(0, WIDTH)
    queries = tl.load(q + here + query[:, None] * stride_position + channel, mask=inside[:, None], other=0.0)
    # (queries, SIDE) of each head, one after the other
    scores_at = (tl.program_id(1).to(tl.int64) * positions + query) * SIDE
    across = tl.load(columns + scores_at[:, None] + column, mask=inside[:, None] & real, other=0.0).to(tl.float32)
    # LOG2_E spelt out: a kernel sees no numbers outside of it. Scores are powers of two from here on.
    across = tl.where(real, across * 1.4426950408889634, float("-inf"))
    best = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    attended = tl.zeros([QUERIES, WIDTH], tl.float32)
    for row in range(SIDE):
        at = here + (row * SIDE + column) * stride_position
        keys = tl.load(k + at[None, :] + channel[:, None], mask=real[None, :], other=0.0)
        down = tl.load(rows + scores_at + row, mask=inside, other=0.0).to(tl.float32) * 1.4426950408889634
        scores = tl.dot(queries, keys) * SCALE + across + down[:, None]
        higher = tl.maximum(best, tl.max(scores, 1))
        shares = tl.exp2(scores - higher[:, None])
        fade = tl.exp2(best - higher)
        total = total * fade + tl.sum(shares, 1)
        values = tl.load(v + at[:, None] + channel, mask=real[:, None], other=0.0)
        attended = tl.dot(shares.to(values.dtype), values, acc=attended * fade[:, None])
        best = higher
    attended = attended / total[:, None]
    there = (tl.program_id(1).to(tl.int64) * positions + query) * WIDTH
    tl.store(out + there[:, None] + channel, attended.to(out.dtype.element_ty), mask=inside[:, None])


def attend_by_rows(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Do what `deepencoder.attend_by_mask` does.

    q, k and v are (batch, heads, side * side, width), all with the same strides; rows and columns (batch, heads, side * side,
    side).
    """
    batch, heads, positions, width = q.shape
    side, channels = rows.shape[-1], padded(width)
    if channels != width:
        q, k, v = (F.pad(part, (0, channels - width)) for part in (q, k, v))
    out = torch.empty((batch, heads, positions, channels), dtype=q.dtype, device=q.device)
    _attend[(triton.cdiv(positions, QUERIES), batch * heads)](
        q, k, v, rows.contiguous(), columns.contiguous(), out,
        q.stride(0), q.stride(1), q.stride(2), heads,
        SCALE=width**-0.5 * LOG2_E, SIDE=side, PADDED=padded(side), WIDTH=channels,
    )  # fmt: skip
    return out[..., :width]


def padded(length: int) -> int:
    """Return the side of the smallest matrix that Triton multiplies and that has room for `length`."""
    return max(16, 1 << (length - 1).bit_length())
