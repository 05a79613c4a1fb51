"""Verdicts on output: whether it repeats itself without end.

Two kinds of repetition are looked for, both at the end of the text, where a model that loops is: a unit,
from one character to several lines, written again and again; and the same with numbers that count ("Item
1", "Item 2", ...). Pages repeat themselves, too, so each kind has limits that no page is likely to reach.
Output cut off by the token limit is judged by lower ones: a page that ends by itself did end, while a
loop nearly always runs into the limit.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

TAIL = 16_384
"""Characters at the end that are looked at: about half of what 8,192 tokens of English make, and room
for six repeats of a unit of 2,700 characters."""


@dataclass(frozen=True)
class Limit:
    """A repetition of at least this many repeats and this many characters altogether is a loop."""

    repeats: int
    characters: int


# Units that hold letters. What pages do, cut off: ten rows of ten cells <td>N/A</td> make 1,200
# characters, lorem ipsum comes back four or five times. Ending by themselves: ten coupons with their
# small print, a sheet of 65 labels of up to 90 characters, a page's 60 lines of the same word.
_WORDS = {
    False: (Limit(repeats=6, characters=1_200), Limit(repeats=40, characters=400)),
    True: (
        Limit(repeats=8, characters=12_000),
        Limit(repeats=20, characters=6_000),
        Limit(repeats=80, characters=600),
    ),
}

# Units of digits, punctuation, blanks and HTML tags only: leaders, rulers, ruled paper (40 lines of 100
# characters), blank forms (25 rows of 12 cells <td></td> make 2,900), all-zero rows of figures. An
# endless run of blank cells makes 36,000 characters before 8,192 tokens are spent.
_BLANKS = {False: (Limit(repeats=12, characters=5_000),), True: (Limit(repeats=80, characters=8_000),)}

# Units that count. Numbered forms have 60 lines to the page, contents without titles as many, answer
# sheets in columns 200; a list of 150 equal lines would have to meet a token limit by chance, too.
_COUNTERS = {
    False: (Limit(repeats=150, characters=150), Limit(repeats=60, characters=5_000)),
    True: (Limit(repeats=300, characters=300), Limit(repeats=150, characters=9_000)),
}

# A counter may slip: the share of steps that must be equal. Ordinary columns of figures are far below.
_STEADY = 0.9

# Every limit asks for more than this many characters besides the first unit, so the last that many
# come twice in every loop. Most pages are cleared by that one search.
_PROBE = 64

_DIGITS = re.compile(r"\d+")
_TAG = re.compile(r"<[^<>]*>")


@dataclass(frozen=True)
class Loop:
    """A repetition at the end of a text: where it starts, its unit's length in characters, complete repeats."""

    start: int
    period: int
    repeats: int


def is_looped(text: str, *, finished: bool = True) -> bool:
    """Say whether output repeats itself without end; `finished` is False when the token limit cut it off."""
    return find_loop(text, finished=finished) is not None


def find_loop(text: str, *, finished: bool = True) -> Loop | None:
    """Return the loop that a text ends in, None when it ends in none.

    Only the last TAIL characters count, so the loop may have begun before `start`. For a loop that
    counts, `period` is the length of the unit with each number as one character. Time is linear.
    """
    end = len(_without_closing_tags(text)) if finished else len(text)
    start = max(0, end - TAIL)
    tail = text[start:end]
    loop = _exact_loop(tail, finished) or _counting_loop(tail, finished)
    return Loop(start + loop.start, loop.period, loop.repeats) if loop else None


def _without_closing_tags(text: str) -> str:
    """Drop what closes a table or a sentence token after a loop inside it."""
    for _ in range(8):
        text = text.rstrip()
        opener = text.rfind("<", -32)
        if opener < 0 or not text.endswith(">") or text[opener : opener + 2] not in ("</", "<｜"):
            break
        text = text[:opener]
    return text


def _exact_loop(tail: str, finished: bool) -> Loop | None:
    borders = _borders(tail)
    for limits, wordy in ((_WORDS, True), (_BLANKS, False)):
        for limit in limits[finished]:
            length, period = _longest_repetition(borders, limit)
            if length and (not wordy or _has_words(tail[-length:])):
                return Loop(len(tail) - length, period, length // period)
    return None


def _counting_loop(tail: str, finished: bool) -> Loop | None:
    numbers = _DIGITS.findall(tail)
    skeleton = _DIGITS.sub("0", tail)
    borders = _borders(skeleton)
    for limit in _COUNTERS[finished]:
        length, period = _longest_repetition(borders, limit)
        if not length:
            continue
        repeated = numbers[len(numbers) - skeleton.count("0", len(skeleton) - length) :]
        if _counts(repeated, slots=skeleton.count("0", len(skeleton) - period)):
            written = length + sum(len(number) - 1 for number in repeated)
            return Loop(len(tail) - written, period, length // period)
    return None


def _borders(text: str) -> Sequence[int]:
    """Return, for each length of suffix of a text, the longest proper start of it that is also its end.

    This is the failure function of Knuth, Morris and Pratt over the text reversed: a suffix of length
    n has the period n - borders[n]. Empty when the text's end came only once.
    """
    if len(text) <= _PROBE or text.rfind(text[-_PROBE:], 0, -1) < 0:
        return ()
    backwards = text[::-1]
    borders = [0] * (len(backwards) + 1)
    border = 0
    for position in range(1, len(backwards)):
        character = backwards[position]
        while border and backwards[border] != character:
            border = borders[border]
        if backwards[border] == character:
            border += 1
        borders[position + 1] = border
    return borders


def _longest_repetition(borders: Sequence[int], limit: Limit) -> tuple[int, int]:
    """Return length and period of the longest suffix within a limit, zeros when there is none."""
    for length in range(len(borders) - 1, limit.characters - 1, -1):
        period = length - borders[length]
        if period * limit.repeats <= length:
            return length, period
    return 0, 0


def _has_words(text: str) -> bool:
    """Whether letters stand outside HTML tags, of which the first and the last may be cut."""
    first, last = text.find("<"), text.rfind(">")
    if 0 <= first < last:
        text = text[first : last + 1]
    return any(character.isalpha() for character in _TAG.sub("", text))


def _counts(numbers: list[str], slots: int) -> bool:
    """Whether numbers, `slots` to the unit, each go in steady steps from unit to unit, not all of them standing still."""
    moving = False
    for slot in range(slots):
        # Eighteen digits are more than any counter needs; int() raises on thousands.
        values = [int(number[-18:]) for number in numbers[slot::slots]]
        steps = [after - before for before, after in pairwise(values)]
        [(usual, times)] = Counter(steps).most_common(1)
        if times < _STEADY * len(steps):
            return False
        moving = moving or usual != 0
    return moving
