"""Personal data in a line of text: e-mail addresses, phone numbers, and numbers that carry check digits."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator

import phonenumbers
from stdnum import iban, luhn
from stdnum.cn import ric
from stdnum.us import ssn

Span = tuple[int, int, str]

_EMAIL = re.compile(r"[\w.+%-]+ ?@ ?[\w-]+(?:\.[\w-]+)*\.[^\W\d_]{2,}")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}\b")
_CARD = re.compile(r"(?<![\d.])\d(?:[ -]?\d){12,18}(?![\d.]?\d)")
_CHINESE_ID = re.compile(r"(?<!\d)\d{17}[\dXx](?!\d)")
_SSN = re.compile(r"(?<![\d-])\d{3}-\d{2}-\d{4}(?![\d-])")
_IP = re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?![\d.]*\d)")
_REGIONS = (None, "CN", "US", "DE", "GB", "FR")
"""Countries whose national numbers are recognised; with a country code, every country's are."""


def find(text: str) -> list[Span]:
    """Return (start, end, label) of each piece of personal data, in order, none overlapping another."""
    spans: list[Span] = []
    for span in (*_checked(text), *_phones(text)):
        if all(span[1] <= start or span[0] >= end for start, end, _ in spans):
            spans.append(span)
    return sorted(spans)


def _checked(text: str) -> Iterator[Span]:
    rules: tuple[tuple[str, re.Pattern[str], Callable[[str], bool]], ...] = (
        ("email", _EMAIL, bool),
        ("id_number", _CHINESE_ID, ric.is_valid),
        ("payment_card", _CARD, lambda digits: luhn.is_valid(re.sub("[ -]", "", digits))),
        ("id_number", _SSN, ssn.is_valid),
        ("ip_address", _IP, _is_ip_address),
    )
    yield from _ibans(text)
    for label, pattern, is_valid in rules:
        yield from ((*match.span(), label) for match in pattern.finditer(text) if is_valid(match.group()))


def _ibans(text: str) -> Iterator[Span]:
    """A word in capitals may follow an IBAN: take the longest piece that passes the check."""
    for match in _IBAN.finditer(text):
        ends = [end for end in range(match.end(), match.start() + 14, -1) if iban.is_valid(text[match.start() : end])]
        if ends:
            yield match.start(), match.start() + len(text[match.start() : ends[0]].rstrip()), "iban"


def _is_ip_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _phones(text: str) -> Iterator[Span]:
    for region in _REGIONS:
        # Digits must be grouped as that country groups them, or every order number would be a phone number.
        for match in phonenumbers.PhoneNumberMatcher(text, region, leniency=phonenumbers.Leniency.STRICT_GROUPING):
            yield match.start, match.end, "phone"
