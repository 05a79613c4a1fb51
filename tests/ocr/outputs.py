"""Model output for the tests of the OCR domain: real in form, arbitrary, and hostile."""

from __future__ import annotations

import time
from collections.abc import Callable

from hypothesis import strategies as st

# What the model writes for a page: a title, a paragraph, a figure with its caption.
PAGE = (
    "<|ref|>title<|/ref|><|det|>[[205, 132, 790, 157]]<|/det|>\n"
    "# Harbour Report  \n\n"
    "<|ref|>text<|/ref|><|det|>[[115, 306, 882, 565]]<|/det|>\n"
    "Twelve ships called in May.  \n\n"
    "<|ref|>image<|/ref|><|det|>[[131, 620, 863, 840]]<|/det|>\n"
    "<|ref|>image_caption<|/ref|><|det|>[[115, 853, 883, 887]]<|/det|>\n"
    "<center>Figure 1: The quay. </center>  "
)

MARKERS = ["<|ref|>", "<|/ref|>", "<|det|>", "<|/det|>"]
WHOLE_TAGS = [
    "<|ref|>Total<|/ref|><|det|>[[1,2,3,4]]<|/det|>",
    "<|ref|>text<|/ref|><|det|>[[1,2,3,4]]<|/det|>\n",
    "<|ref|>image<|/ref|><|det|>[[1,2,30,40],[5,5,5,5],[0,0,999,999]]<|/det|>",
]
SCRAPS = ["<|", "|>", "<", "[[", "]]", "[", "]", ",", "1", "999", "12,34,56,78", "[[1,2,3,4]]", "-3", "0.5", " ", "\n"]
SPECIAL_TOKENS = ["<|grounding|>", "<image>", "<｜end▁of▁sentence｜>"]
WORDS = ["Total", "合计", "text", "image", "\\coloneqq", "a b"]

OUTPUT = st.one_of(
    st.text(),
    st.lists(
        st.one_of(st.sampled_from([*MARKERS, *WHOLE_TAGS, *SCRAPS, *SPECIAL_TOKENS, *WORDS]), st.text(max_size=3)),
        max_size=30,
    ).map("".join),
)
"""Arbitrary output, most of it made of pieces of tags."""

CLEAN_OUTPUT = st.lists(
    st.one_of(st.sampled_from([*WHOLE_TAGS, *SPECIAL_TOKENS, *WORDS, " ", "\n"]), st.text("abc .\n#|", max_size=5)),
    max_size=30,
).map("".join)
"""Output of whole tags, whole special tokens and text that holds none of their pieces."""


def tag(numbers: str, label: str = "Total") -> str:
    """Write a tag."""
    return f"<|ref|>{label}<|/ref|><|det|>{numbers}<|/det|>"


def grows_linearly(work: Callable[[str], object], piece: str, size: int) -> bool:
    """Whether `work` on four times as much output takes about four times as long.

    Quadratic time would be sixteen times as long, at every try. A busy machine can make one try look so
    (its caches are shared), so it takes three of three to say no.
    """
    short, long = (piece * (length // len(piece)) for length in (size // 2, 2 * size))
    return any(_cpu_seconds(work, long) < 9 * _cpu_seconds(work, short) + 0.05 for _ in range(3))


def _cpu_seconds(work: Callable[[str], object], text: str) -> float:
    times = []
    for _ in range(3):
        started = time.process_time()
        work(text)
        times.append(time.process_time() - started)
    return min(times)
