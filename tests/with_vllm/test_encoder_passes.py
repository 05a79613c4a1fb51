"""The encoder's compiled form: the same embeddings, compiled once for any number of views. Capturing needs a GPU."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the encoder needs PyTorch")

from torch.torch_version import TorchVersion  # noqa: E402

from app.vllm_models.deepencoder import DeepEncoder, EncoderConfig  # noqa: E402
from app.vllm_models.encoder_passes import CAPTURED_VIEWS, EncoderPasses, cut  # noqa: E402
from tools.random_checkpoint import make_config, random_tensor  # noqa: E402

pytestmark = pytest.mark.filterwarnings("default")  # PyTorch's compiler warns of its own affairs
SIDES = (256, 192)
# Blocks with windows and without for each side, and CLIP's for all.
KINDS = 2
# PyTorch up to 2.11 compiles its own attention anew for a lone view; on a GPU the service has another.
LONE = (1,) if torch.cuda.is_available() or TorchVersion(torch.__version__) >= "2.12" else ()


@pytest.fixture(autouse=True)
def _without_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(params=["cpu", "cuda"])
def encoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> DeepEncoder:
    if request.param == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("capturing needs a GPU")
        # With TF32, on by default, cuDNN's convolutions round by how many views they get.
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    model = DeepEncoder(EncoderConfig.from_hf(make_config("small")))
    for name, parameter in model.named_parameters():
        parameter.data.copy_(random_tensor(name, tuple(parameter.shape), seed=0))
    return model.to(request.param)


def _require_compiler(encoder: DeepEncoder) -> None:
    headers = Path(torch.__file__).with_name("include") / "torch/csrc/inductor/cpp_prefix.h"
    if not encoder.image_newline.is_cuda and not (shutil.which("g++") and headers.exists()):
        pytest.skip("on a CPU inductor needs g++ and PyTorch's headers")


def views_of(side: int, count: int, device: torch.device) -> torch.Tensor:
    generator = torch.Generator().manual_seed(side + count)
    return torch.randint(0, 256, (count, side, side, 3), generator=generator, dtype=torch.uint8).to(device)


def test_views_are_encoded_as_before_and_compiled_once_for_any_number_of_them(encoder: DeepEncoder) -> None:
    # Here, since it takes seconds, and every process that runs tests reads this file.
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    passes = EncoderPasses(encoder, SIDES, counter)
    assert counter.frame_count == KINDS * len(SIDES) + 1
    for side in (*SIDES, 128):
        for count in (*LONE, 2, 7, max(CAPTURED_VIEWS) + 1):
            views = views_of(side, count, encoder.image_newline.device)
            torch.testing.assert_close(passes(views), encoder(views), rtol=1e-4, atol=1e-5)
    assert counter.frame_count == KINDS * len(SIDES) + 1


@pytest.mark.skipif(not LONE, reason="PyTorch up to 2.11 compiles its own attention anew for a lone view")
def test_a_lone_view_is_no_case_of_its_own(encoder: DeepEncoder) -> None:
    from torch._dynamo.testing import CompileCounterWithBackend

    _require_compiler(encoder)
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("inductor")  # which makes cases where "eager" makes none
    passes = EncoderPasses(encoder, SIDES[:1], counter)
    views = views_of(SIDES[0], 1, encoder.image_newline.device)
    torch.testing.assert_close(passes(views), encoder(views), rtol=1e-4, atol=1e-5)
    assert counter.frame_count == KINDS + 1


def test_passes_use_the_encoder_s_own_weights(encoder: DeepEncoder) -> None:
    torch._dynamo.reset()
    passes = EncoderPasses(encoder, SIDES, "eager")
    views = views_of(SIDES[0], 1, encoder.image_newline.device)
    before = passes(views)
    encoder.projector.layers.bias.data += 1
    torch.testing.assert_close(passes(views), before + 1)


def test_views_are_cut_into_as_few_captured_passes_as_fit() -> None:
    assert cut(6, CAPTURED_VIEWS) == [6]
    assert cut(7, CAPTURED_VIEWS) == [6, 1]
    assert cut(54, CAPTURED_VIEWS) == [24, 24, 6]
    assert cut(9, {1: "a pass", 4: "another"}) == [4, 4, 1]
    assert cut(0, CAPTURED_VIEWS) == []


@pytest.fixture
def kept(encoder: DeepEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where compiled blocks are kept, nothing at first."""
    from app.vllm_models.kept_blocks import can_keep

    if not can_keep():
        pytest.skip("this PyTorch keeps no compiled functions")
    if not LONE:
        pytest.skip("PyTorch up to 2.11 compiles its own attention anew for a lone view")
    _require_compiler(encoder)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    return tmp_path / "deepencoder"


