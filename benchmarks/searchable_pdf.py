"""How many printed words are found in our searchable PDFs, and whether they are found where they are printed.

    python -m benchmarks.searchable_pdf --pages 4

Makes pages of known words in several fonts, English and Chinese, as pictures (upright, turned by EXIF, turned on the
scanner, several in a TIFF) and as scanned PDFs (turned, cropped, of another unit), writes each as a searchable PDF and
asks `pdftotext -bbox` where the words are. A word counts as found when its text is there and the middle of its box is
within half a line's height of the middle of the printed one, across and down.

The lines come from one of three readers: "lines" gives the printed lines' boxes shaken by two pixels, "blocks" gives
one box to a paragraph with the lines joined, and "engine" is RapidOCR through the service's own code.

Needs poppler-utils, and the fonts the tests use. Exits with 1 below 98 % for lines.
"""

from __future__ import annotations

import argparse
import asyncio
import html
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from app.ingest.choice import PageChoice
from app.ingest.decode import decode
from app.ingest.limits import IngestLimits
from app.page import Page
from app.results.document import Document, NoPictures, Options
from app.results.pages import PageResult
from app.results.writers import write
from benchmarks.pages import FONT_ROOT, FontsMissing

LIMIT = 0.98
DPI = 150
A4 = (1240, 1754)
LATIN = {
    "dejavu/DejaVuSans.ttf": "fonts-dejavu-core",
    "dejavu/DejaVuSerif.ttf": "fonts-dejavu-core",
    "liberation/LiberationSans-Regular.ttf": "fonts-liberation",
    "liberation/LiberationSerif-Italic.ttf": "fonts-liberation",
    "liberation/LiberationMono-Regular.ttf": "fonts-liberation",
    "liberation/LiberationSansNarrow-Bold.ttf": "fonts-liberation",
}
CHINESE = {"wqy/wqy-microhei.ttc": "fonts-wqy-microhei"}
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
    "winter",
    "minimum",
    "William",
    "illicit",
    "million",
    "committee",
    "swimming",
    "a",
    "I",
    "of",
    "to",
    "in",
    "it",
    "is",
    "at",
    "by",
    "1,204",
    "37.5",
    "2026",
    "(see",
    "12%",
    "Total:",
    "e.g.",
    "page",
]
HANZI = "港口纸张公司发票交货季度铁路收据机器天气村庄夏天冬天会议报告城市学校医院银行电话号码日期金额数量单位价格"
PUNCTUATION = re.compile(r"[，。、；：？！]")

Place = tuple[float, float, float, float]
Read = Callable[["Paper", Page], Awaitable[PageResult]]


@dataclass(frozen=True)
class Print:
    """Text and its box in pixels, as printed."""

    text: str
    box: Place


@dataclass(frozen=True)
class Paper:
    """A printed page: its picture, its words and its lines, and the lines of each paragraph."""

    image: Image.Image
    words: tuple[Print, ...]
    paragraphs: tuple[tuple[Print, ...], ...]
    chinese: bool

    @property
    def lines(self) -> list[Print]:
        return [line for paragraph in self.paragraphs for line in paragraph]


@dataclass(frozen=True)
class Case:
    """An upload and what is printed on its pages. `turn` is by how many degrees clockwise its pages show the print."""

    name: str
    suffix: str
    data: bytes
    papers: tuple[Paper, ...]
    turn: int = 0
    crop: float = 0.0


def print_paper(seed: int, chinese: bool) -> Paper:
    """Print paragraphs of known words in one font and size, in one column or two."""
    chance = random.Random(seed)
    fonts = CHINESE if chinese else LATIN
    name = list(fonts)[seed % len(fonts)]
    if not (FONT_ROOT / name).is_file():
        raise FontsMissing(f"{FONT_ROOT / name} is missing: install the Debian package {fonts[name]}.")
    size = chance.randint(18, 34)
    font = ImageFont.truetype(str(FONT_ROOT / name), size)
    image = Image.new("RGB", A4, chance.choice(["white", "#f4efe0", "#e8e8e8"]))
    draw = ImageDraw.Draw(image)
    columns = chance.choice([1, 2])
    width = (A4[0] - 200 - 60 * (columns - 1)) // columns
    words: list[Print] = []
    paragraphs: list[tuple[Print, ...]] = []
    for column in range(columns):
        y = 100.0
        while y < A4[1] - 300:
            paragraph = []
            for _ in range(chance.randint(2, 7)):
                text = _line(chance, font, width * (1.0 if _ else 0.9), chinese)
                left = 100 + column * (width + 60)
                draw.text((left, y), text, font=font, fill="#202020")
                paragraph.append(Print(text, draw.textbbox((left, y), text, font=font)))
                for word in _words(text, chinese):
                    start = left + draw.textlength(text[: word.start()], font=font)
                    words.append(Print(word[0], draw.textbbox((start, y), word[0], font=font)))
                y += size * chance.choice([1.35, 1.5])
            paragraphs.append(tuple(paragraph))
            y += size * 0.9
    return Paper(image, tuple(words), tuple(paragraphs), chinese)


