"""The encoder on PyTorch alone: attention, position tables, batching and the order of its tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the encoder needs PyTorch")

from app.vllm_models import deepencoder  # noqa: E402
from app.vllm_models.deepencoder import (  # noqa: E402
    SAM_EPSILON,
    ChannelNorm,
    DeepEncoder,
    EncoderConfig,
    PatchConv2d,
    RelativeAttention,
    join_windows,
    normalise,
    relative_table,
    resize_table,
    split_windows,
)
from tools.random_checkpoint import make_config, random_tensor  # noqa: E402


@pytest.fixture(scope="module")
def encoder() -> DeepEncoder:
    """The small checkpoint's encoder, in float32."""
    config = make_config("small")
    model = DeepEncoder(EncoderConfig.from_hf(config))
    for name, parameter in model.named_parameters():
        parameter.data.copy_(random_tensor(name, tuple(parameter.shape), seed=0))
    return model


@pytest.fixture(autouse=True)
def _without_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def noise(*shape: int) -> torch.Tensor:
    """Return random pixels, the same for the same shape."""
    generator = torch.Generator().manual_seed(math.prod(shape))
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def test_every_pixel_value_is_normalised_as_published() -> None:
    values = np.arange(256, dtype=np.float32)
    expected = (values / np.float32(255) - np.float32(0.5)) / np.float32(0.5)
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).expand(1, 16, 16, 3)
    normal = normalise(pixels, torch.float32)
    assert normal.shape == (1, 3, 16, 16)
    assert np.array_equal(normal[0, 1].flatten().numpy(), expected)


@pytest.mark.parametrize(("side", "bias"), [(1, False), (16, True)])
def test_a_convolution_without_overlap_is_a_matrix_product_on_the_cpu(side: int, bias: bool) -> None:
    layer = PatchConv2d(3, 5, side, stride=side, bias=bias)
    planes = noise(2, 3, 32, 48).float()
    expected = torch.nn.functional.conv2d(planes, layer.weight, layer.bias, stride=side)
    torch.testing.assert_close(layer(planes), expected, rtol=1e-5, atol=1e-3)


