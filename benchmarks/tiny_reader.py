"""How well the tiny reader reads: pages painted with Pillow, through HTTP and vLLM on the CPU.

python -m benchmarks.tiny_reader --pages 200

Half of the pages are in fonts it was trained on, half in one it never saw; half are 512 pixels wide, half 640. Each is
read alone, sixteen at once, with boxes, and by the plain PyTorch model.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from PIL import Image

from benchmarks.service import served
from tools.tiny_reader.answers import FREE_OCR
from tools.tiny_reader.batches import decode, prompt_ids
from tools.tiny_reader.export import read_folder
from tools.tiny_reader.faces import Faces, load_faces
from tools.tiny_reader.fonts import HELD_OUT
from tools.tiny_reader.page import Kind, Page, plan_page
from tools.tiny_reader.paint import paint
from tools.tiny_reader.score import Score, score_boxes, score_text
from tools.tiny_reader.serve import FOLDER, SETTINGS
from tools.tiny_reader.sizes import EOS

# The most that may be wrong, and the least that must be right.
KNOWN_LIMIT, UNSEEN_LIMIT, BOXES_LIMIT, SAME_LIMIT = 0.02, 0.08, 0.90, 0.99
RESOLUTIONS = {512: "tiny", 640: "small"}
# Not trained for: how many times as large the pages are drawn there. Gundam cuts only pages above 640 pixels.
OTHER_RESOLUTIONS = {"base": 1, "large": 1, "gundam": 2}
AT_ONCE = 16
LONGEST = 1200
# Training counts its batches from 0 and never gets here.
FIRST_SEED = 1_000_000


@dataclass(frozen=True)
class Sample:
    """A painted page: what stands on it, with the boxes measured in its ink."""

    fonts: str
    page: Page
    picture: Image.Image

    @property
    def text(self) -> str:
        return "\n".join(line.text for line in self.page.lines)

    def png(self, **options: Any) -> bytes:
        """Return the picture as a PNG file."""
        file = io.BytesIO()
        self.picture.save(file, "PNG", **options)
        return file.getvalue()


def make_samples(count: int, seed: int, faces: Mapping[str, Faces], kind: Kind = "lines") -> list[Sample]:
    """Paint `count` pages; the groups of fonts and the sides take turns."""
    names, samples = list(faces), []
    for number in range(count):
        name, side = names[number % len(names)], (512, 640)[number // len(names) % 2]
        rng = np.random.default_rng((seed, number))
        planned = plan_page(rng, side, kind=kind, max_lines=8, fonts=faces[name])
        picture, page = paint(planned, seed + number)
        samples.append(Sample(name, page, picture))
    return samples


class Reader:
    """Posts pages to a running service."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client

    def read(self, sample: Sample, **fields: str) -> dict[str, Any]:
        """Return the service's answer to one page."""
        response = self.client.post(
            "/api/ocr",
            files={"image": ("page.png", sample.png(), "image/png")},
            data={"resolution": RESOLUTIONS[sample.page.side], **fields},
        )
        response.raise_for_status()
        body: dict[str, Any] = response.json()
        return body

    def read_in(self, resolution: str, samples: Sequence[Sample], scale: int) -> list[str]:
        """Return the texts of pages in a resolution it was not trained for, drawn `scale` times as large."""
        larger = [
            replace(sample, picture=sample.picture.resize((sample.page.side * scale,) * 2, Image.Resampling.BICUBIC))
            for sample in samples
        ]
        return [body["raw_text"] for body in self.read_all(larger, AT_ONCE, resolution=resolution)]

    def read_all(self, samples: Sequence[Sample], at_once: int, **fields: str) -> list[dict[str, Any]]:
        """Read pages, so many side by side."""
        with ThreadPoolExecutor(at_once) as threads:
            return list(threads.map(lambda sample: self.read(sample, **fields), samples))


def read_plainly(model: Path, samples: Sequence[Sample]) -> list[str]:
    """Return what the plain PyTorch model reads, in float32."""
    reader = read_folder(model).float()
    prompt = torch.tensor(prompt_ids(FREE_OCR))
    texts: dict[int, str] = {}
    for side in RESOLUTIONS:
        places = [place for place, sample in enumerate(samples) if sample.page.side == side]
        for start in range(0, len(places), AT_ONCE):
            chosen = places[start : start + AT_ONCE]
            pixels = torch.from_numpy(np.stack([np.asarray(samples[place].picture) for place in chosen]))
            texts |= dict(zip(chosen, map(decode, reader.generate(pixels, prompt, EOS, LONGEST)), strict=True))
    return [texts[place] for place in range(len(samples))]


