"""Read composed pages with the plain PyTorch model and print how well.

python -m tools.tiny_reader.evaluate MODEL --pages 256
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import torch

from tools.tiny_reader.answers import Task, answer
from tools.tiny_reader.batches import decode, prompt_ids
from tools.tiny_reader.compose import Atlas, draw
from tools.tiny_reader.export import read_folder
from tools.tiny_reader.faces import Faces, load_faces
from tools.tiny_reader.fonts import HELD_OUT
from tools.tiny_reader.model import Reader
from tools.tiny_reader.page import Kind, Page, plan_page
from tools.tiny_reader.score import Score, score_answer
from tools.tiny_reader.sizes import EOS

LONGEST = 1000
KINDS: tuple[tuple[Kind, Task], ...] = (
    ("lines", "free"),
    ("lines", "boxes"),
    ("lines", "locate"),
    ("document", "free"),
    ("document", "markdown"),
)


def read_pages(model: Reader, pixels: torch.Tensor, prompts: Sequence[str]) -> list[str]:
    """Return the model's answer to each page's prompt; pages with prompts of one text are read together."""
    order = sorted(range(len(prompts)), key=prompts.__getitem__)
    answers = [""] * len(prompts)
    for prompt, members in groupby(order, key=prompts.__getitem__):
        places = list(members)
        asked = torch.tensor(prompt_ids(prompt), device=pixels.device)
        for place, ids in zip(places, model.generate(pixels[places], asked, EOS, LONGEST), strict=True):
            answers[place] = decode(ids)
    return answers


def score_composed(
    model: Reader, faces: Faces, kind: Kind, task: Task, side: int, count: int, seed: int
) -> Iterator[tuple[Page, str, str, Score]]:
    """Yield composed pages with what was right, what was read, and the score."""
    device = model.language.lm_head.weight.device
    rng = np.random.default_rng((seed, side))
    pages = [plan_page(rng, side, kind=kind, max_lines=8, fonts=faces) for _ in range(count)]
    asked = [answer(page, task, rng) for page in pages]
    atlas = Atlas.build(faces).to(device)
    pixels = draw(pages, atlas, device, torch.Generator(device).manual_seed(seed))
    read = read_pages(model, pixels, [prompt for prompt, _ in asked])
    for page, (_, wanted), text in zip(pages, asked, read, strict=True):
        yield page, wanted, text, score_answer(text, wanted)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--fonts", type=Path, help="a folder with the fonts; without it, those of the system")
    parser.add_argument("--pages", type=int, default=256)
    parser.add_argument("--seed", type=int, default=900_000)
    parser.add_argument("--sides", type=int, nargs="+", default=[512, 640])
    options = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = read_folder(options.model).to(device)
    known, unseen = load_faces(folder=options.fonts), load_faces((HELD_OUT,), folder=options.fonts)
    for side in options.sides:
        for name, faces in (("known", known), ("unseen", unseen)):
            for kind, task in KINDS:
                count = options.pages if task != "locate" else min(options.pages, 32)
                results = list(score_composed(model, faces, kind, task, side, count, options.seed))
                total = sum((score for _, _, _, score in results), Score())
                figures = {"side": side, "fonts": name, "kind": kind, "task": task, "pages": total.pages}
                figures |= {"error_rate": round(total.error_rate, 4), "perfect": total.perfect}
                figures |= {"boxes": total.boxes, "found": round(total.box_rate, 3)}
                sys.stdout.write(json.dumps(figures) + "\n")
                for _, wanted, read, _ in results[:2]:
                    sys.stdout.write(f"  wanted {wanted[:110]!r}\n  read   {read[:110]!r}\n")
                sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
