"""Page ranges as people write them: `1-3,7,10-`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from app.errors import InvalidParameter, PageOutOfRange

_PART = re.compile(r"(\d{1,9})?\s*(-)?\s*(\d{1,9})?", re.ASCII)


def parse(text: str, pages: int) -> tuple[int, ...]:
    """Return the pages that `text` names of a document of `pages`, each once, in order; all of them where it is empty.

    Raises InvalidParameter for what is no range and PageOutOfRange for a page that does not exist.
    """
    if not text.strip():
        return tuple(range(1, pages + 1))
    chosen: set[int] = set()
    for part in text.split(","):
        found = _PART.fullmatch(part.strip())
        if found is None or not (found[1] or found[3]):
            raise InvalidParameter("Field 'pages' takes page numbers and ranges such as 1-3,7,10-.")
        first = int(found[1] or 1)
        last = int(found[3] or pages) if found[2] else first
        for number in (first, last):
            if not 1 <= number <= pages:
                raise PageOutOfRange.of(number, pages, "pages")
        if first > last:
            raise InvalidParameter(f"Field 'pages' has the range {first}-{last}, which ends before it begins.")
        chosen.update(range(first, last + 1))
    return tuple(sorted(chosen))


def write(numbers: Iterable[int]) -> str:
    """Return ascending numbers as ranges, which `read` reads."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][1] == number - 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(f"{first}-{last}" if first != last else str(first) for first, last in parts)


def read(text: str) -> Iterator[int]:
    """Yield the numbers that `write` wrote."""
    for span in _spans(text):
        yield from span


def holds(text: str, number: int) -> bool:
    """Say whether `number` is one of those."""
    return any(number in span for span in _spans(text))


def _spans(text: str) -> Iterator[range]:
    for part in text.split(",") if text else ():
        first, _, last = part.partition("-")
        yield range(int(first), int(last or first) + 1)
