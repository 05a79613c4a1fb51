"""What old builds of vLLM need before Debian 12 can load them: a name, newer symbols, libraries to be preloaded.

The wheels were built with a newer libstdc++ than GCC 12's. Of it they use one or two functions only.
"""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

# Newer than GCC 12's libstdc++ and libsupc++.
_TOO_NEW = (
    b"GLIBCXX_3.4.31", b"GLIBCXX_3.4.32", b"GLIBCXX_3.4.33", b"GLIBCXX_3.4.34", b"CXXABI_1.3.14", b"CXXABI_1.3.15",
    b"CXXABI_1.3.16",
)  # fmt: skip
_VERSION_NEEDS, _WEAK = 0x6FFFFFFE, 2

# The functions of those versions that the wheels call; _ZSt21ios_base_library_initv fills std::cout and its kin.
_SUPPLEMENT = r"""
#include <exception>
#include <ios>
#include <iostream>
extern "C" void *__cxa_begin_catch(void *) noexcept;
extern "C" void _ZSt21ios_base_library_initv() { static std::ios_base::Init filled; }
extern "C" void __cxa_call_terminate(void *thrown) noexcept {
    if (thrown) __cxa_begin_catch(thrown);
    std::terminate();
}
"""


def make_loadable(site: Path, version: tuple[int, ...], folder: Path) -> list[Path]:
    """Prepare the vLLM in `site`; return the libraries to preload, made in `folder`."""
    if version < (0, 17):
        # Up to 0.16 vLLM finds out that it is the CPU build by the version of a distribution named vllm.
        name_distribution(site, ".".join(map(str, version)))
    preloaded = []
    if sum(relax_version_needs(library) for library in sorted((site / "vllm").glob("_C*.so"))):
        preloaded.append(_compile(folder / "libsupplement.so", _SUPPLEMENT))
    if version[:2] == (0, 18):
        # That release refuses to start without libraries of these names in LD_PRELOAD; nothing of them is called.
        preloaded += [_compile(folder / f"{name}.so", "") for name in ("libtcmalloc_empty", "libiomp5_empty")]
    return preloaded


def name_distribution(site: Path, version: str) -> None:
    """Write down that the vLLM in `site` is a release's build for the CPU, under the name vllm."""
    info = site / f"vllm-{version}+cpu.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")
    (info / "RECORD").write_text("")


def relax_version_needs(library: Path) -> int:
    """Mark a library's needs of too new symbol versions as weak, which the loader forgives; return their number.

    The file is replaced, not written to: it may be a hard link into a cache.
    """
    data = bytearray(library.read_bytes())
    needs = [place for place, name in _version_needs(data) if name in _TOO_NEW]
    if needs:
        for place in needs:
            (flags,) = struct.unpack_from("<H", data, place + 4)
            struct.pack_into("<H", data, place + 4, flags | _WEAK)
        replacement = library.with_suffix(".new")
        replacement.write_bytes(data)
        replacement.chmod(library.stat().st_mode)
        replacement.replace(library)
    return len(needs)


def _version_needs(data: bytearray) -> Iterator[tuple[int, bytes]]:
    """Yield the place of each Elf64_Vernaux and the version it names."""
    (table,) = struct.unpack_from("<Q", data, 0x28)
    size, count = struct.unpack_from("<HH", data, 0x3A)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, table + number * size) for number in range(count)]
    for section in sections:
        if section[1] != _VERSION_NEEDS:
            continue
        strings = sections[section[6]][4]
        place = section[4]
        while True:
            _, entries, _, first, following = struct.unpack_from("<HHIII", data, place)
            entry = place + first
            for _ in range(entries):
                _, _, _, name, step = struct.unpack_from("<IHHII", data, entry)
                start = strings + name
                yield entry, bytes(data[start : data.index(0, start)])
                entry += step
            if not following:
                break
            place += following


def _compile(library: Path, source: str) -> Path:
    command = ["g++", "-x", "c++", "-shared", "-fPIC", "-O1", "-o", str(library), "-"]
    subprocess.run(command, input=source, text=True, check=True, capture_output=True)
    return library
