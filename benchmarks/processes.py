"""Processes of benchmarks that run vLLM: how it finds our model without the service installed, caches, and their end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# For vLLM's own class: its no-repeat rule is written for this model runner, on every release.
PEER_RUNNER = {"VLLM_USE_V2_MODEL_RUNNER": "0"}

# torchvision registers shapes for these operators, which its compiled libraries define.
OPERATORS = """import torch

library = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""

# Folders in which vLLM, PyTorch, Triton, CUDA and FlashInfer keep what they compile.
CACHES = (
    "VLLM_CACHE_ROOT",
    "TORCHINDUCTOR_CACHE_DIR",
    "TRITON_CACHE_DIR",
    "CUDA_CACHE_PATH",
    "FLASHINFER_WORKSPACE_BASE",
)


def write_plugin(folder: Path) -> Path:
    """Write a distribution that holds nothing but our entry point; returns the folder for PYTHONPATH."""
    info = folder / "site" / "deepseek_ocr_benchmark-0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: deepseek-ocr-benchmark\nVersion: 0\n")
    (info / "entry_points.txt").write_text("[vllm.general_plugins]\ndeepseek_ocr = app.vllm_models:register\n")
    return folder / "site"


def write_operators(folder: Path) -> Path:
    """Write what a torchvision without its compiled libraries lacks; returns the folder for PYTHONPATH."""
    (folder / "operators").mkdir(parents=True, exist_ok=True)
    (folder / "operators" / "sitecustomize.py").write_text(OPERATORS)
    return folder / "operators"


def cache_folders(folder: Path) -> dict[str, str]:
    """Return the variables that have everything compiled kept below `folder`."""
    return {name: str(folder / "caches" / name.lower()) for name in CACHES}


def environment(site: Path, *more: Path) -> dict[str, str]:
    """Return this process's environment with what a process of vLLM's needs to run our model, or vLLM's own.

    `more` are folders that go before what PYTHONPATH has.
    """
    paths = [str(ROOT / "backend"), str(ROOT), str(site), *map(str, more)]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join([*paths, *filter(None, [os.environ.get("PYTHONPATH")])]),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }


def run_alone(module: str, arguments: Sequence[str], variables: dict[str, str], timeout: float) -> str:
    """Run a module's `main` in a process group of its own, killed whole at its end; returns what went wrong, if anything."""
    # Not "-m": functions sent to vLLM's worker must not live in __main__.
    start = f"import sys; from {module} import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen(
        [sys.executable, "-c", start, *arguments], cwd=ROOT, env=variables, start_new_session=True
    )
    try:
        status = process.wait(timeout)
        return f"exit status {status}" if status else ""
    except subprocess.TimeoutExpired:
        return f"not done after {timeout:g} s"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it may have left behind would keep the GPU's memory
        process.wait()
