"""How busy threads and the GPU are during a load: python -m benchmarks.busy PID [--seconds 10]"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

GPU_SAMPLE_MS = 500
NOT_OURS = "nvidia-smi"


@dataclass(frozen=True)
class Thread:
    """A thread, named as the kernel names it, and the processor seconds it has used since it began."""

    process: str
    name: str
    seconds: float


def read_threads(root: int) -> dict[int, Thread]:
    """Return the threads of a process and of everything below it, by thread id."""
    parent = psutil.Process(root)
    threads: dict[int, Thread] = {}
    for process in (parent, *parent.children(recursive=True)):
        try:
            if process.name() == NOT_OURS:
                continue
            label = f"{_role(process)} {process.pid}"
            for thread in process.threads():
                name = Path(f"/proc/{process.pid}/task/{thread.id}/comm").read_text().strip()
                threads[thread.id] = Thread(label, name, thread.user_time + thread.system_time)
        except (psutil.Error, OSError):  # it has just ended
            continue
    return threads


def _role(process: psutil.Process) -> str:
    """Return a process's name, or what multiprocessing made it for."""
    line = " ".join(process.cmdline())
    for sign, role in (("forkserver", "worker"), ("resource_tracker", "tracker")):
        if sign in line:
            return role
    return process.name()


@contextlib.contextmanager
def watched(root: int | None = None, most: int = 6) -> Iterator[dict[str, Any]]:
    """Watch a process tree, this process's own without `root`, and the GPU; the dictionary is filled at the end.

    `busiest` holds the `most` busiest threads, `processes` the processes, with their shares of one core in percent.
    """
    root = root or os.getpid()
    figures: dict[str, Any] = {}
    before, started = read_threads(root), time.monotonic()
    with _gpu_samples() as samples:
        yield figures
        seconds = time.monotonic() - started
    after = read_threads(root)
    shares = {
        key: (thread.seconds - (before[key].seconds if key in before else 0.0)) / seconds
        for key, thread in after.items()
    }
    busiest = sorted(after, key=lambda key: -shares[key])[:most]
    figures["busiest"] = [
        {"process": after[key].process, "thread": after[key].name, "percent": round(100 * shares[key])}
        for key in busiest
    ]
    by_process: dict[str, float] = {}
    for key, thread in after.items():
        by_process[thread.process] = by_process.get(thread.process, 0.0) + shares[key]
    figures["processes"] = {name: round(100 * share) for name, share in by_process.items() if share >= 0.005}
    figures |= _gpu_figures(samples)


@contextlib.contextmanager
def _gpu_samples() -> Iterator[list[str]]:
    """Give a list that holds nvidia-smi's lines (utilisation in percent, memory in MiB) once it has ended."""
    lines: list[str] = []
    if shutil.which("nvidia-smi") is None:
        yield lines
        return
    command = ["nvidia-smi", "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits"]
    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        command.append(f"--id={visible}")
    with tempfile.TemporaryFile("w+") as sink:
        sampler = subprocess.Popen([*command, f"-lms={GPU_SAMPLE_MS}"], stdout=sink, stderr=subprocess.DEVNULL)
        try:
            yield lines
        finally:
            sampler.terminate()
            sampler.wait()
            sink.seek(0)
            lines += sink.read().splitlines()


def _gpu_figures(lines: list[str]) -> dict[str, Any]:
    samples = [
        [float(value) for value in line.split(",")] for line in lines if line.count(",") == 1 and "[" not in line
    ]
    if not samples:
        return {}
    return {
        "gpu_percent": round(sum(sample[0] for sample in samples) / len(samples)),
        "gpu_mib": round(max(sample[1] for sample in samples)),
    }


def describe_busiest(figures: dict[str, Any], count: int = 2) -> str:
    """Return the busiest threads in a few words."""
    return ", ".join(f"{it['process']}/{it['thread']} {it['percent']} %" for it in figures.get("busiest", [])[:count])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pid", type=int)
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args()
    with watched(options.pid, most=12) as figures:
        time.sleep(options.seconds)
    for thread in figures["busiest"]:
        print(f"{thread['percent']:>4} %  {thread['process']:<28} {thread['thread']}")
    print({name: value for name, value in figures.items() if name != "busiest"})


if __name__ == "__main__":
    main()
