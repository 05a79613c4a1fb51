"""The part `cost` of benchmarks.gpu_rate: how the cost of a page grows with its size, its text and the pages beside it.

    python -m benchmarks.rate_cost FILE

prints the charts of a result as Markdown. A page's cost is the time in which the machine reads it while others are read
too: 1 / (pages a second).
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.busy import watched
from benchmarks.rate_engine import read_all, started
from benchmarks.report import Report, read_result
from benchmarks.uploads import summarise

# Pages of a load for each page that is under way at once: enough that most are read while others are.
ROUNDS = 2
LEAST_PAGES = 4
# Of the tokens asked for; at least one is written.
SHARES = (0, 0.25, 0.5, 1, 2)


@dataclass(frozen=True)
class Point:
    """One load: pages in this resolution, of at most `tokens` tokens each, `at_once` of them under way."""

    resolution: str
    tokens: int
    at_once: int


def series(tokens: int, at_once: int) -> dict[str, list[Point]]:
    """Return the loads by what they vary; the others are Gundam, `tokens` tokens, `at_once` pages."""
    base = Point("gundam", tokens, at_once)
    widths = [width for width in (1, 4, 16, 64, 128, 256, 512) if width < at_once]
    return {
        "resolution": [replace(base, resolution=name) for name in ("tiny", "small", "base", "large", "gundam")],
        "tokens": [replace(base, tokens=max(1, round(tokens * share))) for share in SHARES],
        "at_once": [replace(base, at_once=width) for width in (*widths, at_once)],
    }


def run(options: argparse.Namespace, settings: dict[str, Any], report: Report) -> None:
    """Start the engine in this process and measure every point once."""
    asyncio.run(measure(options, settings, report))


async def measure(options: argparse.Namespace, settings: dict[str, Any], report: Report) -> None:
    """Read, and report each point under its own name."""
    points = dict.fromkeys(point for some in series(options.tokens, options.side_by_side).values() for point in some)
    async with started(settings) as app:
        files = sorted(options.folder.glob("*.jpg"))[: options.pages]
        pages = await asyncio.to_thread(lambda: [file.read_bytes() for file in files])
        await read_all(app.state.reader, pages[:2], "gundam", options.tokens, 0)  # whatever the first page compiles
        for point in points:
            some = pages[: max(LEAST_PAGES, ROUNDS * point.at_once)]
            with watched() as figures:
                answers = await read_all(app.state.reader, some, point.resolution, point.tokens, point.at_once)
            report.add(label(point), asdict(point) | summarise(answers) | figures)


def label(point: Point) -> str:
    return f"{point.resolution}, {point.tokens} tokens, {point.at_once} side by side"


def charts(loads: dict[str, dict[str, Any]], tokens: int, at_once: int) -> str:
    """Return a Markdown chart and table for each series; points that were not measured are left out."""
    parts = []
    for varied, points in series(tokens, at_once).items():
        rows = [
            (getattr(point, varied), loads[label(point)]["pages_per_s"]) for point in points if label(point) in loads
        ]
        costs = [round(1000 / rate, 1) for _, rate in rows]
        names = ", ".join(f'"{value}"' for value, _ in rows)
        parts.append(
            "```mermaid\nxychart-beta\n"
            f'    title "Milliseconds a page, by {varied.replace("_", " ")}"\n'
            f"    x-axis [{names}]\n    y-axis 0 --> {max(costs, default=1):g}\n    bar [{', '.join(map(str, costs))}]\n```\n"
        )
        lines = (f"| {value} | {rate} | {cost} |" for (value, rate), cost in zip(rows, costs, strict=True))
        head = f"| {varied.replace('_', ' ')} | pages/s | ms a page |\n| --- | --- | --- |"
        parts.append("\n".join((head, *lines)) + "\n")
    return "\n".join(parts)


def main(file: Path) -> int:
    result = read_result(file)
    loads = {name: figures for name, figures in result["parts"]["cost"].items() if "resolution" in figures}
    tokens, at_once = (max(figures[name] for figures in loads.values()) for name in ("tokens", "at_once"))
    print(charts(loads, round(tokens / max(SHARES)), at_once))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
