"""The part `http` of benchmarks.gpu_rate: the service over loopback, its start with cold and with warm caches."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import psutil

from benchmarks.busy import watched
from benchmarks.processes import cache_folders, environment
from benchmarks.report import Report
from benchmarks.service import Served, served
from benchmarks.uploads import Load, run_load, summarise

GAUGES = {
    "accepted": "ocr_queue_depth",
    "vllm_running": "vllm:num_requests_running",
    "vllm_waiting": "vllm:num_requests_waiting",
}
SAMPLE_SECONDS = 0.5
# The open loop takes about this long.
OPEN_SECONDS, ALONE = 20, 4


def run(options: argparse.Namespace, settings: dict[str, Any], report: Report) -> None:
    """Start the service twice, once with --warm, and put the last, whose caches are warm, through every load."""
    caches = cache_folders(options.work)
    if not options.warm:
        shutil.rmtree(options.work / "caches", ignore_errors=True)  # the model's file may stay in the kernel's cache
    variables = {name: value for name, value in environment(options.site).items() if name.isupper()}
    for name in ("cold", "warm")[options.warm :]:
        started, log = time.monotonic(), options.work / f"service-{name}.log"
        with served(log, options.ready_timeout, **variables | caches | settings) as service:
            report.add(f"start, {name} caches", {"ready_s": round(time.monotonic() - started, 1)})
            if name == "warm":
                measure(options, service, report)


def measure(options: argparse.Namespace, service: Served, report: Report) -> None:
    """Every load, on a running service."""
    first = Load(options.folder, 2, options.tokens)
    run_load(service.url, first)  # whatever the first page compiles
    rate = 0.0
    for resolution in options.resolutions if "full" in options.loads else ():
        load = replace(first, count=options.pages, at_once=options.side_by_side, resolution=resolution)
        figures = watch(options, service, load)
        rate = rate or figures["pages_per_s"]
        report.add(f"{resolution}, {options.side_by_side} side by side", figures)
    if "alone" in options.loads:
        report.add("gundam, one alone", watch(options, service, replace(first, count=ALONE, at_once=1, stream=True)))
    if "half" in options.loads and rate:
        count = max(ALONE, min(options.pages, round(rate / 2 * OPEN_SECONDS)))
        load = replace(first, count=count, rate=rate / 2, stream=True, resolution=options.resolutions[0])
        report.add(f"{load.resolution}, {rate / 2:.2f} a second at random", watch(options, service, load))


def watch(options: argparse.Namespace, service: Served, load: Load) -> dict[str, Any]:
    """Return the figures of a load with those of the service and its clients."""
    with watched(service.process.pid) as busy, sampled(service) as peaks:
        answers, client = run_load(service.url, load, options.clients)
    figures = summarise(answers)
    # In milliseconds of processor time: the service's own process, in which nothing but its event loop is busy.
    for name, count in (("front_end_ms_a_page", figures["pages"]), ("front_end_ms_a_token", figures["output_tokens"])):
        figures[name] = round(1000 * peaks["front_end_s"] / max(1, count), 4)
    return figures | {"client_percent": round(100 * client), **peaks} | busy


@contextlib.contextmanager
def sampled(service: Served) -> Iterator[dict[str, float]]:
    """Watch the service's own process: at the end the dictionary holds the most of each gauge and of its memory, and
    the processor seconds it took."""
    process, done = psutil.Process(service.process.pid), threading.Event()
    peaks: dict[str, float] = {}

    def sample() -> None:
        with httpx.Client(base_url=service.url, timeout=30, trust_env=False) as client:
            while not done.wait(SAMPLE_SECONDS):
                seen = read_gauges(client.get("/metrics").text)
                seen["pss_mb"] = process.memory_full_info().pss / 1e6
                seen["not_running"] = max(0.0, seen["accepted"] - seen["vllm_running"])
                for name, value in seen.items():
                    peaks[f"most_{name}"] = round(max(value, peaks.get(f"most_{name}", 0)))

    before, spent = process.memory_full_info().pss / 1e6, sum(process.cpu_times()[:2])
    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield peaks
    finally:
        done.set()
        thread.join()
        peaks["pss_before_mb"] = round(before)
        peaks["front_end_s"] = round(sum(process.cpu_times()[:2]) - spent, 2)


def read_gauges(text: str) -> dict[str, float]:
    """Return GAUGES out of a page of metrics, 0 for those it lacks."""
    found = dict.fromkeys(GAUGES, 0.0)
    for line in text.splitlines():
        for name, gauge in GAUGES.items():
            if line.startswith((f"{gauge} ", f"{gauge}{{")):
                found[name] = float(line.rsplit(" ", 1)[1])
    return found
