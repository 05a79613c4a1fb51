"""Characters that a format cannot hold."""

from __future__ import annotations

import re

REPLACEMENT = "\ufffd"

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def xml_text(text: str) -> str:
    """Return text with a replacement character for each that XML 1.0 (2.2) forbids."""
    return _NOT_XML.sub(REPLACEMENT, text)


def utf8_text(text: str) -> str:
    """Return text with a replacement character for each lone surrogate, which UTF-8 has no bytes for."""
    return _SURROGATE.sub(REPLACEMENT, text)


def failure_sentence(number: int, detail: str) -> str:
    """Say that a page was not read, and why."""
    return f"Page {number} could not be read: {detail}"
