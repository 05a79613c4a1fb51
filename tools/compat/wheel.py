"""The wheel of a release for CUDA: downloaded, and its Python unpacked. Nothing of it is installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from tools.compat.failure import EnvironmentFailed

_DOWNLOAD = ("--disable-pip-version-check", "download", "--quiet", "--no-deps", "--only-binary", ":all:")
# What a compiler or a GPU reads; half of the wheel.
_LEFT_OUT = {".so", ".h", ".hpp", ".cuh", ".cu"}


def download_wheel(version: str, work: Path, distribution: str = "vllm") -> Path:
    """Return the wheel of a release, kept in `work` (0.3 GB); raises EnvironmentFailed."""
    folder = work / "wheels"
    name = f"{distribution.replace('-', '_')}-{version}-*.whl"
    if not list(folder.glob(name)):
        wanted = f"{distribution}=={version}"
        command = [sys.executable, "-m", "pip", *_DOWNLOAD, "--dest", str(folder), wanted]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise EnvironmentFailed(f"{wanted} could not be downloaded: {done.stderr.strip()[-400:]}")
    return next(folder.glob(name))


def unpack_python(wheel: Path, folder: Path) -> Path:
    """Unpack everything but libraries and their headers into `folder`, anew, and return it."""
    shutil.rmtree(folder, ignore_errors=True)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder, [name for name in archive.namelist() if Path(name).suffix not in _LEFT_OUT])
    return folder


def requirements(folder: Path) -> list[str]:
    """Return the requirements in an unpacked wheel's metadata, without those of extras."""
    (metadata,) = folder.glob("*.dist-info/METADATA")
    head, _, _ = metadata.read_text("utf-8").partition("\n\n")
    named = [line.partition(": ")[2] for line in head.splitlines() if line.startswith("Requires-Dist: ")]
    return [line for line in named if "extra ==" not in line]
