"""What the detector is given, against RapidOCR's own preparation of a picture."""

from __future__ import annotations

import numpy as np
import pytest
from rapidocr.ch_ppocr_det.utils import DetPreProcess

from app.engine.rapidocr.models import Models, _prepare_like
from app.engine.rapidocr.recogniser import Picture

HALF = [0.5, 0.5, 0.5]
IMAGENET = [0.485, 0.456, 0.406]


def noise(height: int, width: int) -> Picture:
    """Return a picture in which every value of every channel occurs."""
    return np.random.default_rng(7).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("mean", [HALF, IMAGENET])
@pytest.mark.parametrize("side", [(800, 800), (700, 900), (1754, 1240)])
def test_prepared_pictures_are_rapidocrs_to_the_bit(side: tuple[int, int], mean: list[float]) -> None:
    own = DetPreProcess(736, "min", mean, [0.229, 0.224, 0.225])
    picture = noise(*side)
    prepared, expected = _prepare_like(own)(picture), own(picture)
    assert prepared is not None
    assert prepared.dtype == expected.dtype
    assert np.array_equal(prepared, expected)


def test_the_loaded_detector_prepares_contiguous_planes() -> None:
    detector = Models(1)._ocr._load_det_model()
    own = DetPreProcess(detector.limit_side_len, detector.limit_type, detector.mean, detector.std)
    picture = noise(800, 992)
    prepared = detector.get_preprocess()(picture)
    assert prepared.flags.c_contiguous
    assert not own(picture).flags.c_contiguous
    assert np.array_equal(prepared, own(picture))
