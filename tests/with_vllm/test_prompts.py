"""The token ids of prompts, with a real tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.engine.vllm_prompts import MOST_KEPT, Prompts
from app.engine.vllm_text import ModelTokenizer
from app.errors import InvalidParameter


@pytest.fixture
def prompts(small_checkpoint: Path) -> Prompts:

    return Prompts(ModelTokenizer(small_checkpoint))


def test_a_prompt_is_kept_with_the_place_of_a_picture_before_it(prompts: Prompts) -> None:
    assert prompts.kept("A") is None
    ids = prompts.encode("A")
    # The beginning, the picture and a new line; this tokenizer has a token for each byte.
    assert (ids[:2], len(ids)) == ([0, 259], 4)
    assert prompts.kept("A") is ids


def test_a_refused_prompt_is_not_kept(prompts: Prompts) -> None:
    with pytest.raises(InvalidParameter, match="must not contain '<image>'"):
        prompts.encode("What is <image>?")
    assert prompts.kept("What is <image>?") is None


def test_the_last_prompts_are_kept_and_no_more(prompts: Prompts) -> None:
    asked = [f"prompt {number}" for number in range(3 * MOST_KEPT)]
    for prompt in asked:
        prompts.encode(prompt)
    assert [prompt for prompt in asked if prompts.kept(prompt)] == asked[-MOST_KEPT:]
