"""Training batches: pages, the tokens asked and answered, and the labels of the auxiliary losses.

A batch depends on the seed and its step only, whoever makes it, so that a resumed run sees the same pages.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tools.random_checkpoint import OWN_TOKENS
from tools.tiny_reader.answers import Task, answer
from tools.tiny_reader.faces import Faces
from tools.tiny_reader.page import Kind, Page, plan_page
from tools.tiny_reader.sizes import BOS, EOS, FIRST_BYTE, FIRST_OWN, PAD

NO_LABEL = -100
# Characters told apart in one 16 px patch and in one 64 px image token by the auxiliary losses.
PATCH, PATCH_SLOTS = 16, 3
TOKEN, TOKEN_SLOTS = 64, 32

_OWN = {content: FIRST_OWN + place for place, content in enumerate(OWN_TOKENS)}
_SPLIT = re.compile("(" + "|".join(re.escape(token) for token in OWN_TOKENS) + ")")


def encode(text: str) -> list[int]:
    """Return the token ids of a text, as the exported tokenizer does."""
    ids: list[int] = []
    for part in _SPLIT.split(text):
        if part in _OWN:
            ids.append(_OWN[part])
        else:
            ids.extend(FIRST_BYTE + byte for byte in part.encode())
    return ids


def decode(ids: Sequence[int]) -> str:
    """Return the text of token ids; bytes that are no UTF-8 become replacement characters."""
    parts = bytearray()
    for token in ids:
        if FIRST_BYTE <= token < FIRST_OWN:
            parts.append(token - FIRST_BYTE)
        elif FIRST_OWN <= token < FIRST_OWN + len(OWN_TOKENS):
            parts += OWN_TOKENS[token - FIRST_OWN].encode()
    return parts.decode(errors="replace")


def prompt_ids(prompt: str) -> list[int]:
    """Return the ids before the answer, without those of the picture after the first."""
    return [BOS, *encode("\n" + prompt)]


@dataclass(frozen=True)
class Batch:
    """`tokens` and `targets` are int16 (pages, longest), padded, sorted by length; `lengths` (pages,).

    `patch_labels` is int8 (pages, side / 16, side / 16, PATCH_SLOTS) and `token_labels`
    (pages, side / 64, side / 64, TOKEN_SLOTS): characters in reading order by the place of their centre,
    counted from 1, then one 0 that says "no more", then -1 for "not asked".
    """

    pages: list[Page]
    tasks: list[str]
    tokens: NDArray[np.int16]
    targets: NDArray[np.int16]
    lengths: NDArray[np.int32]
    patch_labels: NDArray[np.int8]
    token_labels: NDArray[np.int8]

    def without_pages(self) -> Batch:
        """Return the arrays alone: pages travel between processes packed."""
        return replace(self, pages=[])


def slot_labels(pages: Sequence[Page], side: int, cell: int, slots: int) -> NDArray[np.int8]:
    """Return the characters of every cell of every page: (pages, side / cell, side / cell, slots)."""
    across = side // cell
    counts = [len(page.char_ids) for page in pages]
    owner = np.repeat(np.arange(len(pages)), counts)
    places = np.concatenate([page.char_xy for page in pages]).astype(np.int64) // cell
    ids = np.concatenate([page.char_ids for page in pages])
    places = places.clip(0, across - 1)
    cells = (owner * across + places[:, 1]) * across + places[:, 0]
    order = np.argsort(cells, kind="stable")
    ordered = cells[order]
    first = np.concatenate(([True], ordered[1:] != ordered[:-1])) if len(ordered) else np.zeros(0, bool)
    starts = np.maximum.accumulate(np.where(first, np.arange(len(ordered)), 0))
    rank = np.arange(len(ordered)) - starts
    labels = np.full((len(pages) * across * across, slots), -1, np.int8)
    kept = rank < slots
    labels[ordered[kept], rank[kept]] = ids[order][kept] + 1
    filled = np.bincount(cells, minlength=len(labels))
    room = filled < slots
    labels[np.flatnonzero(room), filled[room]] = 0
    return labels.reshape(len(pages), across, across, slots)


# Shares of (kind of page, task) in training.
MIXTURE: tuple[tuple[tuple[Kind, Task], float], ...] = (
    (("lines", "free"), 0.37),
    (("lines", "boxes"), 0.22),
    (("lines", "locate"), 0.15),
    (("document", "markdown"), 0.16),
    (("document", "free"), 0.05),
    (("document", "boxes"), 0.05),
)
# A page of one line teaches where to look, a page of eight how to read on. Once that is learnt, most of what is still
# read wrongly is small type: from batch FULL_FROM on two pages of three are kept to it, and most may be full.
MOST_LINES = (1, 2, 3, 4, 5, 6, 7, 8, 8, 8)
MOST_LINES_LATER = (1, 2, 4, 6, 8, 8, 8, 8, 8, 8)
LARGEST_LATER = (None, 26, 18)
FULL_FROM = 4000
LONGEST = 1024


def make_batch(seed: int, step: int, side: int, size: int, faces: Faces) -> Batch:
    """Plan the pages of a step and write down what is right."""
    rng = np.random.default_rng((seed, step))
    kinds = [kind for kind, _ in MIXTURE]
    shares = np.array([share for _, share in MIXTURE])
    lines, largest = (MOST_LINES, (None,)) if step < FULL_FROM else (MOST_LINES_LATER, LARGEST_LATER)
    made: list[tuple[Page, str, list[int], int]] = []
    for choice in rng.choice(len(kinds), size=size, p=shares / shares.sum()):
        kind, task = kinds[choice]
        most, limit = int(rng.choice(lines)), largest[int(rng.integers(len(largest)))]
        page = plan_page(rng, side, kind=kind, max_lines=most, fonts=faces, largest=limit)
        prompt, text = answer(page, task, rng)
        asked = prompt_ids(prompt)
        made.append((page, task, [*asked, *encode(text), EOS][: LONGEST + 1], len(asked)))
    made.sort(key=lambda entry: len(entry[2]))
    return _collate(made, side)


def _collate(made: Sequence[tuple[Page, str, list[int], int]], side: int) -> Batch:
    """Pad the token sequences and shift the targets: the target of a token is the next one."""
    longest = max(len(ids) for _, _, ids, _ in made) - 1
    tokens = np.full((len(made), longest), PAD, np.int16)
    targets = np.full((len(made), longest), NO_LABEL, np.int16)
    for row, (_, _, ids, asked) in enumerate(made):
        tokens[row, : len(ids) - 1] = ids[:-1]
        targets[row, asked - 1 : len(ids) - 1] = ids[asked:]
    pages = [page for page, _, _, _ in made]
    return Batch(
        pages=pages,
        tasks=[task for _, task, _, _ in made],
        tokens=tokens,
        targets=targets,
        lengths=np.array([len(ids) - 1 for _, _, ids, _ in made], np.int32),
        patch_labels=slot_labels(pages, side, PATCH, PATCH_SLOTS),
        token_labels=slot_labels(pages, side, TOKEN, TOKEN_SLOTS),
    )
