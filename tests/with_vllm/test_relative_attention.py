"""Our kernel, on a GPU or in Triton's interpreter, which runs it on the CPU."""

from __future__ import annotations

import os

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("triton", reason="Triton is not installed: PyTorch brings it for GPUs only")

import torch

from app.vllm_models.deepencoder import RelativeAttention, attend_by_mask
from app.vllm_models.relative_attention import attend_by_rows

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Of float32, which a GPU's matrix units shorten to ten bits.
CLOSE = 1e-4 if DEVICE == "cpu" else 1e-2
pytestmark = pytest.mark.skipif(
    DEVICE == "cpu" and os.environ.get("TRITON_INTERPRET") != "1", reason="needs a GPU, or TRITON_INTERPRET=1"
)


@pytest.mark.parametrize("side", [3, 14, 20])
@pytest.mark.parametrize("width", [8, 48, 64])
def test_the_kernel_attends_as_a_mask_does(side: int, width: int) -> None:
    torch.manual_seed(side)
    q, k, v = torch.randn(2, side * side, 3, 3, width, device=DEVICE).permute(2, 0, 3, 1, 4)
    rows, columns = torch.randn(2, 2, 3, side * side, side, device=DEVICE)
    expected = attend_by_mask(q, k, v, rows, columns)
    torch.testing.assert_close(attend_by_rows(q, k, v, rows, columns), expected, atol=CLOSE, rtol=CLOSE)
    halves = (part.half() for part in (q, k, v, rows, columns))
    torch.testing.assert_close(attend_by_rows(*halves).float(), expected, atol=2e-2, rtol=2e-2)


@pytest.mark.filterwarnings("default")  # of PyTorch's compiler
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU: compiled kernels run on nothing else")
@pytest.mark.parametrize("side", [14, 40])
def test_compiled_attention_is_that_of_float32(side: int) -> None:
    torch.manual_seed(side)
    exact = RelativeAttention(192, 3, side).cuda().requires_grad_(False)
    for parameter in exact.parameters():
        parameter.normal_(std=0.1)
    hidden = torch.randn(2, side, side, 192, device=DEVICE)
    served = RelativeAttention(192, 3, side).cuda().bfloat16().requires_grad_(False)
    served.load_state_dict(exact.state_dict())
    served.compile(dynamic=False, fullgraph=True)
    result, expected = served(hidden.bfloat16()).float(), exact(hidden)
    assert (result - expected).square().mean().sqrt() < 0.02 * expected.square().mean().sqrt()
