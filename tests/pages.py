"""The documentation as tests read it: pages, sections, tables, code blocks, headings."""

from __future__ import annotations

import re

from tests.process import ROOT

PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in ROOT.rglob("*.md")
    if not any(part.startswith(".") or part == "build" for part in path.relative_to(ROOT).parts)
)

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`]+)`")


def page(name: str) -> str:
    """The text of a file of the project."""
    return (ROOT / name).read_text(encoding="utf-8")


def prose(name: str) -> str:
    """A page without its code blocks."""
    return _BLOCK.sub("", page(name))


def blocks(name: str) -> list[tuple[str, str]]:
    """The code blocks of a page: language and text."""
    return [(found[1], found[2].rstrip("\n")) for found in _BLOCK.finditer(page(name))]


def section(name: str, heading: str) -> str:
    """What stands under a heading, up to the next one of its level or above."""
    level = len(heading) - len(heading.lstrip("#"))
    found = re.search(rf"^{re.escape(heading)}\n(.*?)(?=^#{{1,{level}}} |\Z)", prose(name), re.MULTILINE | re.DOTALL)
    assert found, f"{name} has no heading {heading!r}"
    return found[1]


def codes(text: str) -> list[str]:
    """What stands in code style."""
    return _CODE.findall(text)


def rows(text: str) -> dict[str, list[str]]:
    """Table rows by each name in code style of their first cell; the cells after it."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("|"):
            cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            found.update(dict.fromkeys(codes(cells[0]), cells[1:]))
    return found


def anchors(name: str) -> set[str]:
    """The fragments that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(name), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
