"""Formulas: the LaTeX that engines write, as the MathML that every other notation here is made of."""

from __future__ import annotations

import re
from functools import lru_cache

import latex2mathml.converter
import latex2mathml.exceptions

from app.results.text import xml_text

LONGEST_FORMULA = 2_000
"""Characters; the converter's time grows faster than the formula."""

# The converter's own errors, and what it has been seen to raise on what is no LaTeX.
_NO_LATEX: tuple[type[Exception], ...] = (
    *(
        kind
        for kind in vars(latex2mathml.exceptions).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ),
    *(LookupError, ValueError, TypeError, AttributeError, RecursionError, StopIteration, RuntimeError),
)

# Laid out like align*, which the converter knows.
_ALIGNED = re.compile(r"\\(begin|end)\{(?:aligned|split|gathered)\}")


@lru_cache(maxsize=256)
def to_mathml(latex: str) -> str | None:
    """Return a formula as a `math` element; None for what is no LaTeX, or too long."""
    if len(latex) > LONGEST_FORMULA:
        return None
    try:
        return str(latex2mathml.converter.convert(_ALIGNED.sub(r"\\\1{align*}", xml_text(latex))))
    except _NO_LATEX:
        return None
