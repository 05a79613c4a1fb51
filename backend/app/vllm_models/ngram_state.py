"""The no-repeat n-gram rule: what a request may ask of it, and its state for a whole batch.

The rule of the published model: a token that would complete an n-gram standing within the last `window`
generated tokens may not come next, unless it is on the whitelist. Tokens of the prompt do not count.

Needs numpy only, so that the service can check a request's rule where neither vLLM nor PyTorch is loaded.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

PREFIX = "no_repeat_"
SIZE_KEY = "no_repeat_ngram_size"
WINDOW_KEY = "no_repeat_window"
WHITELIST_KEY = "no_repeat_whitelist"

MAX_WINDOW = 1024
"""A step costs all rows of the batch as much as the widest window among them: 0.7 ms at 512 rows and this one."""

MAX_WHITELIST = 64

NO_DRAFTS = "The no-repeat n-gram rule does not work with speculative decoding: turn one of them off"

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class NgramRule:
    """One request's rule. Size 0 is no rule; the defaults are those the model was published with (<td> and </td> pass).

    Raises ValueError, in the words of the request's keys, for what cannot work.
    """

    size: int = 30
    window: int = 90
    whitelist: tuple[int, ...] = (128821, 128822)

    def __post_init__(self) -> None:
        if not 0 <= self.size <= MAX_WINDOW:
            raise ValueError(f"{SIZE_KEY} must be from 0 (off) to {MAX_WINDOW}, got {self.size}")
        if not 1 <= self.window <= MAX_WINDOW:
            raise ValueError(f"{WINDOW_KEY} must be from 1 to {MAX_WINDOW}, got {self.window}")
        if self.window < self.size:
            # The reference accepts this and then never bans anything: a guard that is silently off.
            raise ValueError(f"{WINDOW_KEY} ({self.window}) must not be smaller than {SIZE_KEY} ({self.size})")
        if len(self.whitelist) > MAX_WHITELIST:
            raise ValueError(f"{WHITELIST_KEY} must hold at most {MAX_WHITELIST} token ids, got {len(self.whitelist)}")
        if any(not 0 <= token < 2**31 for token in self.whitelist):
            raise ValueError(f"{WHITELIST_KEY} must hold token ids, which are not negative and below 2**31")

    def extra_args(self) -> dict[str, Any]:
        """The keys that say this rule in SamplingParams.extra_args."""
        return {SIZE_KEY: self.size, WINDOW_KEY: self.window, WHITELIST_KEY: list(self.whitelist)}


PUBLISHED = NgramRule()


def read_rule(extra_args: Mapping[str, Any] | None, default: NgramRule = PUBLISHED) -> NgramRule:
    """Return the rule that a request's extra_args ask for; a key that is absent takes its value from `default`.

    Raises ValueError for a wrong type, a value out of range, and an unknown key that starts as ours do.
    """
    given = {key: value for key, value in (extra_args or {}).items() if key.startswith(PREFIX)}
    unknown = sorted(given.keys() - {SIZE_KEY, WINDOW_KEY, WHITELIST_KEY})
    if unknown:
        raise ValueError(f"unknown {', '.join(unknown)}; known are {SIZE_KEY}, {WINDOW_KEY} and {WHITELIST_KEY}")
    if not given:
        return default
    size = _integer(SIZE_KEY, given.get(SIZE_KEY, default.size))
    window = _integer(WINDOW_KEY, given.get(WINDOW_KEY, default.window))
    whitelist = given.get(WHITELIST_KEY, default.whitelist)
    if not isinstance(whitelist, (list, tuple, set, frozenset)):
        raise ValueError(f"{WHITELIST_KEY} must be a list of token ids, got {type(whitelist).__name__}")
    return NgramRule(size, window, tuple(_integer(WHITELIST_KEY, token) for token in whitelist))


def heed_rule(extra_args: Mapping[str, Any] | None, default: NgramRule = PUBLISHED) -> NgramRule:
    """Return what `read_rule` does, and `default`, with a line in the log, where that raises.

    For the engine core, which an exception ends with every request in it.
    """
    try:
        return read_rule(extra_args, default)
    except ValueError as error:
        logger.error("no_repeat_ngram_refused reason=%s", error)
        return default


def _integer(key: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{key} must be made of integers, got {type(value).__name__}")
    return value


_BLANK = -1  # in the history: before the first token, or a token not known yet; never equal to a newest token
_UNEQUAL = -2  # a newest token that is not known: equal to nothing in the history, blanks included
_REREAD = -2  # in place of a length: the row is read again from its list at the next step
_NEVER = np.iinfo(np.int32).max  # a streak no row reaches
_NO_TOKENS: list[int] = []  # the list of every row that is not followed
_NOTHING: Integers = np.empty(0, np.int64)
_FIRST_WIDTH = 64  # the published rule looks 61 tokens back


class NgramState:
    """The rule for all rows of a batch, brought up to date by one token a row a step.

    For each row and each lag (1 is the newest token, 2 the one before) it keeps the streak: how many of the newest
    tokens in succession equal the token `lag` places before them. An n-gram is about to be completed by the token
    that stands `lag` places before the next one exactly if the streak at that lag is at least n-1; the n-gram lies
    within the window exactly if lag <= window - (n-1), here the row's limit. A new token lengthens the streaks of the
    lags it agrees with and ends the others, one comparison of the whole batch.

    A row's token list is held by reference and read only in `banned`: by then vLLM has put the sampled ids where,
    with asynchronous scheduling, -1 stood. Any row that did not grow by exactly one known token (added
    with tokens, resumed, shortened, not scheduled) is read anew from its list, so the answer never depends on it.
    """

    def __init__(self, rows: int) -> None:
        self._tokens = [_NO_TOKENS] * rows
        self._lengths = np.zeros(rows, np.int64)
        self._need = np.full(rows, _NEVER, np.int32)
        self._limit = np.zeros(rows, np.int32)
        self._whitelist: NDArray[np.int32] = np.full((rows, len(PUBLISHED.whitelist)), _BLANK, np.int32)
        # History: tokens of a row end at column head - 1, so that one slice holds the newest of all rows; twice as
        # wide as the longest lag, it is shifted back only once in that many steps.
        # Streaks: the one of a lag stands in column width - lag, below the token it is about in that slice.
        self._width = _FIRST_WIDTH
        self._head = _FIRST_WIDTH
        self._history: NDArray[np.int32] = np.full((rows, 2 * _FIRST_WIDTH), _BLANK, np.int32)
        self._streaks: NDArray[np.int32] = np.zeros((rows, _FIRST_WIDTH), np.int32)

    def follow(self, row: int, rule: NgramRule, tokens: list[int]) -> None:
        """Keep the rule for a row from now on; `tokens` is the live list that the row's new tokens are added to."""
        self.forget(row)
        if rule.size == 0:
            return
        self._tokens[row] = tokens
        self._need[row] = rule.size - 1
        self._limit[row] = rule.window - rule.size + 1
        self._widen(int(self._limit[row]))
        missing = len(rule.whitelist) - self._whitelist.shape[1]
        if missing > 0:
            self._whitelist = np.pad(self._whitelist, ((0, 0), (0, missing)), constant_values=_BLANK)
        self._whitelist[row, : len(rule.whitelist)] = rule.whitelist

    def forget(self, row: int) -> None:
        """Keep no rule for a row any more."""
        self._tokens[row] = _NO_TOKENS
        self._lengths[row] = 0
        self._need[row] = _NEVER
        self._limit[row] = 0
        self._whitelist[row] = _BLANK
        self._history[row] = _BLANK
        self._streaks[row] = 0

    def move(self, source: int, target: int) -> None:
        """Move what is kept for one row to another, whose own is lost; nothing is kept for the first any more."""
        if source != target:
            self.swap(source, target)
            self.forget(source)

    def swap(self, first: int, second: int) -> None:
        """Exchange what is kept for two rows."""
        self._tokens[first], self._tokens[second] = self._tokens[second], self._tokens[first]
        for kept in (self._lengths, self._need, self._limit, self._whitelist, self._history, self._streaks):
            kept[[first, second]] = kept[[second, first]]

    @property
    def blind(self) -> bool:
        """Whether a row's newest token was not known when it was last read, so that its rule was not kept."""
        return bool((self._lengths == _REREAD).any())

    def banned(self) -> tuple[Integers, Integers]:
        """Read what the rows have generated since the last call; return (rows, tokens), the pairs now forbidden.

        A pair may come more than once.
        """
        width = int(self._limit.max(initial=0))
        if width == 0:
            return _NOTHING, _NOTHING
        end = int(np.flatnonzero(self._limit)[-1]) + 1
        followed = self._tokens[:end]
        lengths = np.fromiter(map(len, followed), np.int64, end)
        newest = np.fromiter([tokens[-1] if tokens else _BLANK for tokens in followed], np.int32, end)
        known = self._lengths[:end]
        idle = (lengths == 0) & (known == 0)
        stale = ((lengths != known + 1) | (newest < 0)) & ~idle
        known[:] = lengths
        self._append(newest, width)
        for row in np.flatnonzero(stale).tolist():
            self._reread(row)
        return self._forbidden(end, width)

    def _append(self, newest: NDArray[np.int32], width: int) -> None:
        """Add one token to each of the first rows, a negative one where there is none."""
        if self._head == self._history.shape[1]:
            self._history[:, : self._width] = self._history[:, -self._width :]
            self._head = self._width
        end, head = len(newest), self._head
        past = self._history[:end, head - width : head]
        same = past == np.where(newest < 0, _UNEQUAL, newest)[:, None]
        streaks = self._streaks[:end, self._width - width :]
        streaks += 1
        streaks *= same
        self._history[:end, head] = np.maximum(newest, _BLANK)
        self._head += 1

    def _reread(self, row: int) -> None:
        """Work out one row's history and streaks from its list; streaks are counted up to the one the rule needs."""
        need, limit = int(self._need[row]), int(self._limit[row])
        tail = np.array(self._tokens[row][-(limit + need) :], np.int32)
        if (tail < 0).any():
            self._lengths[row] = _REREAD
        past = np.maximum(tail, _BLANK)
        kept = min(len(tail), self._width)
        self._history[row, : self._head] = _BLANK
        self._history[row, self._head - kept : self._head] = past[len(past) - kept :]
        self._streaks[row] = 0
        compared = min(need, len(tail))
        if compared == 0:
            return
        newest_first = np.where(tail < 0, _UNEQUAL, tail)[::-1][:compared]
        earlier = np.concatenate([past[::-1], np.full(limit + compared, _BLANK, np.int32)])[1:]
        same = np.lib.stride_tricks.sliding_window_view(earlier, compared)[:limit] == newest_first
        streaks = np.where(same.all(axis=1), compared, same.argmin(axis=1))
        self._streaks[row, self._width - limit :] = streaks[::-1]

    def _forbidden(self, end: int, width: int) -> tuple[Integers, Integers]:
        reached = self._streaks[:end, self._width - width :] >= self._need[:end, None]
        if not reached.any():
            return _NOTHING, _NOTHING
        rows, columns = np.nonzero(reached)
        lags = width - columns
        tokens = self._history[rows, self._head - lags]
        kept = (tokens >= 0) & (lags <= self._limit[rows])
        kept &= ~(self._whitelist[rows] == tokens[:, None]).any(axis=1)
        return rows[kept], tokens[kept].astype(np.int64)

    def _widen(self, lag: int) -> None:
        """Make room for a lag longer than any before."""
        if lag <= self._width:
            return
        more = lag - self._width
        recent = self._history[:, self._head - self._width : self._head]
        self._history = np.pad(recent, ((0, 0), (more, lag)), constant_values=_BLANK)
        self._streaks = np.pad(self._streaks, ((0, 0), (more, 0)))
        self._width = self._head = lag
