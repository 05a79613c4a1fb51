"""The recognition model: what it is given, against RapidOCR's own preparation, and lines beside other lines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rapidocr
from PIL import Image, ImageDraw, ImageFont
from rapidocr.ch_ppocr_rec.main import TextRecognizer

from app.engine.rapidocr.models import keep_openvino_quiet
from app.engine.rapidocr.recogniser import Picture, Recogniser, _likeliest, _width
from benchmarks.pages import FONT_ROOT


@pytest.fixture(scope="module")
def recogniser() -> Recogniser:
    keep_openvino_quiet()
    return Recogniser(Path(rapidocr.__file__).parent / "models" / "PP-OCRv6_rec_small.onnx", threads=2)


def drawn(text: str, size: int = 26) -> Picture:
    font = ImageFont.truetype(str(FONT_ROOT / "dejavu/DejaVuSans.ttf"), size)
    left, top, right, bottom = (round(value) for value in font.getbbox(text))
    image = Image.new("RGB", (right - left + 12, bottom - top + 12), "white")
    ImageDraw.Draw(image).text((6 - left, 6 - top), text, font=font, fill="black")
    return np.asarray(image)


@pytest.mark.parametrize("side", [(48, 320), (31, 700), (60, 333), (26, 40)])
def test_prepared_lines_are_rapidocrs_to_the_bit(recogniser: Recogniser, side: tuple[int, int]) -> None:
    crop = np.random.default_rng(7).integers(0, 256, (*side, 3), np.uint8)
    prepared = recogniser._prepare(crop, _width(crop))[0]
    own = TextRecognizer.__new__(TextRecognizer)
    own.rec_image_shape = [3, *prepared.shape[1:]]
    assert np.array_equal(prepared, own.resize_norm_img(crop, prepared.shape[2] / prepared.shape[1]))


def test_a_line_reads_the_same_alone_and_beside_others(recogniser: Recogniser) -> None:
    """To the last digit of its confidence, whatever the others' number, width and order."""
    crops = [
        drawn(text) for text in ("Harbour Paper Company", "1961", "I", "a line that is longer than the others are")
    ]
    together = recogniser.read(crops * 3, with_bounds=True)
    assert [reading.text for reading in together[:4]] == [
        "Harbour Paper Company",
        "1961",
        "I",
        "a line that is longer than the others are",
    ]
    assert together[4:8] == together[8:] == together[:4]
    assert recogniser.read(crops[1::-1], with_bounds=True) == together[1::-1]


def test_a_single_line_is_read_with_all_cores(recogniser: Recogniser) -> None:
    """Its text is the same; rounding may differ."""
    reading = recogniser.read([drawn("winter station")])[0]
    assert (reading.text, reading.is_text) == ("winter station", True)
    assert reading.confidence == pytest.approx(recogniser.read([drawn("winter station")] * 2)[1].confidence, abs=1e-3)


def test_scores_become_rapidocrs_characters_and_probabilities() -> None:
    """Those of its own softmax and search, where a character is written: not blank, not the one before."""
    scores = np.random.default_rng(7).normal(0, 5, (40, 300)).astype(np.float32)
    scores[::3, 0] = 40
    scores[1] = scores[4] = scores[5]
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities = odds / odds.sum(axis=1, keepdims=True)
    best, sure = _likeliest(scores)
    assert np.array_equal(best, probabilities.argmax(axis=1))
    blank_or_repeated = [step for step in range(40) if best[step] == 0 or (step and best[step] == best[step - 1])]
    assert 5 in blank_or_repeated
    expected = probabilities.max(axis=1)
    expected[blank_or_repeated] = 0
    np.testing.assert_allclose(sure, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("side", "whole", "narrowed"), [((48, 320), 320, 320), ((48, 330), 330, 320), ((24, 500), 1000, 850)]
)
def test_long_lines_are_read_narrower(side: tuple[int, int], whole: int, narrowed: int) -> None:
    crop = np.zeros((*side, 3), np.uint8)
    assert (_width(crop), _width(crop, narrowed=True)) == (whole, narrowed)


def test_no_lines_give_no_readings(recogniser: Recogniser) -> None:
    assert recogniser.read([]) == []
