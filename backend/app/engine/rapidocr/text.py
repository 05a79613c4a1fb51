"""Small rules about text: what joins two lines, which punctuation is Chinese, what could pass for a tag."""

from __future__ import annotations

import re

_CJK = "\u2e80-\u9fff\uf900-\ufaff\ufe30-\ufe4f\uff00-\uff65\U00020000-\U0003ffff"
_STARTS_CJK = re.compile(f"[{_CJK}]")
_NARROW_MARK = re.compile(f"(?<=[{_CJK}])[,:;!?](?=[{_CJK}]|$)")
_WIDE = str.maketrans(",:;!?", "，：；！？")


def starts_cjk(text: str) -> bool:
    """Say whether the first character belongs to a script written without spaces."""
    return bool(_STARTS_CJK.match(text))


def glue(before: str, after: str) -> str:
    """Return what stands between two pieces of one paragraph: a space, or nothing next to Chinese or Japanese."""
    return "" if starts_cjk(before[-1]) or starts_cjk(after) else " "


def punctuate(text: str) -> str:
    """Write marks among Chinese characters full width, as they are printed; the recogniser mixes the two.

    The text keeps its length.
    """
    return _NARROW_MARK.sub(lambda mark: mark.group().translate(_WIDE), text)


def safe(text: str) -> str:
    """Break up what looks like a tag on the page, so that no page can fake one."""
    return text.replace("<|", "< |")