def _line(chance: random.Random, font: ImageFont.FreeTypeFont, width: float, chinese: bool) -> str:
    text = ""
    while True:
        if chinese:
            piece = "".join(chance.choice(HANZI) for _ in range(chance.randint(2, 5)))
            longer = text + (chance.choice("，、；，，") if text and chance.random() < 0.4 else "") + piece
        else:
            longer = f"{text} {chance.choice(WORDS)}".strip()
        if font.getlength(longer) > width:
            return text
        text = longer


def _words(text: str, chinese: bool) -> list[re.Match[str]]:
    """Return the words of a line; Chinese, which has no spaces, in pieces of two characters."""
    pattern = r"[\u4e00-\u9fff]{2}" if chinese else r"\S+"
    return list(re.finditer(pattern, text))


def make_cases(count: int) -> list[Case]:
    """Make uploads of each kind, each with `count` pages, half of them Chinese."""
    seeds = iter(range(1_000_000))

    def papers(number: int = count) -> tuple[Paper, ...]:
        return tuple(print_paper(next(seeds), chinese=index % 2 == 1) for index in range(number))

    cases = []
    for paper in papers(2):
        cases.append(Case("PNG", ".png", _save(paper.image, "PNG"), (paper,)))
    for paper in papers(2):
        cases.append(Case("JPEG", ".jpg", _save(paper.image, "JPEG", dpi=(DPI, DPI), quality=90), (paper,)))
    for paper in papers(2):
        exif = Image.Exif()
        exif[0x0112] = 6  # shown by turning it a quarter clockwise
        turned = paper.image.transpose(Image.Transpose.ROTATE_90)
        cases.append(Case("JPEG turned by EXIF", ".jpg", _save(turned, "JPEG", exif=exif, quality=90), (paper,)))
    for turn in (90, 180, 270):
        for paper in papers(2):
            turned = paper.image.rotate(-turn, expand=True)
            cases.append(Case(f"PNG turned {turn}", ".png", _save(turned, "PNG"), (paper,), turn=turn))
    frames = papers()
    images = [paper.image for paper in frames]
    data = _save(images[0], "TIFF", save_all=True, append_images=images[1:], dpi=(DPI, DPI))
    cases.append(Case("TIFF", ".tif", data, frames))
    for turn in (0, 90, 180, 270):
        frames = papers()
        cases.append(Case(f"PDF turned {turn}", ".pdf", scanned_pdf(frames, turn), frames))
    frames = papers()
    cases.append(Case("PDF cropped", ".pdf", scanned_pdf(frames, 90, crop=36), frames, crop=36))
    frames = papers()
    cases.append(Case("PDF of half-inch units", ".pdf", scanned_pdf(frames, 0, unit=0.5), frames))
    return cases