def test_the_channel_norm_is_a_layer_norm_over_channels() -> None:
    norm = ChannelNorm(8)
    norm.weight.data.normal_()
    norm.bias.data.normal_()
    planes = noise(2, 8, 3, 5).float()
    expected = torch.nn.functional.layer_norm(planes.movedim(1, -1), (8,), norm.weight, norm.bias, SAM_EPSILON)
    torch.testing.assert_close(norm(planes), expected.movedim(-1, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", [14, 20, 40, 64])
def test_windows_cover_the_view_once_with_zeros_past_its_edge(side: int) -> None:
    hidden = torch.rand(2, side, side, 3) + 1
    windows = split_windows(hidden, 14)
    assert len(windows) == 2 * math.ceil(side / 14) ** 2
    assert torch.equal(join_windows(windows, 14, side), hidden)
    assert int((windows != 0).sum()) == hidden.numel()
    assert torch.equal(windows[0], hidden[0, :14, :14])


def test_relative_attention_adds_a_score_for_the_distance_in_rows_and_in_columns() -> None:
    side, heads, width = 3, 2, 8
    torch.manual_seed(0)
    attention = RelativeAttention(width, heads, side).double()
    for parameter in attention.parameters():
        parameter.data.normal_()
    hidden = torch.randn(1, side, side, width, dtype=torch.double)
    q, k, v = attention.qkv(hidden).view(side, side, 3, heads, width // heads).unbind(2)
    expected = torch.empty(side, side, heads, width // heads, dtype=torch.double)
    places = [(y, x) for y in range(side) for x in range(side)]
    for head in range(heads):
        for y, x in places:
            scores = torch.stack(
                [
                    q[y, x, head] @ k[j, i, head] / math.sqrt(width // heads)
                    + q[y, x, head] @ attention.rel_pos_h[y - j + side - 1]
                    + q[y, x, head] @ attention.rel_pos_w[x - i + side - 1]
                    for j, i in places
                ]
            ).softmax(0)
            expected[y, x, head] = sum(score * v[j, i, head] for score, (j, i) in zip(scores, places, strict=True))
    result = attention(hidden)
    torch.testing.assert_close(result[0], attention.proj(expected.flatten(2)))


def test_tables_of_the_right_size_are_used_as_they_are() -> None:
    table = torch.rand(7, 5)
    assert torch.equal(relative_table(table, 4)[3, 1], table[3 - 1 + 3])
    assert torch.equal(relative_table(table, 4)[0, 3], table[0])
    positions = torch.rand(4, 4, 5)
    assert resize_table(positions, 4) is positions


def test_tables_of_another_size_keep_constants_and_slopes() -> None:
    ramp = torch.arange(127.0)[:, None].expand(-1, 2)
    resized = relative_table(ramp, 40)
    assert resized.shape == (40, 40, 2)
    assert (resized[1:, 0] > resized[:-1, 0]).all()
    assert resized[20, 20, 0].item() == pytest.approx(63, abs=0.01)
    assert torch.allclose(resize_table(torch.full((64, 64, 3), 2.5), 40), torch.tensor(2.5))


def test_tokens_are_tiles_then_the_global_view_then_the_separator(encoder: DeepEncoder) -> None:
    whole, tiles = noise(256, 256, 3), noise(6, 128, 128, 3)
    (tokens,) = encoder.embed_pictures([whole], [tiles], [(3, 2)])
    local, rest = tokens[: 4 * 7].unflatten(0, (4, 7)), tokens[4 * 7 :]
    assert rest.shape == (4 * 5 + 1, 128)
    for index, tile in enumerate(tiles):
        top, left = 2 * (index // 3), 2 * (index % 3)
        alone = encoder(tile[None])[0]
        torch.testing.assert_close(local[top : top + 2, left : left + 2], alone, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(row, encoder.image_newline) for row in local[:, -1])
    view = rest[:-1].unflatten(0, (4, 5))
    torch.testing.assert_close(view[:, :4], encoder(whole[None])[0], rtol=1e-4, atol=1e-4)
    assert all(torch.equal(row, encoder.image_newline) for row in view[:, -1])
    assert torch.equal(rest[-1], encoder.view_seperator)


def test_pictures_of_mixed_sizes_together_equal_each_alone(encoder: DeepEncoder) -> None:
    none = torch.empty(0, 0, 0, 3, dtype=torch.uint8)
    wholes = [noise(256, 256, 3), noise(128, 128, 3), noise(320, 320, 3)]
    tiles, grids = [noise(2, 128, 128, 3), none, noise(4, 256, 256, 3)], [(2, 1), (0, 0), (2, 2)]
    together = encoder.embed_pictures(wholes, tiles, grids)
    assert [len(tokens) for tokens in together] == [2 * 5 + 21, 7, 8 * 9 + 31]
    for whole, part, grid, tokens in zip(wholes, tiles, grids, together, strict=True):
        (alone,) = encoder.embed_pictures([whole], [part], [grid])
        torch.testing.assert_close(tokens, alone, rtol=1e-4, atol=1e-4)


def test_views_past_the_memory_bound_are_encoded_in_turn(encoder: DeepEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    tiles, none = noise(5, 128, 128, 3), noise(64, 64, 3)
    (at_once,) = encoder.embed_pictures([none], [tiles], [(5, 1)])
    batches: list[int] = []
    handle = encoder.register_forward_pre_hook(lambda _, args: batches.append(len(args[0])))
    monkeypatch.setattr(deepencoder, "CPU_POSITIONS", 2 * (128 // 16) ** 2)
    (in_turn,) = encoder.embed_pictures([none], [tiles], [(5, 1)])
    handle.remove()
    assert batches == [1, 2, 2, 1]
    torch.testing.assert_close(in_turn, at_once, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        ("projector_config", {"projector_type": "mlp"}, "projector is 'linear', this config says 'mlp'"),
        ("projector_config", {"input_dim": 100}, "reads 100 features; there are 64 \\+ 64"),
    ],
)
def test_a_config_that_does_not_fit_together_is_refused(part: str, values: dict[str, object], message: str) -> None:
    config = make_config("small")
    config[part] |= values
    with pytest.raises(ValueError, match=message):
        EncoderConfig.from_hf(config)
