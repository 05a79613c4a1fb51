"""Processor time of our PDF rendering against `pdftoppm -r 144`: same files, one core each, same run.

    python -m benchmarks.pdf_render --pages 40

Needs poppler-utils, and the fonts the tests use. Takes --file for PDFs of your own. Exits with 1 when
ours takes more time on any file.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import pypdfium2
import pypdfium2.raw as pdfium

from app.ingest.pdf import PdfFile
from benchmarks.pages import FONT_ROOT, FontsMissing, render_page

DPI = 144
LARGEST = 100_000_000
A4 = (595.3, 841.9)
WORDS = [
    "harbour",
    "paper",
    "company",
    "invoice",
    "delivery",
    "quarter",
    "railway",
    "receipt",
    "machine",
    "weather",
    "village",
    "summer",
]


def write_text(path: Path, pages: int) -> None:
    """Dense pages of text in two embedded fonts."""
    fonts = [FONT_ROOT / name for name in ("dejavu/DejaVuSerif.ttf", "dejavu/DejaVuSans.ttf")]
    if missing := [font for font in fonts if not font.exists()]:
        raise FontsMissing(f"{missing[0]} is missing: apt-get install fonts-dejavu-core")
    with pypdfium2.PdfDocument.new() as document:
        handles = [_embed(document, font.read_bytes()) for font in fonts]
        for number in range(pages):
            chance = random.Random(number)
            page = document.new_page(*A4)
            for line in range(60):
                words = " ".join(chance.choice(WORDS) for _ in range(12))
                text = pdfium.FPDFPageObj_CreateTextObj(document, handles[line % 2], 11.0)
                encoded = (words + "\0").encode("utf-16-le")
                buffer = (pdfium.c_ushort * (len(encoded) // 2)).from_buffer_copy(encoded)
                pdfium.FPDFText_SetText(text, buffer)
                pdfium.FPDFPageObj_Transform(text, 1, 0, 0, 1, 50, 790 - 12.5 * line)
                pdfium.FPDFPage_InsertObject(page, text)
            page.gen_content()
            page.close()
        document.save(path)


def _embed(document: pypdfium2.PdfDocument, font: bytes) -> Any:
    data = (pdfium.c_ubyte * len(font)).from_buffer_copy(font)
    return pdfium.FPDFText_LoadFont(document, data, len(font), pdfium.FPDF_FONT_TRUETYPE, True)


def write_scans(path: Path, pages: int) -> None:
    """Pages that are one JPEG each, in colour at 150 dpi."""
    first, *rest = (render_page("latin", number).image.convert("RGB") for number in range(pages))
    first.save(path, "PDF", resolution=150, save_all=True, append_images=rest)


def write_drawings(path: Path, pages: int) -> None:
    """Pages of curves, some of them translucent areas."""
    with pypdfium2.PdfDocument.new() as document:
        for number in range(pages):
            chance = random.Random(number)
            page = document.new_page(*A4)
            for step in range(400):
                x, y = chance.uniform(0, A4[0]), chance.uniform(0, A4[1])
                curve = pdfium.FPDFPageObj_CreateNewPath(x, y)
                turn = chance.uniform(0, 2 * math.pi)
                across, up = 150 * math.cos(turn), 150 * math.sin(turn)
                pdfium.FPDFPath_BezierTo(curve, x + across, y, x, y + up, x + across, y + up)
                colour = [chance.randrange(256) for _ in range(3)]
                filled = step % 20 == 0
                pdfium.FPDFPageObj_SetFillColor(curve, *colour, 100)
                pdfium.FPDFPageObj_SetStrokeColor(curve, *colour, 255)
                pdfium.FPDFPath_SetDrawMode(curve, pdfium.FPDF_FILLMODE_WINDING if filled else 0, not filled)
                pdfium.FPDFPage_InsertObject(page, curve)
            page.gen_content()
            page.close()
        document.save(path)


def ours(path: Path) -> float:
    """Return the seconds of processor time that every page of `path` takes in this process."""
    started = time.process_time()
    with PdfFile(path) as pdf:
        for number in range(1, pdf.page_count + 1):
            pdf.render(number, DPI, LARGEST)
    return time.process_time() - started


def poppler(path: Path) -> float:
    """Return the same of pdftoppm, whose pages go nowhere."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(["pdftoppm", "-r", str(DPI), str(path)], stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def compare(path: Path, rounds: int) -> dict[str, Any]:
    """Time both, taking turns in going first; the first round warms up and does not count."""
    times: dict[str, list[float]] = {"ours": [], "poppler": []}
    ways: list[tuple[str, Callable[[Path], float]]] = [("ours", ours), ("poppler", poppler)]
    for turn in range(rounds + 1):
        for name, measure in ways if turn % 2 else reversed(ways):
            seconds = measure(path)
            if turn:
                times[name].append(seconds)
    with PdfFile(path) as pdf:
        pages = pdf.page_count
    row = {name: pages / median(seconds) for name, seconds in times.items()}
    return {"file": path.stem, "pages": pages, **row, "ratio": row["ours"] / row["poppler"]}


def run(arguments: argparse.Namespace) -> int:
    if shutil.which("pdftoppm") is None:
        print("pdftoppm is missing: apt-get install poppler-utils", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        paths: list[Path] = arguments.file
        if not paths:
            paths = [Path(folder) / f"{name}.pdf" for name in ("text", "scans", "drawings")]
            for path, write in zip(paths, (write_text, write_scans, write_drawings), strict=True):
                write(path, arguments.pages)
        rows = [compare(path, arguments.rounds) for path in paths]
    print(f"{'file':<12} {'pages':>5}  {'ours':>10}  {'pdftoppm':>10}  pages per second of one core")
    for row in rows:
        print(
            f"{row['file']:<12} {row['pages']:>5}  {row['ours']:>10.1f}  {row['poppler']:>10.1f}  {row['ratio']:.2f} times as fast"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")
    return 0 if all(row["ratio"] >= 1 for row in rows) else 1


def main() -> int:
    parser = argparse.ArgumentParser(description="PDF rendering per core against pdftoppm; exit status 1 when slower.")
    parser.add_argument("--pages", type=int, default=40, help="of each of the three files that are made")
    parser.add_argument("--rounds", type=int, default=3, help="times each file is measured")
    parser.add_argument("--file", type=Path, action="append", default=[], help="a PDF to take in place of those")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    try:
        return run(parser.parse_args())
    except FontsMissing as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
