"""What the detector is given, against RapidOCR's own preparation of a picture, and which part of a page it looks at."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from rapidocr.ch_ppocr_det.utils import DetPreProcess

from app.engine.rapidocr import detector
from app.engine.rapidocr.detector import prepare_like, printed_part
from app.engine.rapidocr.models import Models
from app.engine.rapidocr.recogniser import Picture
from benchmarks.pages import FONT_ROOT

TEXT = "winter station 1961, terms net 30 days"
PAPER = 245
HALF = [0.5, 0.5, 0.5]
IMAGENET = [0.485, 0.456, 0.406]


@pytest.fixture(scope="module")
def models() -> Models:
    return Models(2)


def noise(height: int, width: int) -> Picture:
    """Return a picture in which every value of every channel occurs."""
    return np.random.default_rng(7).integers(0, 256, (height, width, 3), np.uint8)


def printed(*lines: tuple[int, int, int], darker: int = PAPER, deviation: float = 0.0) -> Picture:
    """Print lines of TEXT, each at x, y in type of so many pixels, on a sheet with noise."""
    image = Image.new("L", (992, 1408), PAPER)
    for x, y, size in lines:
        font = ImageFont.truetype(str(FONT_ROOT / "dejavu/DejaVuSans.ttf"), size)
        ImageDraw.Draw(image).text((x, y), TEXT, font=font, fill=PAPER - darker)
    grain = np.random.default_rng(3).normal(0, deviation, (1408, 992)) if deviation else 0.0
    grey = np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


@pytest.mark.parametrize("mean", [HALF, IMAGENET])
@pytest.mark.parametrize("side", [(800, 800), (700, 900), (1754, 1240)])
def test_prepared_pictures_are_rapidocrs_to_the_bit(side: tuple[int, int], mean: list[float]) -> None:
    own = DetPreProcess(736, "min", mean, [0.229, 0.224, 0.225])
    picture = noise(*side)
    prepared, expected = prepare_like(own)(own.resize(picture)), own(picture)
    assert prepared.dtype == expected.dtype
    assert prepared.flags.c_contiguous
    assert np.array_equal(prepared, expected)


@pytest.mark.parametrize("deviation", [0.0, 6.0])
def test_the_part_is_what_is_printed_and_paper_around_it(deviation: float) -> None:
    assert printed_part(printed(deviation=deviation)) is None
    assert printed_part(printed((200, 300, 24), deviation=deviation)) == (slice(192, 448), slice(96, 768))
    edges = printed((0, 0, 24), (600, 1390, 12), deviation=deviation)
    assert printed_part(edges) == (slice(0, 1408), slice(0, 960))


def test_shadows_and_pictures_are_printed() -> None:
    shadow = np.repeat(np.linspace(255, 200, 992).astype(np.uint8)[None, :, None], 1408, axis=0).repeat(3, axis=2)
    assert printed_part(shadow) == (slice(0, 1408), slice(0, 992))
    assert printed_part(noise(736, 992)) == (slice(0, 736), slice(0, 992))


@pytest.mark.parametrize(("size", "darker", "deviation"), [(10, 60, 6.0), (12, 40, 0.0), (16, 25, 6.0), (24, 20, 6.0)])
def test_faint_and_fine_print_is_found_in_a_corner(models: Models, size: int, darker: int, deviation: float) -> None:
    page = printed((500, 1370, size), darker=darker, deviation=deviation)
    (line,) = models.recognise(models.detect(page, 0).crops)
    assert sum(a == b for a, b in zip(line.text, TEXT, strict=False)) >= len(TEXT) - 4, line.text


def test_lines_are_where_they_are_on_the_whole_page(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    page = printed((120, 300, 28), (180, 420, 20), (400, 900, 14))
    near = models.detect(page, 0)
    monkeypatch.setattr(detector, "printed_part", lambda picture: (slice(None), slice(None)))
    whole = models.detect(page, 0)
    assert len(near.quads) == len(whole.quads) == 3
    assert np.abs(np.array(near.quads) - np.array(whole.quads)).max() <= 4
    texts = [[reading.text for reading in models.recognise(found.crops)] for found in (near, whole)]
    assert texts == [[TEXT] * 3] * 2


def test_a_blank_page_has_no_lines(models: Models) -> None:
    assert models.detect(printed(deviation=3.0), 0).quads == []
