"""The no-repeat n-gram rule: it bans at every step what a plain reading of the rule bans, in any batch."""

from __future__ import annotations

from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.vllm_models.ngram_state import PUBLISHED, NgramRule, NgramState, read_rule
from tests.with_vllm.ngram_plain import OFF, VOCABULARY, Batch, grow, plain_rule, random_changes


def follow_change(state: NgramState, change: SimpleNamespace) -> None:
    for row in change.removed:
        state.forget(row)
    for row, request in change.added:
        state.follow(row, request.rule, request.tokens)
    for source, target, both in change.moved:
        (state.swap if both else state.move)(source, target)


def banned_by_row(state: NgramState, rows: int) -> list[set[int]]:
    found: list[set[int]] = [set() for _ in range(rows)]
    for row, token in zip(*state.banned(), strict=True):
        found[row].add(int(token))
    return found


rules = st.one_of(
    st.just(OFF),
    st.builds(
        lambda size, more, whitelist: NgramRule(size, size + more, tuple(whitelist)),
        size=st.integers(1, 6),
        more=st.one_of(st.integers(0, 12), st.integers(60, 90)),
        whitelist=st.sets(st.integers(0, VOCABULARY), max_size=3),
    ),
)


@settings(deadline=None, max_examples=150)
@given(
    offered=st.lists(rules, min_size=1, max_size=4),
    alphabet=st.integers(1, 4),
    steps=st.integers(1, 200),
    seed=st.integers(0, 2**32),
)
def test_at_every_step_the_banned_tokens_are_those_of_the_plain_rule(
    offered: list[NgramRule], alphabet: int, steps: int, seed: int
) -> None:
    random, state, batch = Random(seed), NgramState(6), Batch()
    for _ in range(steps):
        follow_change(state, random_changes(random, batch, offered))
        for request in batch.rows:
            grow(random, request.tokens, alphabet)
        expected = [plain_rule(request.tokens, request.rule) for request in batch.rows]
        assert banned_by_row(state, len(batch.rows)) == expected


