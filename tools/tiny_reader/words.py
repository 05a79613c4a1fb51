"""Invented text: words, numbers and punctuation, made for a whole page at once.

A word is drawn as a template from a bank that is the same everywhere ("capital consonant, vowel, consonant,
comma"), and its open places are filled at random, so that a page of a hundred words costs a few array operations
and no two pages share their invented words.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ALPHABET = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) not in "<>|`^~{}\\_")
"""The characters a page may hold; the space is the first."""

WORDS = tuple(Path(__file__).with_name("english.txt").read_text().split())
"""Frequent English words, roughly the most frequent first."""

# Open places of a template, written in its text as control characters: what may stand there, by frequency.
_PLACES = {
    "\x01": "rtnslcdpmhgbfywkvxzjq" + "rtnslcdpmh" * 2 + "rtnsl" * 2,  # consonant
    "\x02": "eaoiu" * 2 + "eaoi" + "eay",  # vowel
    "\x03": "RTNSLCDPMHGBFYWKVXZJQ" * 2 + "RTNSLCDPMH",
    "\x04": "EAOIU" * 2 + "EAY",
    "\x05": "0123456789",
    "\x06": "123456789",
    "\x07": "abcdefghijklmnopqrstuvwxyz",
    "\x08": "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "\x09": "".join(c for c in ALPHABET if not c.isalnum() and c != " "),
}
_CODE = {c: i for i, c in enumerate(ALPHABET)} | {c: len(ALPHABET) + i for i, c in enumerate(_PLACES)}
_TO_CAPITAL = str.maketrans("\x01\x02\x07", "\x03\x04\x08")


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_ONSETS = _split("bl br ch cl cr dr fl fr gl gr ph pl pr qu sc sh sk sl sm sn sp st str sw th tr tw wh wr")
_NUCLEI = _split("ai au ay ea ee ei ia ie io oa oi oo ou ue ui")
_CODAS = _split("ck ct ff ft ld ll lt mp nd ng nk nt pt rd rk rm rn rt sh sk ss st th tt")
_ENDINGS = _split("able al ed en er es est ful ing ion ism ist ity ive less ly ment ness ous tion ure y")


def seeded(seed: int) -> random.Random:
    """Return the generator of single choices; NumPy's would be ten times slower at them."""
    return random.Random(seed)  # noqa: S311


@dataclass(frozen=True)
class Bank:
    """Templates one after another, each followed by a space: codes, where each begins, and its length with the space."""

    codes: NDArray[np.uint8]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]


@dataclass(frozen=True)
class Words:
    """Text to set: ids into ALPHABET, every word followed by a space, and the index just past each word's space."""

    ids: NDArray[np.uint8]
    ends: NDArray[np.int64]


def draw_words(rng: np.random.Generator, bank: Bank, count: int) -> Words:
    """Return `count` words: templates chosen from `bank`, open places filled."""
    chosen = rng.integers(0, len(bank.starts), count)
    lengths = bank.lengths[chosen]
    ends = lengths.cumsum()
    places = np.arange(ends[-1]) + np.repeat(bank.starts[chosen] - ends + lengths, lengths)
    filled = _fill_table()[bank.codes[places], rng.integers(0, 256, len(places), dtype=np.uint8)]
    return Words(filled, ends)


def decode(ids: NDArray[np.uint8]) -> str:
    """Return the text of ids into ALPHABET."""
    return _ascii_table()[ids].tobytes().decode("ascii")


@lru_cache(maxsize=1)
def running_bank() -> Bank:
    """Return the templates of running text: about a third plain English, the rest invented."""
    dice = seeded(1)
    return _pack(_punctuate(dice, _pick(dice, _RUNNING)) for _ in range(24_000))


@lru_cache(maxsize=1)
def heading_bank() -> Bank:
    """Return the templates of headings: capitalised or all capitals, few numbers, no punctuation."""
    dice = seeded(2)
    return _pack(_pick(dice, _HEADING) for _ in range(8_000))


@lru_cache(maxsize=1)
def cell_bank() -> Bank:
    """Return the templates of table cells: at most eight characters."""
    dice = seeded(3)
    made = (_pick(dice, _CELL) for _ in range(16_000))
    return _pack(word for word in made if len(word) <= 8)


def _english(dice: random.Random) -> str:
    # The square pulls towards the front of the list, where the frequent words stand.
    return WORDS[int(dice.random() ** 1.5 * len(WORDS))]


def _invented(dice: random.Random) -> str:
    word = "".join(_syllable(dice) for _ in range(dice.choice((1, 1, 2, 2, 2, 3, 3, 4))))
    return word + dice.choice(_ENDINGS) if dice.random() < 0.25 else word


def _syllable(dice: random.Random) -> str:
    onset = dice.choice(("\x01", "\x01", "\x01", dice.choice(_ONSETS), ""))
    nucleus = dice.choice(("\x02", "\x02", "\x02", dice.choice(_NUCLEI)))
    return onset + nucleus + dice.choice(("", "", "\x01", "\x01", dice.choice(_CODAS)))


