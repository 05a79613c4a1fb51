"""The page: one decoded picture on its way from ingest to an engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Page:
    """One picture as the person sees it: EXIF rotation applied, alpha flattened on white.

    `pixels` is uint8 RGB of shape (height, width, 3), C-contiguous. `source_format` is the
    upload's format as Pillow names it ("JPEG", "PNG", ...) or "PDF". It is page `number`, from 1
    on, of a file that has `pages`; `dpi` is at how many dots per inch a PDF's page was rendered.
    """

    pixels: NDArray[np.uint8]
    source_format: str
    number: int = 1
    pages: int = 1
    dpi: float | None = None

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])
