"""Attention with relative positions in one kernel of Triton's, tried beside PyTorch's in benchmarks.attention.

Keys come row by row of the picture. Within a row the score of the key's row is one number a query, and the scores of the
columns are the same numbers in each row: they are loaded once and stay in registers. Nothing is made wider for them, and no
mask of all pairs is stored, as PyTorch's kernels ask for.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

LOG2_E = 1.4426950408889634


@triton.jit
def _attend(  # type: ignore[no-untyped-def]  # Triton would take annotations for types of its own
    q, k, v, rows, columns, out,
    stride_batch, stride_head, stride_position, heads, scale,
    SIDE: tl.constexpr, PADDED: tl.constexpr, WIDTH: tl.constexpr, QUERIES: tl.constexpr,
):  # fmt: skip
    """Attend for `QUERIES` queries of one head over all SIDE * SIDE keys, one row of them at a time."""
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
    across = tl.where(real, across * 1.4426950408889634, float("-inf"))
    best = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    attended = tl.zeros([QUERIES, WIDTH], tl.float32)
    for row in range(SIDE):
        at = here + (row * SIDE + column) * stride_position
        keys = tl.load(k + at[None, :] + channel[:, None], mask=real[None, :], other=0.0)
        down = tl.load(rows + scores_at + row, mask=inside, other=0.0).to(tl.float32) * 1.4426950408889634
        scores = tl.dot(queries, keys) * scale + across + down[:, None]
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


def attend_by_rows(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor, queries: int = 128) -> Tensor:
    """Do what `deepencoder.attend_by_mask` does, on a GPU; q, k and v need the same strides, their channels one by one."""
    batch, heads, positions, width = q.shape
    side = rows.shape[-1]
    if not q.stride() == k.stride() == v.stride() or q.stride(-1) != 1:
        q, k, v = (part.contiguous() for part in (q, k, v))
    out = torch.empty(batch, heads, positions, width, dtype=q.dtype, device=q.device)
    grid = (triton.cdiv(positions, queries), batch * heads)
    _attend[grid](
        q, k, v, rows.contiguous(), columns.contiguous(), out,
        q.stride(0), q.stride(1), q.stride(2), heads, width**-0.5 * LOG2_E,
        SIDE=side, PADDED=triton.next_power_of_2(side), WIDTH=width, QUERIES=queries, num_warps=8 if queries > 64 else 4,
    )  # fmt: skip
    return out
