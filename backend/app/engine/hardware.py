"""What the machine has: GPUs and memory, asked of the driver's own tool, without PyTorch."""

from __future__ import annotations

import contextlib
import csv
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

_QUERY = ("name", "memory.total", "memory.free", "driver_version", "compute_cap")
_TIMEOUT = 20.0
MIB = 2**20


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU; memory in bytes."""

    name: str
    total: int
    free: int
    driver: str
    compute_capability: str


def cuda_device_present(visible: str | None = None, devices: Path = Path("/dev")) -> bool:
    """Say whether an NVIDIA GPU can be used here; takes microseconds. `visible` is CUDA_VISIBLE_DEVICES."""
    if _hides_all(visible):
        return False
    # /dev/dxg is the GPU as Windows lends it to Linux (WSL 2).
    return any(path.name[6:].isdigit() for path in devices.glob("nvidia*")) or (devices / "dxg").exists()


def list_gpus(visible: str | None = None) -> list[Gpu]:
    """Return the GPUs that `nvidia-smi` lists, in its order; empty without it. `visible` is CUDA_VISIBLE_DEVICES."""
    tool = shutil.which("nvidia-smi")
    if tool is None or _hides_all(visible):
        return []
    only = [f"--id={visible}"] if visible else []
    command = [tool, f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader,nounits", *only]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=True).stdout  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return []
    return parse_gpus(answer)


def parse_gpus(answer: str) -> list[Gpu]:
    """Return the GPUs in nvidia-smi's lines; a line without figures is left out."""
    gpus = []
    for row in csv.reader(answer.splitlines(), skipinitialspace=True):
        if len(row) == len(_QUERY) and row[1].isdigit() and row[2].isdigit():
            gpus.append(Gpu(row[0], int(row[1]) * MIB, int(row[2]) * MIB, row[3], row[4]))
    return gpus


def _hides_all(visible: str | None) -> bool:
    # CUDA takes the list up to the first number that is no GPU's.
    return visible is not None and (not visible.strip(", ") or visible.strip().startswith("-"))


def available_memory() -> int:
    """Return the bytes of main memory that a program could still take; where only Linux would say, all there are."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
