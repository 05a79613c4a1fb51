"""What the decoder's worker processes run: `decode` under a memory limit."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
from collections.abc import Iterator, Sequence
from pathlib import Path

from app.exchange import Exchange, Shipped
from app.ingest.choice import PageChoice
from app.ingest.decode import decode, decode_picture
from app.ingest.limits import IngestLimits
from app.ingest.picture import BoxOfPixels, crop_pictures, draw_picture
from app.vllm_models.scaling import size_of
from app.vllm_models.views import ViewOptions, cut

# Address space one decoding may add: see memory_allowance.
_BYTES_PER_PIXEL = 32
_COPIES_OF_UPLOAD = 3
_FIXED_BYTES = 256 * 2**20

# malloc.h of glibc: its parameters, and what they are set to. The second is the most that glibc takes.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_KEPT_BYTES, _LARGEST_KEPT = 64 * 2**20, 32 * 2**20

_STATM = Path("/proc/self/statm")

_exchange: Exchange | None = None


def prepare_process(exchange: Exchange) -> None:
    """Take the exchange that pages are handed over in; let a crash leave no core file with the document in it."""
    global _exchange
    _exchange = exchange
    # libtiff writes a line per damaged row to standard error; what matters comes back through the pipe.
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 2)
    os.close(silence)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Have malloc keep what a page has freed for the next one, instead of giving it back to the kernel.

    Cutting an A4 page at 150 dpi into views costs up to 9,000 page faults otherwise, a fifth of its processor time. Threads
    share what is kept: memory of its own for each would take 64 MB of address space. glibc only.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT)
        mallopt(_M_ARENA_MAX, 1)


def decode_confined(
    source: bytes | Path, limits: IngestLimits, choice: PageChoice
) -> tuple[Shipped, str, int, int, float | None]:
    """Return what makes the Page of `decode(source, limits, choice)`, its pixels to be shipped.

    A file that wants more memory than `memory_allowance` is refused.
    """
    assert _exchange is not None, "prepare_process runs first"
    with _confined(source, limits):
        page = decode(source, limits, choice)
    return _exchange.ship_away(page.pixels), page.source_format, page.number, page.pages, page.dpi


def cut_confined(
    source: bytes | Path, limits: IngestLimits, choice: PageChoice, options: ViewOptions
) -> tuple[tuple[Shipped, int, int, tuple[int, int]], int, int, str, int, int, float | None]:
    """Return what makes the CutPage of `decode(source, limits, choice)`, under the same limit.

    Its first part is what its Views lie in, the pixels to be shipped.
    """
    assert _exchange is not None, "prepare_process runs first"
    with _confined(source, limits):
        picture, facts = decode_picture(source, limits, choice)
        pixels, base, side, grid = cut(picture, options)
    return (_exchange.ship_away(pixels), base, side, grid), *size_of(picture), *facts


def crop_confined(
    source: bytes | Path, limits: IngestLimits, choice: PageChoice, boxes: Sequence[BoxOfPixels]
) -> list[bytes]:
    """Return `crop_pictures(source, limits, choice, boxes)` under the same limit."""
    with _confined(source, limits):
        return crop_pictures(source, limits, choice, boxes)


def draw_confined(source: bytes | Path, limits: IngestLimits, choice: PageChoice, width: int) -> Shipped:
    """Return `draw_picture(source, limits, choice, width)`, to be shipped, under the same limit."""
    assert _exchange is not None, "prepare_process runs first"
    with _confined(source, limits):
        return _exchange.ship(draw_picture(source, limits, choice, width))


def _confined(source: bytes | Path, limits: IngestLimits) -> contextlib.AbstractContextManager[None]:
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    return address_space_limit(memory_allowance(size, limits))


def memory_allowance(upload_bytes: int, limits: IngestLimits) -> int:
    """Return the bytes of address space that decoding one upload may add to the process.

    Per pixel, measured over all formats: 25 at most, for JPEG 2000 with alpha in a single tile; 16 for
    WebP, 10 for AVIF and HEIC, 7 for the others, of which 3 are the page and 4 Pillow's own copy.
    A PDF's page takes 3, and what its own pictures take comes on top.
    Some decoders copy the upload. The fixed part is for small pictures, thread stacks and allocator arenas.
    """
    return _BYTES_PER_PIXEL * limits.max_pixels + _COPIES_OF_UPLOAD * upload_bytes + _FIXED_BYTES


@contextlib.contextmanager
def address_space_limit(allowance: int) -> Iterator[None]:
    """Let the process map at most `allowance` bytes more than it has; past that, MemoryError. Linux only."""
    if not _STATM.exists():
        yield
        return
    mapped = int(_STATM.read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = mapped + allowance
    resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