def _letters(dice: random.Random) -> str:
    return "".join(dice.choice("\x07\x07\x08\x05") for _ in range(dice.randint(2, 7)))


def _number(dice: random.Random) -> str:
    return dice.choice(_NUMBERS).replace("N", "\x06").replace("D", "\x05")


# N is a digit but zero, D any digit.
_NUMBERS = _split(
    "D N ND ND ND NDD NDD NDDD NDDD 20DD 19DD NDDDD NDDDDD NDDDDDDD 0.D 0.DD N.D N.DD ND.D ND.DD NDD.DD N,DDD "
    "ND,DDD N,DDD,DDD N,DDD.DD $N $ND $N.DD $ND.DD $NDD.DD $N,DDD.DD ND% ND.D% +ND -ND -N.DD DD/DD/20DD ND/ND/DD "
    "20DD-DD-DD DD.DD.20DD ND:DD DD:DD:DD +ND-DDD-DDDD (DDD) DDD-DDDD 0DDD/DDDDDD #N #ND #NDDD N/N N:N ND-ND ND*ND "
    "N+N N=N [N] [ND] (N) (ND) N) N."
)


def _capitalised(dice: random.Random) -> str:
    word = _plain(dice)
    return word[0].translate(_TO_CAPITAL).upper() + word[1:]


def _capitals(dice: random.Random) -> str:
    return _plain(dice).translate(_TO_CAPITAL).upper()


def _plain(dice: random.Random) -> str:
    return _english(dice) if dice.random() < 0.5 else _invented(dice)


def _special(dice: random.Random) -> str:
    a, b, c = (_short(dice) for _ in range(3))
    made = (
        f"{a}-{b}",
        f"{a}/{b}",
        f"{a}@{b}.{c[:3]}",
        f"{a}.{b}@{c}.com",
        f"www.{a}.{c[:3]}",
        f"{a}'s",
        f"{a}'{b[:1]}",
    )
    more = (f"{a}=\x05", f"{a}*{b}", f"{a}+{b}", f"{a}&{b}", f"#{a}", f"@{a}")
    return dice.choice((*made, *made, *more, *_SPECIAL))


_SPECIAL = _split("& & & + + = = no.\x06\x05 * * - - : / e.g. i.e. etc. \x08\x05 \x08\x08-\x05\x05\x05 \x08&\x08 \x08.")


def _short(dice: random.Random) -> str:
    return next(word for word in iter(lambda: _plain(dice), None) if len(word) <= 6)


_Maker = Callable[[random.Random], str]
_RUNNING: tuple[tuple[float, _Maker], ...] = (
    (0.31, _english),
    (0.28, _invented),
    (0.12, _capitalised),
    (0.06, _capitals),
    (0.13, _number),
    (0.07, _special),
    (0.03, _letters),
)
_HEADING: tuple[tuple[float, _Maker], ...] = (
    (0.60, _capitalised),
    (0.15, _capitals),
    (0.15, _plain),
    (0.10, lambda dice: dice.choice(("\x06", "\x06\x05", "20\x05\x05", "\x06.\x06", "&", "\x08"))),
)
_CELL: tuple[tuple[float, _Maker], ...] = (
    (0.40, _number),
    (0.25, _plain),
    (0.25, _capitalised),
    (0.07, _capitals),
    (0.03, _letters),
)


def _pick(dice: random.Random, makers: tuple[tuple[float, _Maker], ...]) -> str:
    weights, functions = zip(*makers, strict=True)
    return str(dice.choices(functions, weights)[0](dice))


def _punctuate(dice: random.Random, word: str) -> str:
    """Attach punctuation to about a third of the words, as it stands in real text."""
    chance = dice.random()
    if chance < 0.18:
        return word + dice.choice(",,,,,,....;:!?")
    if chance < 0.26:
        before, after = dice.choice(('""', '""', "()", "()", "[]", "''"))
        return before + word + after + dice.choice(("", "", ",", "."))
    if chance < 0.29:
        return word + dice.choice(("...", "-", "'", "*", "?!", '"', ")"))
    if chance < 0.33:  # marks in places where no text has them, so that each is learnt for itself
        return dice.choice(("\x09" + word, word + "\x09", word + "\x09" + _short(dice)))
    return word


def _pack(words: Iterable[str]) -> Bank:
    listed = [word + " " for word in words]
    lengths = np.array([len(word) for word in listed])
    codes = np.array([_CODE[c] for word in listed for c in word], np.uint8)
    return Bank(codes, lengths.cumsum() - lengths, lengths)


@lru_cache(maxsize=1)
def _fill_table() -> NDArray[np.uint8]:
    """Return what each code becomes by a random byte: (codes, 256) ids into ALPHABET."""
    choices = [*ALPHABET, *_PLACES.values()]
    return np.array([[_CODE[text[byte * len(text) // 256]] for byte in range(256)] for text in choices], np.uint8)


@lru_cache(maxsize=1)
def _ascii_table() -> NDArray[np.uint8]:
    return np.frombuffer(ALPHABET.encode("ascii"), np.uint8)
