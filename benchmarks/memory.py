"""Memory of the service while long and large documents are read, and the time to a document's first text.

`python -m benchmarks.memory` prints a table, then JSON. Memory is of the service and all its processes: the sum of their PSS
(shared memory counted once) and of the files in memory through which they hand each other pages. Figures are the most
that was seen, above the service's own before the first request.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from PIL import Image, ImageDraw

from benchmarks.service import Served, served
from tests.ingest.pdfs import Sheet, lines, pdf, stream

MEGABYTE = 10**6
BOUND_MB, FIRST_TEXT_S = 600, 3.0
A4 = (0, 0, 595, 842)
GIANT = 14_142
"""Side in pixels of a picture of 200 megapixels; of a page, in half points: so many pixels at 144 dpi."""

_WORDS = [
    "harbour",
    "paper",
    "lantern",
    "meadow",
    "copper",
    "orchard",
    "signal",
    "window",
    "garden",
    "thunder",
    "invoice",
    "total",
]
_SCANS = 20
_SAMPLE_SECONDS = 0.03
_SETTLE_SECONDS = 3.0


@dataclass
class Memory:
    """What was measured of one case, in MB."""

    case: str
    engine: str
    idle_mb: int
    above_idle_mb: int
    seconds: float
    pages: int
    bound_mb: int | None = BOUND_MB

    @property
    def within(self) -> bool:
        return self.bound_mb is None or self.above_idle_mb <= self.bound_mb


@dataclass
class Report:
    """Everything that was measured, and on what."""

    hardware: str = field(
        default_factory=lambda: f"{_processor()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    )
    load_before: float = field(default_factory=lambda: os.getloadavg()[0])
    memory: list[Memory] = field(default_factory=list)
    first_text_s: dict[str, list[float]] = field(default_factory=dict)
    page_alone_s: list[float] = field(default_factory=list)


def text(chance: random.Random, count: int) -> list[str]:
    """Return lines of ten words."""
    return [" ".join(chance.choices(_WORDS, k=10)) for _ in range(count)]


def long_document(pages: int) -> bytes:
    """Return a PDF of which every tenth page is a scan, and the others have a few lines of text."""
    chance = random.Random(pages)
    scans = [_scan(chance) for _ in range(_SCANS)]
    sheets = []
    for number in range(pages):
        if number % 10 == 9:
            more = b"/Resources<</XObject<</I %d 0 R>>>>" % (4 + number // 10 % _SCANS)
            sheets.append(Sheet(b"q 595 0 0 842 0 0 cm /I Do Q", A4, more))
        else:
            sheets.append(Sheet(lines(f"Page {number + 1}", *text(chance, 5), at=(50, 750)), A4))
    return pdf(*sheets, objects=scans)


def _scan(chance: random.Random) -> bytes:
    image = Image.effect_noise((1240, 1754), 8.0)
    draw = ImageDraw.Draw(image)
    for row, line in enumerate(text(chance, 40)):
        draw.text((100, 100 + 38 * row), line, fill=0, font_size=24)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=75)
    head = (
        b"/Type/XObject/Subtype/Image/Width 1240/Height 1754/ColorSpace/DeviceGray/BitsPerComponent 8/Filter/DCTDecode"
    )
    return stream(buffer.getvalue(), head)


def usual_page(chance: random.Random) -> Sheet:
    """Return a page of A4 with 45 lines of ten words."""
    shown = b" ".join(b"(%s) Tj T*" % line.encode() for line in text(chance, 45))
    return Sheet(b"BT /F 10 Tf 16 TL 50 790 Td %s ET" % shown, A4)


def giant_picture() -> bytes:
    """Return a JPEG of 200 megapixels in colour."""
    image = Image.new("RGB", (GIANT, GIANT), "white")
    draw = ImageDraw.Draw(image)
    for row in range(60):
        draw.text((300, 200 + 220 * row), "A line on a very large page", fill=(20, 20, 90), font_size=150)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def memory_of(service: int) -> int:
    """Return the bytes that a process, its descendants and their files in memory take."""
    total, seen = 0, set()
    root = psutil.Process(service)
    for process in (root, *root.children(recursive=True)):
        folder = Path(f"/proc/{process.pid}")
        with contextlib.suppress(OSError):
            rollup = (folder / "smaps_rollup").read_text()
            total += next(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:"))
            for opened in (folder / "fd").iterdir():
                with contextlib.suppress(OSError):
                    if str(opened.readlink()).startswith("/memfd:"):
                        found = opened.stat()
                        if (found.st_dev, found.st_ino) not in seen:
                            seen.add((found.st_dev, found.st_ino))
                            total += found.st_blocks * 512
    return total


@contextlib.contextmanager
def watching(service: int) -> Iterator[list[int]]:
    """Note the memory of a service all the while; the list's last item is the most there was."""
    most, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(_SAMPLE_SECONDS):
            most.append(max(most[-1], memory_of(service)))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        over.set()
        thread.join()


