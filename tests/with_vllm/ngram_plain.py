"""The no-repeat n-gram rule as one would write it down, and batches of requests that come, go and grow."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from types import SimpleNamespace

from app.vllm_models.ngram_state import NgramRule

VOCABULARY = 8
OFF = NgramRule(size=0)


def plain_rule(tokens: list[int], rule: NgramRule) -> set[int]:
    """The rule as one would write it down, over all tokens at every step."""
    if rule.size == 0:
        return set()
    prefix = tokens[len(tokens) - rule.size + 1 :]
    banned = set()
    for start in range(max(0, len(tokens) - rule.window), len(tokens) - rule.size + 1):
        if tokens[start : start + rule.size - 1] == prefix:
            banned.add(tokens[start + rule.size - 1])
    return banned - set(rule.whitelist)


@dataclass
class Request:
    rule: NgramRule
    tokens: list[int] = field(default_factory=list)


class Batch:
    """Requests come, go and change rows as in vLLM's persistent batch: gaps are filled by newcomers, then from the end."""

    def __init__(self) -> None:
        self.rows: list[Request] = []

    def change(self, leaving: set[int], joining: list[Request], swaps: list[tuple[int, int]]) -> SimpleNamespace:
        """Change the batch; return the removals, additions and moves (source, target, both ways) that describe it."""
        gaps = sorted(leaving)
        kept: dict[int, Request] = {row: request for row, request in enumerate(self.rows) if row not in leaving}
        added, moved = [], []
        for request in joining:
            row = gaps.pop(0) if gaps else len(kept)
            kept[row] = request
            added.append((row, request))
        while gaps and kept and gaps[0] < max(kept):
            source, target = max(kept), gaps.pop(0)
            kept[target] = kept.pop(source)
            moved.append((source, target, False))
        self.rows = [kept[row] for row in sorted(kept)]
        for first, second in swaps:
            if max(first, second) < len(self.rows) and first != second:
                self.rows[first], self.rows[second] = self.rows[second], self.rows[first]
                moved.append((first, second, True))
        return SimpleNamespace(removed=gaps, added=added, moved=moved)


def random_changes(random: Random, batch: Batch, offered: list[NgramRule]) -> SimpleNamespace:
    """Let some requests leave, some join (a few with tokens they generated before) and some change rows."""
    leaving = {row for row in range(len(batch.rows)) if random.random() < 0.05}
    joining = []
    while len(batch.rows) - len(leaving) + len(joining) < 6 and random.random() < 0.3:
        before = [random.randrange(2) for _ in range(random.choice([0, 0, 1, 5, 30]))]
        joining.append(Request(random.choice(offered), before))
    swaps = [(random.randrange(6), random.randrange(6)) for _ in range(2) if random.random() < 0.1]
    return batch.change(leaving, joining, swaps)


def grow(random: Random, tokens: list[int], alphabet: int) -> None:
    """Mostly add one token; now and then none, several, or take some away."""
    chance = random.random()
    if chance < 0.06:
        return
    if chance < 0.09:
        tokens.extend(random.randrange(alphabet) for _ in range(random.randrange(2, 5)))
    elif chance < 0.12:
        del tokens[-random.randrange(1, 4) :]
    elif chance < 0.13:
        tokens.clear()
    else:
        tokens.append(random.randrange(alphabet))
