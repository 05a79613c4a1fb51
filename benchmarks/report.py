"""A benchmark's result on disk, complete after every figure: a run that is cut short keeps what it has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.busy import describe_busiest


class Report:
    """The figures of one part of a run, by the name of the load; every `add` rewrites the file, where there is one."""

    def __init__(self, file: Path | None, part: str) -> None:
        self._file = file
        self._part = part

    def add(self, load: str, figures: dict[str, Any]) -> None:
        """Write the figures of a load, and print them on a line."""
        if self._file is not None:
            result = read_result(self._file)
            result.setdefault("parts", {}).setdefault(self._part, {})[load] = figures
            write_result(self._file, result)
        print(f"{self._part} | {load} | {json.dumps(figures)}", flush=True)


def read_result(file: Path) -> dict[str, Any]:
    """Return what the file holds, nothing where there is none."""
    result: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return result


def write_result(file: Path, result: dict[str, Any]) -> None:
    """Replace the file at once: whoever reads it finds it whole."""
    new = file.with_name(file.name + ".new")
    new.write_text(json.dumps(result, indent=2) + "\n")
    new.replace(file)


def print_table(result: dict[str, Any]) -> None:
    """Print a line for each load of each part."""
    head = (
        "part",
        "load",
        "pages/s",
        "tokens/s",
        "ms a step",
        "latency p50/p99",
        "first text p50/p99",
        "GPU",
        "busiest",
    )
    rows = [head, *(_row(part, load, it) for part, loads in result["parts"].items() for load, it in loads.items())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _row(part: str, load: str, figures: dict[str, Any]) -> tuple[str, ...]:
    if "failed" in figures:
        return part, load, "failed", *[""] * 5, str(figures["failed"])
    if "ready_s" in figures:
        return part, load, f"{figures['ready_s']} s", *[""] * 6
    times = (" / ".join(map(str, figures.get(name, {}).values())) for name in ("latency_s", "first_text_s"))
    rates = (str(figures.get(name, "")) for name in ("pages_per_s", "tokens_per_s", "ms_a_step"))
    gpu = f"{figures['gpu_percent']} %" if "gpu_percent" in figures else ""
    statuses = figures.get("statuses", {"200": 0})
    problem = "" if set(statuses) == {"200"} else f"{statuses} {figures.get('problem')} "
    return part, load, *rates, *times, gpu, problem + describe_busiest(figures)