def _save(image: Image.Image, kind: str, **how: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


def scanned_pdf(papers: tuple[Paper, ...], turn: int, crop: float = 0.0, unit: float = 1.0) -> bytes:
    """Write a PDF of one picture to a page, upright when the page is turned by `turn` as its /Rotate says.

    `crop` points are cut off at the left and the top as it is shown; `unit` is /UserUnit.
    """
    objects = [b"<</Type/Catalog/Pages 2 0 R>>", b""]
    kids = []
    width, height = A4[0] * 72 / DPI / unit, A4[1] * 72 / DPI / unit
    matrix = {
        0: (width, 0, 0, height, 0, 0),
        90: (0, width, -height, 0, height, 0),
        180: (-width, 0, 0, -height, width, height),
        270: (0, -width, height, 0, 0, width),
    }[turn]
    media = (width, height) if turn in (0, 180) else (height, width)
    cut = {0: (crop, 0, *media[:1], media[1] - crop), 90: (crop, crop, *media)}.get(turn, (0, 0, *media))
    for paper in papers:
        jpeg = _save(paper.image, "JPEG", quality=85)
        # A state that is never given back, and a unit of its own: what is added behind must not be moved by it.
        drawing = "q 0.5 0 0 0.5 7 7 cm Q 1 0 0 1 0 0 cm {} {} {} {} {} {} cm /I Do".format(*matrix).encode()
        kids.append(len(objects) + 1)
        objects += [
            f"<</Type/Page/Parent 2 0 R/MediaBox[0 0 {media[0]} {media[1]}]/CropBox[{cut[0]} {cut[1]} {cut[2]} {cut[3]}]"
            f"/Rotate {turn}/UserUnit {unit}/Contents {len(objects) + 2} 0 R"
            f"/Resources<</XObject<</I {len(objects) + 3} 0 R>>>>>>".encode(),
            b"<</Length %d>>stream\n%b\nendstream" % (len(drawing), drawing),
            b"<</Type/XObject/Subtype/Image/Width %d/Height %d/ColorSpace/DeviceRGB/BitsPerComponent 8/Filter/DCTDecode"
            b"/Length %d>>stream\n%b\nendstream" % (*A4, len(jpeg), jpeg),
        ]
    objects[1] = f"<</Type/Pages/Count {len(kids)}/Kids[{' '.join(f'{kid} 0 R' for kid in kids)}]>>".encode()
    out, offsets = b"%PDF-1.7\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%b\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    size = len(objects) + 1
    return out + b"xref\n0 %d\n0000000000 65535 f \n%btrailer<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n" % (
        *(size, table, size),
        len(out),
    )


def shown(case: Case, box: Place, scale: float) -> Place:
    """Return where a printed box is on the page as it is shown, in units of which a printed pixel has `scale`."""
    width, height = A4
    x1, y1, x2, y2 = box
    if case.turn == 90:
        x1, y1, x2, y2 = height - y2, x1, height - y1, x2
    elif case.turn == 180:
        x1, y1, x2, y2 = width - x2, height - y2, width - x1, height - y1
    elif case.turn == 270:
        x1, y1, x2, y2 = y1, width - x2, y2, width - x1
    cut = case.crop * DPI / 72
    return (x1 - cut) * scale, (y1 - cut) * scale, (x2 - cut) * scale, (y2 - cut) * scale


def lines_reader(case: Case, seed: int, joined: bool) -> Read:
    """Return what gives the printed boxes as an engine would: of lines, or of paragraphs whose lines are joined."""
    chance = random.Random(seed)

    async def read(paper: Paper, page: Page) -> PageResult:
        scale = min(page.width, page.height) / min(_shown_size(case))
        tags = []
        for paragraph in paper.paragraphs:
            groups = [paragraph] if joined else [(line,) for line in paragraph]
            for group in groups:
                boxes = [shown(case, line.box, scale) for line in group]
                edges = [f([box[index] for box in boxes]) for index, f in enumerate((min, min, max, max))]
                shaken = [edge + chance.uniform(-2, 2) for edge in edges]
                sides = (page.width, page.height) * 2
                numbers = [min(999, max(0, round(edge / side * 999))) for edge, side in zip(shaken, sides, strict=True)]
                text = ("" if paper.chinese else " ").join(line.text for line in group)
                label, rest = ("text", f"\n{text}\n\n") if joined else (text, "\n")
                tags.append(f"<|ref|>{label}<|/ref|><|det|>[{numbers}]<|/det|>{rest}")
        mode = "markdown" if joined else "plain_ocr"
        raw = "".join(tags)
        return PageResult(page.number, "", raw, (), (), page.width, page.height, page.dpi, mode, "stop")

    return read


@asynccontextmanager
async def engine_reader() -> AsyncIterator[Read]:
    """Give what reads with RapidOCR, boxes asked for."""
    from app.engine.rapidocr.engine import RapidOcrEngine
    from app.ocr.service import RecogniseOptions, Recognition, recognise_stream

    engine = RapidOcrEngine()
    await engine.start()

    async def read(paper: Paper, page: Page) -> PageResult:
        async for part in recognise_stream(engine, page, RecogniseOptions(grounding=True), "benchmark"):
            if isinstance(part, Recognition):
                return PageResult.of(page.number, part, page.dpi)
        raise RuntimeError("the engine gave no page")

    try:
        yield read
    finally:
        await engine.stop()


async def measure(case: Case, read: Read, folder: Path) -> tuple[int, int, int]:
    """Return how many words are printed, how many are found at all, and how many near to their place."""
    source, target = folder / f"upload{case.suffix}", folder / "searchable.pdf"
    source.write_bytes(case.data)
    limits = IngestLimits(100_000_000, 1000, 60)
    results = []
    for number, paper in enumerate(case.papers, 1):
        results.append(await read(paper, decode(source, limits, PageChoice(number, dpi=144))))
    await asyncio.to_thread(write, Document(case.name, tuple(results), source), "pdf", target, NoPictures(), Options())
    printed = found = near = 0
    for paper, page in zip(case.papers, pdf_words(target), strict=True):
        scale = page.shorter_side / min(_shown_size(case))
        for word in paper.words:
            box = shown(case, word.box, scale)
            if box[0] < 0 or box[1] < 0:
                continue  # cut off
            distances = page.distances(word.text, box, paper.chinese, case.turn)
            printed += 1
            found += bool(distances)
            near += bool(distances) and min(distances) <= _line_height(paper, word) * scale / 2
    return printed, found, near


def _shown_size(case: Case) -> tuple[float, float]:
    cut = case.crop * DPI / 72
    return A4[0] - cut, A4[1] - cut


def _line_height(paper: Paper, word: Print) -> float:
    middle = (word.box[1] + word.box[3]) / 2
    heights = [line.box[3] - line.box[1] for line in paper.lines if line.box[1] <= middle <= line.box[3]]
    return min(heights)


@dataclass(frozen=True)
class FoundPage:
    """The words of a page as pdftotext gives them, by their text."""

    shorter_side: float
    words: tuple[Print, ...]

    def distances(self, text: str, box: Place, inside: bool, turn: int) -> list[float]:
        """Return how far each word of this text is from `box`, middle to middle, the greater of across and down.

        With `inside`, pieces of longer words count, at their share of the word's box.
        """
        found = []
        for word in self.words:
            if not inside:
                if word.text == text:
                    found.append(word.box)
                continue
            start = word.text.find(text)
            while start >= 0:
                found.append(_share(word, start, start + len(text), turn))
                start = word.text.find(text, start + 1)
        return [max(abs(a[0] + a[2] - box[0] - box[2]), abs(a[1] + a[3] - box[1] - box[3])) / 2 for a in found]


def _share(word: Print, start: int, end: int, turn: int) -> Place:
    x1, y1, x2, y2 = word.box
    first, last = start / len(word.text), end / len(word.text)
    if turn in (180, 270):
        first, last = 1 - last, 1 - first
    if turn in (0, 180):
        return x1 + first * (x2 - x1), y1, x1 + last * (x2 - x1), y2
    return x1, y1 + first * (y2 - y1), x2, y1 + last * (y2 - y1)


def pdf_words(path: Path) -> list[FoundPage]:
    """Ask poppler for each page's words."""
    output = subprocess.run(
        ["pdftotext", "-bbox", "-cropbox", str(path), "-"], capture_output=True, check=True, text=True
    ).stdout
    pages = []
    for page in re.findall(r"<page .*?</page>", output, re.DOTALL):
        sides = re.findall(r'(?:width|height)="([\d.]+)"', page)[:2]
        words = re.findall(
            r'<word xMin="(-?[\d.]+)" yMin="(-?[\d.]+)" xMax="(-?[\d.]+)" yMax="(-?[\d.]+)">(.*?)</word>',
            page,
            re.DOTALL,
        )
        prints = (Print(html.unescape(word), tuple(map(float, box))) for *box, word in words)  # type: ignore[arg-type]
        pages.append(FoundPage(min(map(float, sides)), tuple(prints)))
    return pages


async def run(arguments: argparse.Namespace) -> int:
    if shutil.which("pdftotext") is None:
        print("pdftotext is missing: apt-get install poppler-utils", file=sys.stderr)
        return 2
    cases = make_cases(arguments.pages)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for reader in arguments.reader:
            if reader == "engine":
                async with engine_reader() as read:
                    rows += [_row(reader, case, *await measure(case, read, Path(folder))) for case in cases]
                continue
            for seed, case in enumerate(cases):
                read = lines_reader(case, seed, joined=reader == "blocks")
                rows.append(_row(reader, case, *await measure(case, read, Path(folder))))
    totals = [_total(reader, rows) for reader in arguments.reader]
    print(f"{'reader':<8} {'upload':<24} {'words':>7} {'found':>8} {'in place':>8}")
    for row in [*rows, *totals]:
        print(
            f"{row['reader']:<8} {row['upload']:<24} {row['words']:>7} {row['found'] / row['words']:>8.2%} "
            f"{row['in_place'] / row['words']:>8.2%}"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps([*rows, *totals], indent=2) + "\n")
    return 0 if all(row["in_place"] >= LIMIT * row["words"] for row in totals if row["reader"] == "lines") else 1


def _row(reader: str, case: Case, words: int, found: int, in_place: int) -> dict[str, Any]:
    return {"reader": reader, "upload": case.name, "words": words, "found": found, "in_place": in_place}


def _total(reader: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    mine = [row for row in rows if row["reader"] == reader]
    return {
        "reader": reader,
        "upload": "all",
        **{key: sum(r[key] for r in mine) for key in ("words", "found", "in_place")},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Words found in searchable PDFs; exit status 1 below 98 % for lines.")
    parser.add_argument("--pages", type=int, default=2, help="of each PDF and TIFF that is made")
    parser.add_argument(
        "--reader", action="append", choices=("lines", "blocks", "engine"), help="default: lines, blocks and engine"
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    arguments.reader = arguments.reader or ["lines", "blocks", "engine"]
    try:
        return asyncio.run(run(arguments))
    except FontsMissing as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