def encode_anew(encoder: DeepEncoder, views: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Encode as a new start would; returns the result, and how many graphs were traced for it."""
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    before = counters["stats"]["unique_graphs"]
    encoded = EncoderPasses(encoder, SIDES[:1])(views)
    return encoded, counters["stats"]["unique_graphs"] - before


def test_compiled_blocks_are_kept_for_the_next_start(encoder: DeepEncoder, kept: Path) -> None:
    views = views_of(SIDES[0], 3, encoder.image_newline.device)
    encoded, traced = encode_anew(encoder, views)
    torch.testing.assert_close(encoded, encoder(views), rtol=1e-4, atol=1e-5)
    assert (traced, len(list(kept.iterdir()))) == (KINDS + 1, KINDS + 1)

    encoder.projector.layers.bias.data += 1
    encoder.sam_model.blocks[1].norm1.weight.data *= 2
    again, traced = encode_anew(encoder, views)
    torch.testing.assert_close(again, encoder(views), rtol=1e-4, atol=1e-5)
    assert traced == 0


def test_a_damaged_kept_block_is_compiled_again(
    encoder: DeepEncoder, kept: Path, caplog: pytest.LogCaptureFixture
) -> None:
    views = views_of(SIDES[0], 1, encoder.image_newline.device)
    encode_anew(encoder, views)
    damaged = next(kept.iterdir())
    damaged.write_bytes(damaged.read_bytes()[:1000])
    with caplog.at_level("INFO"):
        encoded, traced = encode_anew(encoder, views)
    torch.testing.assert_close(encoded, encoder(views), rtol=1e-4, atol=1e-5)
    assert (traced, f"kept_block_refused file={damaged}" in caplog.text) == (1, True)
    assert encode_anew(encoder, views)[1] == 0


def test_where_nothing_can_be_kept_blocks_are_compiled_as_pytorch_does_by_itself(
    encoder: DeepEncoder, kept: Path, caplog: pytest.LogCaptureFixture
) -> None:
    views = views_of(SIDES[0], 1, encoder.image_newline.device)
    # What operators have a variable for. PyTorch's own way, which alone can take it back: the setting has two names.
    with torch._inductor.config.patch(force_disable_caches=True), caplog.at_level("INFO"):
        encoded, traced = encode_anew(encoder, views)
    torch.testing.assert_close(encoded, encoder(views), rtol=1e-4, atol=1e-5)
    assert (traced, "encoder_not_kept" in caplog.text, kept.exists()) == (KINDS + 1, True, False)


def test_what_another_process_compiled_ahead_is_found(
    encoder: DeepEncoder, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("vllm", reason="the other process imports vLLM")
    # Left in this process by an engine for the CPU: to the other one it would be a setting, to this one it comes too late.
    monkeypatch.delenv("TORCHINDUCTOR_CPP_DYNAMIC_THREADS", raising=False)
    config, options = make_config("small"), {"base_size": SIDES[0], "crop_mode": False}
    for part in range(2):
        code = f"from app.vllm_models.compile_ahead import compile_part; compile_part({part}, 2, {config}, {options}, 'float32')"
        subprocess.run([sys.executable, "-c", code], check=True)
    assert len(list(kept.iterdir())) == KINDS + 1

    views = views_of(SIDES[0], 3, encoder.image_newline.device)
    encoded, traced = encode_anew(encoder, views)
    torch.testing.assert_close(encoded, encoder(views), rtol=1e-4, atol=1e-5)
    assert traced == 0