def read(client: httpx.Client, document: bytes, **fields: str) -> tuple[float, int]:
    """Have a document read to its end; return the seconds that took and how many pages were read."""
    started = time.perf_counter()
    answer = client.post("/api/ocr/pdf", files={"pdf": ("document", document)}, data=fields)
    assert answer.status_code == 202, answer.text
    address = f"/api/tasks/{answer.json()['task_id']}?pages=false"
    while (task := client.get(address).json())["status"] in ("pending", "running"):
        time.sleep(0.2)
    assert (task["status"], task["failed_pages"]) == ("succeeded", []), task
    return time.perf_counter() - started, task["progress"]["total"]


def measure(
    case: str, document: bytes, folder: Path, engine: str, bound: int | None = BOUND_MB, **settings: Any
) -> Memory:
    """Read a document in a service of its own, and return what memory that took."""
    folder = Path(tempfile.mkdtemp(dir=folder))
    with served(
        folder / "log", inference_engine=engine, data_dir=folder / "data", max_upload_size_mb=2000, **settings
    ) as service:
        time.sleep(_SETTLE_SECONDS)
        idle = memory_of(service.process.pid)
        client = httpx.Client(base_url=service.url, timeout=600, trust_env=False)
        with client, watching(service.process.pid) as most:
            seconds, pages = read(client, document)
    return Memory(case, engine, idle // MEGABYTE, (most[-1] - idle) // MEGABYTE, round(seconds, 1), pages, bound)


def page_alone(service: Served) -> float:
    """Return the seconds that a usual page takes by itself, through POST /api/ocr."""
    page = pdf(usual_page(random.Random(1)))
    started = time.perf_counter()
    answer = httpx.post(f"{service.url}/api/ocr", files={"image": ("page", page)}, timeout=300, trust_env=False)
    assert answer.status_code == 200, answer.text
    return round(time.perf_counter() - started, 2)


def usual_document() -> bytes:
    """Return a PDF of 20 usual pages."""
    chance = random.Random(1)
    return pdf(*[usual_page(chance) for _ in range(20)])


def first_text(service: Served, document: bytes) -> float:
    """Return the seconds from the upload of a document to its first page's text."""
    with httpx.Client(base_url=service.url, timeout=120, trust_env=False) as client:
        started = time.perf_counter()
        task_id = client.post("/api/ocr/pdf", files={"pdf": ("document", document)}).json()["task_id"]
        with client.stream("GET", f"/api/tasks/{task_id}/events") as events:
            for line in events.iter_lines():
                if line.startswith("data:") and json.loads(line[5:])["markdown"]:
                    break
        seconds = time.perf_counter() - started
        client.delete(f"/api/tasks/{task_id}")
    return round(seconds, 2)


def _processor() -> str:
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return models[0] if models else platform.machine()


def main() -> None:
    """Measure, and print the table and the JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pages", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3, help="how often the time to the first text is measured")
    asked = parser.parse_args()
    report = Report()
    giant_page = pdf(Sheet(lines("A very large page", at=(500, 5000)), (0, 0, GIANT / 2, GIANT / 2)))
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        cases: tuple[tuple[str, bytes, int | None, dict[str, Any]], ...] = (
            (f"PDF of {asked.pages:,} pages", long_document(asked.pages), BOUND_MB, {}),
            ("PDF page of 200 megapixels", giant_page, BOUND_MB, {}),
            (
                "picture of 200 megapixels, MAX_IMAGE_PIXELS raised",
                giant_picture(),
                None,
                {"max_image_pixels": 2 * 10**8 + 10**6},
            ),
        )
        for case, document, bound, settings in cases:
            found = measure(case, document, folder, "fake", bound, **settings)
            report.memory.append(found)
            limit = (
                f"bound {found.bound_mb} MB, {'within' if found.within else 'NOT within'}"
                if found.bound_mb
                else "no bound"
            )
            sys.stderr.write(
                f"{case}: idle {found.idle_mb} MB, above it {found.above_idle_mb} MB ({limit}), {found.seconds} s\n"
            )
        documents = {cases[0][0]: cases[0][1], "20 pages of 45 lines": usual_document()}
        with served(
            folder / "log", inference_engine="rapidocr", data_dir=folder / "data", max_upload_size_mb=2000
        ) as service:
            for _ in range(asked.repeats):
                report.page_alone_s.append(page_alone(service))
                for name, document in documents.items():
                    report.first_text_s.setdefault(name, []).append(first_text(service, document))
        sys.stderr.write(
            f"first text: {report.first_text_s} s (asked: under {FIRST_TEXT_S} s); "
            f"a page of 45 lines alone: {report.page_alone_s} s\n"
        )
    print(json.dumps(asdict(report), indent=2))


if __name__ == "__main__":
    main()
