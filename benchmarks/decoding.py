"""What a decoder process spends on a page: the upload decoded, and cut into views, as the service does it.

    python -m benchmarks.decoding --pages 16 --rate 45

Reads drawn A4 pages at 150 dpi (JPEG, quality 90), one after another through one decoder, and says how many decoders a
rate needs. Processor time is the decoder's own; the time on the clock has the way to it and back.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import time
from pathlib import Path
from typing import Any

import psutil

from app.engine.base import Resolution
from app.ingest.choice import FIRST_PAGE
from app.ingest.decoder import Decoder
from app.ingest.limits import IngestLimits
from app.ocr.resolution import RESOLUTIONS
from app.vllm_models.views import ViewOptions
from benchmarks.machine import describe_machine
from benchmarks.uploads import draw_page

LIMITS = IngestLimits(max_pixels=100_000_000, max_frames=500, decode_timeout=60)


async def measure(decoder: Decoder, pages: list[bytes], resolution: Resolution, rounds: int) -> dict[str, Any]:
    """Cut every page `rounds` times; returns milliseconds a page."""
    options = ViewOptions(resolution.base_size, resolution.image_size, resolution.crop_mode)
    await decoder.cut(pages[0], FIRST_PAGE, options)
    before, faults, own = children_seconds(), page_faults(), time.process_time()
    walls = []
    for _ in range(rounds):
        for page in pages:
            started = time.perf_counter()
            await decoder.cut(page, FIRST_PAGE, options)
            walls.append((time.perf_counter() - started) * 1000)
    count = rounds * len(pages)
    user, system = (after - then for after, then in zip(children_seconds(), before, strict=True))
    return {
        "user_ms": round(1000 * user / count, 1),
        "system_ms": round(1000 * system / count, 1),
        "page_faults": round((page_faults() - faults) / count),
        "front_end_ms": round(1000 * (time.process_time() - own) / count, 1),
        "fastest_ms": round(min(walls), 1),
        "median_ms": round(sorted(walls)[count // 2], 1),
    }


def children_seconds() -> tuple[float, float]:
    """Return the user and system seconds of the decoder processes."""
    times = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    return sum(it.user for it in times), sum(it.system for it in times)


def page_faults() -> int:
    """Return how many pages of memory the kernel has had to provide to the decoder processes."""
    stats = (Path(f"/proc/{child.pid}/stat").read_text() for child in psutil.Process().children(recursive=True))
    return sum(int(stat.rsplit(")", 1)[1].split()[7]) for stat in stats)


async def run(options: argparse.Namespace) -> dict[str, Any]:
    pages = [draw_page(number) for number in range(options.pages)]
    decoder = Decoder(LIMITS, 1)
    await decoder.start()
    try:
        return {name: await measure(decoder, pages, RESOLUTIONS[name], options.rounds) for name in options.resolutions}
    finally:
        await decoder.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=45, help="pages a second that the decoders have to give")
    parser.add_argument("--resolutions", nargs="+", choices=RESOLUTIONS, default=["gundam", "base"])
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    figures = asyncio.run(run(options))
    for name, it in figures.items():
        cores = options.rate * (it["user_ms"] + it["system_ms"]) / 1000
        print(f"{name:<8} {it}  {options.rate:g} pages/s keep {cores:.1f} cores busy: {math.ceil(cores)} decoders")
    if options.json:
        options.json.write_text(json.dumps({"machine": describe_machine(), "decoders": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
