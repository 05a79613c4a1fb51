"""Pages a second of the service on a CPU against RapidOCR called in a plain loop with its defaults, and errors of both.

    python -m benchmarks.cpu_peer --packages build/peer/packages

`make bench-cpu` installs RapidOCR's default engine, onnxruntime, into that folder and calls this. Both sides have the
same cores and take turns, each reading a stack of the same PNG files: the peer one file after the other in a process
of its own, the service over HTTP, with its default settings and as many uploads at once as `--uploads`, from a
client on the same cores. Exits with 1 below 2.5 times the peer's dense pages, where other pages are
slower, or where more characters are wrong. Linux only.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import psutil

from benchmarks.pages import A4, FontsMissing, RenderedPage, Sheet, line_errors, render_pages
from benchmarks.service import served

LEAST_RATIO = 2.5
SHEETS = {
    "dense": A4,
    "sparse": Sheet(fill=0.25),
    "receipt": Sheet(520, 900, margin=30, columns=(1,)),
    "line": Sheet(1600, 110, margin=28, columns=(1,)),
}
STACK = {"dense": 1, "sparse": 2, "receipt": 2, "line": 4}
"""How many times as many pages as asked for a stack has, so that no turn is over in a moment."""


@dataclass(frozen=True)
class Turn:
    """One stack read: seconds on the clock and of processor time, and the text of each page."""

    seconds: float
    processor: float
    texts: tuple[str, ...]


Reader = Callable[[Sequence[Path]], Turn]


@contextmanager
def peer(packages: Path, log: Path) -> Iterator[Reader]:
    """Start RapidOCR in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(packages), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "benchmarks.cpu_peer", "--loop"]
    with (
        log.open("w") as sink,
        subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sink, text=True
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        lines, answers = process.stdin, process.stdout

        def read(paths: Sequence[Path]) -> Turn:
            print(json.dumps([str(path) for path in paths]), file=lines, flush=True)
            answer = answers.readline()
            if not answer:
                raise RuntimeError(f"RapidOCR ended:\n{log.read_text()}")
            turn = json.loads(answer)
            return Turn(turn["seconds"], turn["processor"], tuple(turn["texts"]))

        yield read
        lines.close()


def loop() -> None:
    """Read with RapidOCR's defaults what standard input names, a stack a line."""
    from rapidocr import RapidOCR

    answers, sys.stdout = sys.stdout, sys.stderr
    ocr = RapidOCR()
    for line in sys.stdin:
        started, processor = time.perf_counter(), time.process_time()
        results: list[Any] = [ocr(path) for path in json.loads(line)]
        turn = {"seconds": time.perf_counter() - started, "processor": time.process_time() - processor}
        texts = ["\n".join(result.txts or ()) for result in results]
        print(json.dumps(turn | {"texts": texts}), file=answers, flush=True)


@contextmanager
def service(uploads: int, log: Path) -> Iterator[Reader]:
    """Start the service, and post to it `uploads` pages at a time."""
    with (
        served(log, ready_timeout=300, inference_engine="rapidocr") as running,
        httpx.Client(base_url=running.url, timeout=600, trust_env=False) as client,
        ThreadPoolExecutor(uploads) as threads,
    ):

        def post(path: Path) -> str:
            response = client.post("/api/ocr", files={"image": (path.name, path.read_bytes(), "image/png")})
            response.raise_for_status()
            text: str = response.json()["text"]
            return text

        def read(paths: Sequence[Path]) -> Turn:
            started, processor = time.perf_counter(), _processor(running.process.pid)
            texts = tuple(threads.map(post, paths))
            return Turn(time.perf_counter() - started, _processor(running.process.pid) - processor, texts)

        yield read


def _processor(pid: int) -> float:
    root = psutil.Process(pid)
    return sum(sum(process.cpu_times()[:2]) for process in (root, *root.children(recursive=True)))


def compare(stacks: dict[str, list[RenderedPage]], folder: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Read every stack with both, taking turns in going first; the first round warms up and does not count."""
    paths = {name: [_save(page, folder / name) for page in pages] for name, pages in stacks.items()}
    turns: dict[tuple[str, str], list[Turn]] = {}
    with (
        peer(arguments.packages, folder / "peer.log") as theirs,
        service(arguments.uploads, folder / "service.log") as ours,
    ):
        for number in range(arguments.rounds + 1):
            for name in stacks:
                sides: list[tuple[str, Reader]] = [("peer", theirs), ("service", ours)]
                for side, read in sides if number % 2 else reversed(sides):
                    turn = read(paths[name])
                    if number:
                        turns.setdefault((name, side), []).append(turn)
                        print(
                            f"round {number} {name:<8} {side:<8} {len(paths[name]) / turn.seconds:7.2f} pages/s",
                            flush=True,
                        )
    return [_row(name, pages, turns[name, "peer"], turns[name, "service"]) for name, pages in stacks.items()]


def _save(page: RenderedPage, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{page.name}.png"
    page.image.save(path)
    return path


def _row(name: str, pages: Sequence[RenderedPage], theirs: Sequence[Turn], ours: Sequence[Turn]) -> dict[str, Any]:
    row: dict[str, Any] = {"pages": name, "number": len(pages)}
    for side, turns in (("peer", theirs), ("service", ours)):
        errors = [line_errors(text, page.text) for text, page in zip(turns[0].texts, pages, strict=True)]
        row[side] = {
            "pages_per_second": len(pages) / median(turn.seconds for turn in turns),
            "processor_seconds": median(turn.processor for turn in turns) / len(pages),
            "character_error_rate": sum(wrong for wrong, _ in errors) / sum(length for _, length in errors),
            "same_text_every_round": len({turn.texts for turn in turns}) == 1,
            "seconds": [turn.seconds for turn in turns],
        }
    return row | {"ratio": median(a.seconds / b.seconds for a, b in zip(theirs, ours, strict=True))}


def describe_machine(packages: Path) -> dict[str, Any]:
    """Return the processor, the cores both sides may use, and the versions of what they run."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    onnxruntime = next(iter(importlib.metadata.distributions(name="onnxruntime", path=[str(packages)]))).version
    versions = {name: importlib.metadata.version(name) for name in ("rapidocr", "openvino", "opencv-python-headless")}
    return {
        "processor": next(models, platform.processor()),
        "cores": len(psutil.Process().cpu_affinity()),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "onnxruntime": onnxruntime,
        **versions,
    }


def passed(rows: Sequence[dict[str, Any]]) -> bool:
    """Say whether dense pages are fast enough, and no kind of page is read worse or slower than by the peer."""
    return all(
        row["service"]["character_error_rate"] <= row["peer"]["character_error_rate"]
        and row["ratio"] >= (LEAST_RATIO if row["pages"] == "dense" else 1.0)
        for row in rows
    )


def run(arguments: argparse.Namespace) -> int:
    if arguments.cores:
        os.sched_setaffinity(0, arguments.cores)
    machine = describe_machine(arguments.packages)
    stacks = {
        name: [
            page
            for script in ("latin", "chinese")
            for page in render_pages(STACK[name] * arguments.pages // 2, script, arguments.seed, SHEETS[name])
        ]
        for name in arguments.kind
    }
    with tempfile.TemporaryDirectory() as folder:
        rows = compare(stacks, Path(folder), arguments)
    print(*(f"{name}: {value}" for name, value in machine.items()), sep="\n")
    print(f"{'':<22} {'pages/s':>17} {'processor s/page':>17} {'wrong characters':>17}")
    print(
        f"{'pages':<14} {'number':>7} {'peer':>8} {'ours':>8} {'peer':>8} {'ours':>8} {'peer':>8} {'ours':>8}   ratio"
    )
    for row in rows:
        pairs = [
            f"{row[side][figure]:8{form}}"
            for figure, form in (
                ("pages_per_second", ".2f"),
                ("processor_seconds", ".2f"),
                ("character_error_rate", ".3%"),
            )
            for side in ("peer", "service")
        ]
        print(f"{row['pages']:<14} {row['number']:>7}", *pairs, f"{row['ratio']:7.2f}")
    if arguments.json:
        settings = {"seed": arguments.seed, "rounds": arguments.rounds, "uploads": arguments.uploads}
        arguments.json.write_text(json.dumps({"machine": machine, **settings, "rows": rows}, indent=2) + "\n")
    return 0 if passed(rows) else 1


def main() -> int:
    parser = argparse.ArgumentParser(description="Pages/s on a CPU against RapidOCR in a plain loop.")
    parser.add_argument("--packages", type=Path, default=Path("build/peer/packages"), help="where onnxruntime is")
    parser.add_argument("--kind", nargs="+", choices=SHEETS, default=list(SHEETS), help="default: all")
    parser.add_argument("--pages", type=int, default=8, help="dense pages of a stack, half of them Chinese")
    parser.add_argument("--rounds", type=int, default=4, help="turns of each that count")
    parser.add_argument("--uploads", type=int, default=4, help="uploads at a time")
    parser.add_argument("--cores", type=int, nargs="+", default=[0, 1], help="processor cores for both and the client")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--loop", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.loop:
        loop()
        return 0
    try:
        return run(arguments)
    except FontsMissing as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
