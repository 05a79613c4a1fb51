"""Formulas as Word's own equations, Office MathML (ECMA-376 part 1, 22.1), made of presentation MathML."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from docx.oxml import OxmlElement, parse_xml
from docx.oxml.ns import qn

from app.results.formulas import to_mathml

DEEPEST = 40
"""Elements inside each other; Word and other readers of XML refuse trees that are much deeper."""

_NARY = frozenset("∑∏∐∫∬∭∮∯∰⋀⋁⋂⋃⨀⨁⨂⨄")
_OPENING, _CLOSING = frozenset("([{⌈⌊⟨⟦"), frozenset(")]}⌉⌋⟩⟧")
# What MathML writes above a letter, and the combining mark that Word takes for it.
_ACCENTS = {"^": "\u0302", "ˆ": "\u0302", "~": "\u0303", "˜": "\u0303", "˙": "\u0307", ".": "\u0307", "¨": "\u0308"}
_ACCENTS |= {"→": "\u20d7", "ˇ": "\u030c", "˘": "\u0306", "´": "\u0301", "`": "\u0300", "˚": "\u030a"}
_BARS = frozenset("―¯‾_̲̅")
_BRACES = frozenset("⏞⏟⏠⏡⎴⎵")


def omml(latex: str, display: bool) -> Any | None:
    """Return a formula as an `m:oMath`, in an `m:oMathPara` where it stands alone; None for what cannot be converted."""
    converted = to_mathml(latex)
    if converted is None:
        return None
    try:
        math = _element("oMath", *_row(list(parse_xml(converted)), 0))
    except (SyntaxError, _TooDeep):
        return None
    if not len(math):
        return None
    return _element("oMathPara", math) if display else math


class _TooDeep(Exception):
    """The formula has more elements inside each other than readers take."""


def _row(nodes: Sequence[Any], depth: int) -> list[Any]:
    """Convert what stands beside each other: brackets become delimiters, sums take what follows them."""
    if depth > DEEPEST:
        raise _TooDeep
    made: list[Any] = []
    closings = _match(nodes)
    sums: list[Any] = []
    place = 0
    while place < len(nodes):
        node, last = nodes[place], place + 1 == len(nodes)
        if (closing := closings.get(place)) is not None:
            end = _text(nodes[closing]) if closing < len(nodes) else ""
            new = [_delimiter(_text(node), end, _row(nodes[place + 1 : closing], depth + 1))]
            place = closing
        elif not last and (parts := _sum(node)) is not None:
            new = [_nary(node, parts, depth)]
        else:
            new = _convert(node, depth)
        if new:
            (sums.pop() if sums else made).extend(new)
            if new[0].tag == qn("m:nary"):
                sums.append(new[0].find(qn("m:e")))
        place += 1
    return made


def _match(nodes: Sequence[Any]) -> dict[int, int]:
    """Return the place of the closing bracket for that of each opening one; past the end where it ends the row."""
    found: dict[int, int] = {}
    opened: list[int] = []
    for place, node in enumerate(nodes):
        if _name(node) != "mo":
            continue
        form, text = node.get("form"), _text(node)
        if form == "prefix" or (form is None and text in _OPENING):
            opened.append(place)
        elif opened and (form == "postfix" or (form is None and text in _CLOSING)):
            found[opened.pop()] = place
    if opened and nodes[opened[0]].get("form") == "prefix":
        found[opened[0]] = len(nodes)
    return found


def _convert(node: Any, depth: int) -> list[Any]:
    name, children = _name(node), list(node)
    if name in _LEAVES:
        return _run(node)
    convert = _CONVERTERS.get(name)
    if convert is not None and len(children) == _CHILDREN.get(name, len(children)):
        return [convert(node, children, depth + 1)]
    if name == "semantics":
        children = children[:1]
    return _row(children, depth + 1)


def _run(node: Any) -> list[Any]:
    text = " " if _name(node) == "mspace" else _text(node)
    if not text:
        return []
    properties = _element("rPr")
    if _name(node) == "mtext":
        properties.append(_element("nor"))
    elif len(text) > 1 and text.isalpha():  # the name of a function
        properties.append(_valued("sty", "p"))
    face = OxmlElement("w:rPr")
    fonts = OxmlElement("w:rFonts")
    for attribute in ("w:ascii", "w:hAnsi"):
        fonts.set(qn(attribute), "Cambria Math")
    face.append(fonts)
    said = _element("t")
    said.set("{http://www.w3.org/XML/1998/namespace}space", "preserve")
    said.text = text
    return [_element("r", *([properties] if len(properties) else []), face, said)]


def _part(name: str, node: Any, depth: int) -> Any:
    return _element(name, *_row([node], depth))


def _fraction(node: Any, children: list[Any], depth: int) -> Any:
    bare = (node.get("linethickness") or "").rstrip("empxt%") == "0"
    kind = [_element("fPr", _valued("type", "noBar"))] if bare else []
    return _element("f", *kind, _part("num", children[0], depth), _part("den", children[1], depth))


def _root(node: Any, children: list[Any], depth: int) -> Any:
    if _name(node) == "msqrt":
        hidden = _element("radPr", _valued("degHide", "1"))
        return _element("rad", hidden, _element("deg"), _element("e", *_row(children, depth)))
    return _element("rad", _part("deg", children[1], depth), _part("e", children[0], depth))


def _scripts(node: Any, children: list[Any], depth: int) -> Any:
    name, parts = {
        "msub": ("sSub", ("e", "sub")),
        "msup": ("sSup", ("e", "sup")),
        "msubsup": ("sSubSup", ("e", "sub", "sup")),
    }[_name(node)]
    return _element(name, *(_part(part, child, depth) for part, child in zip(parts, children, strict=True)))


def _limits(node: Any, children: list[Any], depth: int) -> Any:
    base, *others = children
    if _name(node) == "munderover":
        below = _element("limLow", _part("e", base, depth), _part("lim", others[0], depth))
        return _element("limUpp", _element("e", below), _part("lim", others[1], depth))
    over, mark = _name(node) == "mover", _text(others[0])
    if mark in _BARS:
        return _element("bar", _element("barPr", _valued("pos", "top" if over else "bot")), _part("e", base, depth))
    if mark in _BRACES:
        place = _element("groupChrPr", _valued("chr", mark), _valued("pos", "top" if over else "bot"))
        return _element("groupChr", place, _part("e", base, depth))
    if over and mark in _ACCENTS and _name(others[0]) == "mo":
        return _element("acc", _element("accPr", _valued("chr", _ACCENTS[mark])), _part("e", base, depth))
    return _element("limUpp" if over else "limLow", _part("e", base, depth), _part("lim", others[0], depth))


def _matrix(node: Any, children: list[Any], depth: int) -> Any:
    rows = [list(row) for row in children]
    width = max(map(len, rows), default=0)
    side = next((cell.get("columnalign") for row in rows for cell in row if cell.get("columnalign")), "center")
    column = _element("mcPr", _valued("count", str(max(1, width))), _valued("mcJc", side.split()[0]))
    made = _element("m", _element("mPr", _element("mcs", _element("mc", column))))
    for row in rows:
        cells = [_element("e", *_row(list(cell), depth)) for cell in row]
        made.append(_element("mr", *cells, *(_element("e") for _ in range(width - len(cells)))))
    return made


def _box(node: Any, children: list[Any], depth: int) -> Any:
    return _element("borderBox", _element("e", *_row(children, depth)))


def _phantom(node: Any, children: list[Any], depth: int) -> Any:
    return _element("phant", _element("phantPr", _valued("show", "0")), _element("e", *_row(children, depth)))


def _sum(node: Any) -> tuple[Any | None, Any | None] | None:
    """Return what stands below and above a sum, an integral and their like; None for anything else."""
    children, name = list(node), _name(node)
    if name not in ("msub", "msup", "msubsup", "munder", "mover", "munderover") or _text(children[0]) not in _NARY:
        return None
    if len(children) == 3:
        return children[1], children[2]
    return (children[1], None) if name in ("msub", "munder") else (None, children[1])


def _nary(node: Any, parts: tuple[Any | None, Any | None], depth: int) -> Any:
    below, above = parts
    where = "subSup" if _name(node).startswith("ms") and _text(node[0]) in "∫∬∭∮∯∰" else "undOvr"
    properties = _element("naryPr", _valued("chr", _text(node[0])), _valued("limLoc", where))
    for name, part in (("subHide", below), ("supHide", above)):
        if part is None:
            properties.append(_valued(name, "1"))
    scripts = [
        _element(name) if part is None else _part(name, part, depth + 1)
        for name, part in (("sub", below), ("sup", above))
    ]
    return _element("nary", properties, *scripts, _element("e"))


def _delimiter(begin: str, end: str, inner: list[Any]) -> Any:
    properties = _element("dPr", _valued("begChr", begin), _valued("endChr", end))
    return _element("d", properties, _element("e", *inner))


_LEAVES = frozenset({"mi", "mn", "mo", "mtext", "ms", "mspace"})
_CONVERTERS: dict[str, Callable[[Any, list[Any], int], Any]] = {
    "mfrac": _fraction,
    **dict.fromkeys(("msqrt", "mroot"), _root),
    **dict.fromkeys(("msub", "msup", "msubsup"), _scripts),
    **dict.fromkeys(("munder", "mover", "munderover"), _limits),
    "mtable": _matrix,
    "menclose": _box,
    "mphantom": _phantom,
}
_CHILDREN = {"mfrac": 2, "mroot": 2, "msub": 2, "msup": 2, "msubsup": 3, "munder": 2, "mover": 2, "munderover": 3}


def _name(node: Any) -> str:
    return str(node.tag).rpartition("}")[2]


def _text(node: Any) -> str:
    return "".join(node.itertext()).strip(" \n\t")


def _element(name: str, *children: Any) -> Any:
    made = OxmlElement(f"m:{name}")
    for child in children:
        made.append(child)
    return made


def _valued(name: str, value: str) -> Any:
    made = _element(name)
    made.set(qn("m:val"), value)
    return made
