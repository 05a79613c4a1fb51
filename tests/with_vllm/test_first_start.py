"""What is compiled ahead of a first start, and that later ones know of it."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("vllm", reason="the compiling processes import vLLM")

import torch
from torch.torch_version import TorchVersion

from app.engine.vllm_first_start import FirstStart
from tools.random_checkpoint import make_config

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="there they compile for the GPU, as benchmarks.gpu_rate shows"
)
ARGUMENTS: dict[str, Any] = {"dtype": "float32", "mm_processor_kwargs": {"base_size": 128, "crop_mode": False}}
CONFIG = json.loads(json.dumps(make_config("small")))


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where compiled things are kept, nothing at first."""
    if TorchVersion(torch.__version__) < "2.12":
        pytest.skip("PyTorch up to 2.11 compiles its own attention anew for a lone view, and keeps none")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    return tmp_path


def compilers() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]


def test_a_first_start_compiles_in_parts_and_the_next_one_does_not(
    caches: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        first = FirstStart(CONFIG, ARGUMENTS, 2)
        first.wait(threading.Event())
    assert "compiled_ahead processes=2 failed=0" in caplog.text
    assert len(list((caches / "deepencoder").glob("*.bin"))) == 3
    first.succeeded()
    first.close()

    again = FirstStart(CONFIG, ARGUMENTS, 2)
    assert not compilers()
    again.wait(threading.Event())
    another = FirstStart(CONFIG, ARGUMENTS | {"dtype": "float16"}, 2)
    assert len(compilers()) == 2
    another.close()
    assert not compilers()


def test_what_goes_wrong_is_told_and_keeps_nobody(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        first = FirstStart({}, ARGUMENTS, 2)
        first.wait(threading.Event())
    assert "compiled_ahead processes=2 failed=2" in caplog.text
    assert "KeyError" in caplog.text
    assert not compilers()


def test_a_start_that_is_given_up_does_not_wait() -> None:
    first, given_up = FirstStart(CONFIG, ARGUMENTS, 2), threading.Event()
    given_up.set()
    began = time.monotonic()
    first.wait(given_up)
    assert time.monotonic() - began < 5
    assert not compilers()
