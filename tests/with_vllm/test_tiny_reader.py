"""The committed tiny reader: pages go in and their own text comes out, through HTTP and vLLM on the CPU."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest
from PIL import Image

from app.ocr.grounding import parse
from tests.process import Served
from tools.tiny_reader import fonts
from tools.tiny_reader.faces import Faces, load_faces
from tools.tiny_reader.score import Score, score_boxes, score_text, text_of
from tools.tiny_reader.serve import FOLDER
from tools.tiny_reader.sizes import NOTICE, make_config

pytest.importorskip("torch", reason="PyTorch is not installed")

from benchmarks.tiny_reader import Reader, Sample, locate_lines, make_samples, read_plainly

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

# Whose packages `make test` asks for.
FONTS = ("DejaVuSans.ttf", "DejaVuSerif.ttf", "LiberationSerif-Regular.ttf", "LiberationSans-Bold.ttf")
# Not training's and not the benchmark's.
SEED = 2_000_000


@pytest.fixture(scope="module")
def faces() -> dict[str, Faces]:
    return {"known": load_faces([font for font in fonts.TRAINING if font.file_name in FONTS])}


@pytest.fixture(scope="module")
def samples(faces: dict[str, Faces]) -> list[Sample]:
    """Sixteen pages of up to eight lines, half of each size."""
    return make_samples(16, SEED, faces)


@pytest.fixture(scope="module")
def reader(tiny_service: Served) -> Iterator[Reader]:
    with httpx.Client(base_url=tiny_service.url, timeout=300) as client:
        yield Reader(client)


@pytest.fixture(scope="module")
def alone(reader: Reader, samples: list[Sample]) -> list[str]:
    """What the service reads from each page, one after the other."""
    return [body["raw_text"] for body in reader.read_all(samples, 1)]


def test_pages_are_read(samples: list[Sample], alone: list[str]) -> None:
    """On so few pages twice the card's share of errors may be; `make eval-tiny` reads many."""
    total = sum((score_text(text, sample.text) for text, sample in zip(alone, samples, strict=True)), Score())
    assert total.characters > 1000
    assert total.error_rate < 0.02
    assert total.perfect > len(samples) / 2


def test_sixteen_at_once_read_as_each_does_alone(reader: Reader, samples: list[Sample], alone: list[str]) -> None:
    assert [body["raw_text"] for body in reader.read_all(samples, 16)] == alone


def test_plain_pytorch_reads_the_same(samples: list[Sample], alone: list[str]) -> None:
    """A near tie may fall the other way on one page."""
    same = sum(one == other for one, other in zip(read_plainly(FOLDER, samples), alone, strict=True))
    assert same >= len(samples) - 1


def test_every_line_has_its_box(reader: Reader, samples: list[Sample]) -> None:
    total = Score()
    for body, sample in zip(reader.read_all(samples, 16, grounding="true"), samples, strict=True):
        assert (body["image_dims"]["w"], body["image_dims"]["h"]) == sample.picture.size
        found = [tuple(box["box"]) for box in body["boxes"]]
        total += score_boxes(found, [line.box for line in sample.page.lines])
    assert total.box_rate > 0.95


@pytest.mark.parametrize(("orientation", "undo"), [(3, 180), (6, 90), (8, 270)])
def test_a_page_turned_by_exif_reads_the_same(
    reader: Reader, samples: list[Sample], orientation: int, undo: int
) -> None:
    """Text and boxes are those of the upright page: the file's pixels lie on their side, a person sees it upright."""
    sample = samples[0]
    exif = Image.Exif()
    exif[0x0112] = orientation
    lying = replace(sample, picture=sample.picture.rotate(undo, expand=True))
    answer = reader.client.post(
        "/api/ocr", files={"image": lying.png(exif=exif)}, data={"resolution": "tiny", "grounding": "true"}
    ).json()
    upright = reader.read(sample, grounding="true")
    assert (answer["raw_text"], answer["boxes"]) == (upright["raw_text"], upright["boxes"])
    found = [tuple(box["box"]) for box in answer["boxes"]]
    assert score_boxes(found, [line.box for line in sample.page.lines]).box_rate == 1


def test_documents_become_markdown(reader: Reader, faces: dict[str, Faces]) -> None:
    """A heading, paragraphs and a table where the page has them."""
    total, kinds = Score(), set()
    documents = make_samples(8, SEED, faces, kind="document")
    for body, sample in zip(reader.read_all(documents, 8, mode="markdown"), documents, strict=True):
        wanted = [block.kind for block in sample.page.blocks]
        labels = re.findall(r"<\|ref\|>(\w+)<\|/ref\|>", body["raw_text"])
        assert labels == wanted
        assert ("# " in body["text"]) == ("title" in wanted)
        assert ("|" in body["text"] or "<table>" in body["text"]) == ("table" in wanted)
        text = "\n".join(line.text for line in sample.page.lines if not _in_table(sample, line))
        read = re.sub(r"<table>.*?</table>", "", text_of(parse(body["raw_text"])), flags=re.DOTALL)
        total += score_text(_letters(re.sub(r"\b(title|text|table)\n", "", read)), _letters(text))
        kinds |= set(wanted)
    assert kinds == {"title", "text", "table"}
    assert total.error_rate < 0.03


def _in_table(sample: Sample, line: object) -> bool:
    return any(block.kind == "table" and line in block.lines for block in sample.page.blocks)


def _letters(text: str) -> str:
    return re.sub(r"[\s#]+", " ", text).strip()


def test_a_term_is_found_where_it_stands(reader: Reader, samples: list[Sample]) -> None:
    """A line of each page, by its words; no page is so small that one could guess."""
    assert locate_lines(reader, samples).box_rate > 0.5


def test_it_says_that_it_is_a_test_reader(reader: Reader, samples: list[Sample], tiny_service: Served) -> None:
    """In every answer, in the descriptions that programs read, and in the log."""
    assert reader.read(samples[0])["metadata"]["notice"] == NOTICE
    assert reader.client.get("/").json()["notice"] == NOTICE
    assert reader.client.get("/api/modes").json()["notice"] == NOTICE
    assert f"model_notice {NOTICE}" in tiny_service.log.read_text()


def test_the_committed_folder_is_what_the_tools_write() -> None:
    assert json.loads((FOLDER / "config.json").read_text()) == make_config()
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 16_000_000