@pytest.mark.parametrize("rule", [PUBLISHED, NgramRule(20, 50), NgramRule(35, 1024, ()), NgramRule(90, 90, (1,))])
def test_the_settings_in_use_ban_what_the_plain_rule_bans_over_a_long_looping_text(rule: NgramRule) -> None:
    random, state, tokens = Random(7), NgramState(1), []
    state.follow(0, rule, tokens)
    phrases = [[random.randrange(50) for _ in range(length)] for length in (1, 2, 30, 31, 40, 300)]
    bans = 0
    for phrase in [*phrases, [128821, 128822], phrases[0]]:
        for token in phrase * (400 // len(phrase)):
            tokens.append(token)
            found = banned_by_row(state, 1)[0]
            assert found == plain_rule(tokens, rule)
            bans += len(found)
    assert bans > 100


def test_size_one_bans_every_token_of_the_window() -> None:
    state, tokens = NgramState(1), [1, 2, 3, 4, 5]
    state.follow(0, NgramRule(1, 3, (4,)), tokens)
    assert banned_by_row(state, 1) == [{3, 5}]


def test_nothing_is_banned_before_the_first_token_nor_in_an_empty_batch() -> None:
    state = NgramState(2)
    assert banned_by_row(state, 2) == [set(), set()]
    state.follow(1, NgramRule(1, 5), [])
    assert banned_by_row(state, 2) == [set(), set()]


def test_a_window_of_just_the_size_bans_only_the_run_of_one_token() -> None:
    state, tokens = NgramState(1), [1, 2, 1, 2, 1]
    state.follow(0, NgramRule(3, 3), tokens)
    assert banned_by_row(state, 1) == [set()]
    tokens += [1, 1]
    assert banned_by_row(state, 1) == [{1}]


def test_a_row_taken_again_remembers_nothing_of_the_request_before() -> None:
    state = NgramState(1)
    state.follow(0, NgramRule(2, 9, (7,)), [7, 5, 5])
    assert banned_by_row(state, 1) == [{5}]
    tokens = [7]
    state.follow(0, NgramRule(2, 9, ()), tokens)
    assert banned_by_row(state, 1) == [set()]
    tokens.append(7)
    assert banned_by_row(state, 1) == [{7}]


def test_asking_twice_in_one_step_gives_the_same_answer() -> None:
    state = NgramState(1)
    state.follow(0, NgramRule(2, 9), [3, 4, 3])
    assert banned_by_row(state, 1) == [{4}]
    assert banned_by_row(state, 1) == [{4}]


def test_a_token_not_known_yet_matches_nothing_and_is_read_when_it_is() -> None:
    state, tokens = NgramState(1), [1, 2, 1]
    state.follow(0, NgramRule(2, 9), tokens)
    assert banned_by_row(state, 1) == [{2}]
    tokens.append(-1)
    assert (banned_by_row(state, 1), state.blind) == ([set()], True)
    tokens.append(-1)
    assert banned_by_row(state, 1) == [set()]
    tokens[3:] = [2, 1]
    assert (banned_by_row(state, 1), state.blind) == ([{2}], False)


@pytest.mark.parametrize(
    ("extra_args", "rule"),
    [
        (None, PUBLISHED),
        ({}, PUBLISHED),
        ({"ngram_size": "of another program"}, PUBLISHED),
        ({"no_repeat_ngram_size": 0}, NgramRule(0, 90, (128821, 128822))),
        ({"no_repeat_ngram_size": 20, "no_repeat_window": 50}, NgramRule(20, 50, (128821, 128822))),
        ({"no_repeat_whitelist": []}, NgramRule(30, 90, ())),
        ({"no_repeat_window": 1024, "no_repeat_whitelist": [5]}, NgramRule(30, 1024, (5,))),
    ],
)
def test_a_request_names_its_rule_and_what_it_leaves_out_is_the_default(
    extra_args: dict[str, Any] | None, rule: NgramRule
) -> None:
    assert read_rule(extra_args) == rule
    assert read_rule(rule.extra_args()) == rule


def test_the_default_is_the_published_rule() -> None:
    assert PUBLISHED.extra_args() == {
        "no_repeat_ngram_size": 30,
        "no_repeat_window": 90,
        "no_repeat_whitelist": [128821, 128822],
    }


BAD = [
    ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size must be from 0 (off) to 1024, got -1"),
    ({"no_repeat_ngram_size": "30"}, "no_repeat_ngram_size must be made of integers, got str"),
    ({"no_repeat_ngram_size": True}, "no_repeat_ngram_size must be made of integers, got bool"),
    ({"no_repeat_ngram_size": None}, "no_repeat_ngram_size must be made of integers, got NoneType"),
    ({"no_repeat_ngram_size": 100}, "no_repeat_window (90) must not be smaller than no_repeat_ngram_size (100)"),
    ({"no_repeat_window": 0}, "no_repeat_window must be from 1 to 1024, got 0"),
    ({"no_repeat_window": 1025}, "no_repeat_window must be from 1 to 1024, got 1025"),
    ({"no_repeat_window": 90.0}, "no_repeat_window must be made of integers, got float"),
    ({"no_repeat_whitelist": 5}, "no_repeat_whitelist must be a list of token ids, got int"),
    ({"no_repeat_whitelist": ["<td>"]}, "no_repeat_whitelist must be made of integers, got str"),
    ({"no_repeat_whitelist": [-1]}, "no_repeat_whitelist must hold token ids, which are not negative and below 2**31"),
    (
        {"no_repeat_whitelist": [2**31]},
        "no_repeat_whitelist must hold token ids, which are not negative and below 2**31",
    ),
    ({"no_repeat_whitelist": [0] * 65}, "no_repeat_whitelist must hold at most 64 token ids, got 65"),
    (
        {"no_repeat_windows": 50},
        "unknown no_repeat_windows; known are no_repeat_ngram_size, no_repeat_window and no_repeat_whitelist",
    ),
]


@pytest.mark.parametrize(("extra_args", "reason"), BAD)
def test_a_bad_value_is_refused_with_the_reason(extra_args: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the whole message is compared
        read_rule(extra_args)
    assert str(refused.value) == reason
