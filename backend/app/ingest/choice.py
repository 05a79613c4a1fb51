"""Which page of a file is wanted, and how."""

from __future__ import annotations

from dataclasses import dataclass, field

DEFAULT_DPI, LOWEST_DPI, HIGHEST_DPI = 144, 36, 600


@dataclass(frozen=True)
class PageChoice:
    """Page `number` of a file, from 1 on; of a PDF at `dpi` dots per inch, opened with `password`."""

    number: int = 1
    dpi: float = DEFAULT_DPI
    password: str = field(default="", repr=False)


FIRST_PAGE = PageChoice()