def locate_lines(reader: Reader, samples: Sequence[Sample]) -> Score:
    """Ask each page where one of its lines is, another from page to page."""
    total = Score()
    for number, sample in enumerate(samples):
        line = sample.page.lines[number % len(sample.page.lines)]
        body = reader.read(sample, mode="find_ref", find_term=line.text)
        total += score_boxes((box["box"] for box in body["boxes"]), [line.box])
    return total


def score(samples: Sequence[Sample], texts: Sequence[str], fonts: str | None = None) -> Score:
    """Return the pooled score of the texts read from pages, or from those in `fonts`."""
    pairs = zip(samples, texts, strict=True)
    return sum(
        (score_text(text, sample.text) for sample, text in pairs if fonts in (None, sample.fonts)),
        Score(),
    )


def measure(url: str, model: Path, samples: Sequence[Sample]) -> dict[str, float]:
    """Read the pages in every way and return the figures."""
    with httpx.Client(base_url=url, timeout=600, trust_env=False) as client:
        reader = Reader(client)
        alone = [body["raw_text"] for body in reader.read_all(samples, 1)]
        crowded = [body["raw_text"] for body in reader.read_all(samples, AT_ONCE)]
        boxed = reader.read_all(samples, AT_ONCE, grounding="true")
        some = samples[: len(samples) // 5]
        located = locate_lines(reader, some)
        elsewhere = {name: reader.read_in(name, some, scale) for name, scale in OTHER_RESOLUTIONS.items()}
    boxes = sum(
        (
            score_boxes((box["box"] for box in body["boxes"]), [line.box for line in sample.page.lines])
            for sample, body in zip(samples, boxed, strict=True)
        ),
        Score(),
    )
    plain = read_plainly(model, samples)
    known, unseen = score(samples, alone, "known"), score(samples, alone, "unseen")
    return {
        "pages": len(samples),
        "known_error_rate": known.error_rate,
        "known_perfect_pages": known.perfect / max(1, known.pages),
        "unseen_error_rate": unseen.error_rate,
        "unseen_perfect_pages": unseen.perfect / max(1, unseen.pages),
        "line_boxes_found": boxes.box_rate,
        "lines_located": located.box_rate,
        "same_as_plain_pytorch": _same(alone, plain),
        "same_sixteen_at_once": _same(alone, crowded),
        **{f"{name}_error_rate": score(some, texts).error_rate for name, texts in elsewhere.items()},
    }


def _same(one: Sequence[str], other: Sequence[str]) -> float:
    return sum(a == b for a, b in zip(one, other, strict=True)) / max(1, len(one))


def passed(figures: dict[str, float]) -> bool:
    """Say whether the figures are as good as the model card promises."""
    return (
        figures["known_error_rate"] <= KNOWN_LIMIT
        and figures["unseen_error_rate"] <= UNSEEN_LIMIT
        and figures["line_boxes_found"] >= BOXES_LIMIT
        and min(figures["same_as_plain_pytorch"], figures["same_sixteen_at_once"]) >= SAME_LIMIT
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Read fresh pages with the tiny reader; exit status 1 below its card.")
    parser.add_argument("--model", type=Path, default=FOLDER)
    parser.add_argument("--pages", type=int, default=200)
    parser.add_argument("--seed", type=int, default=FIRST_SEED)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    faces = {"known": load_faces(), "unseen": load_faces((HELD_OUT,))}
    samples = make_samples(options.pages, options.seed, faces)
    print(f"{len(samples)} pages painted; starting the service", flush=True)
    settings = SETTINGS | {"MODEL_PATH": str(options.model)}
    with (
        tempfile.TemporaryDirectory() as folder,
        served(Path(folder) / "service.log", ready_timeout=400, **settings) as service,
    ):
        figures = measure(service.url, options.model, samples)
    for name, value in figures.items():
        print(f"{name:<24} {value:.4g}" if name == "pages" else f"{name:<24} {value:8.3%}")
    if options.json:
        options.json.write_text(json.dumps(figures | {"seed": options.seed}, indent=2) + "\n")
    return 0 if passed(figures) else 1


if __name__ == "__main__":
    sys.exit(main())
