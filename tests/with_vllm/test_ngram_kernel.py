"""The rule's kernel beside the rule as one would write it down, on a GPU or in Triton's interpreter."""

from __future__ import annotations

import os
from random import Random

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("triton", reason="Triton is not installed: PyTorch brings it for GPUs only")

import torch

from app.vllm_models.ngram_kernel import ban, describe
from app.vllm_models.ngram_state import MAX_WHITELIST, PUBLISHED, NgramRule
from tests.with_vllm.ngram_plain import OFF, plain_rule

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
VOCABULARY, POSITIONS = 8, 1500
pytestmark = [
    pytest.mark.filterwarnings("default"),  # the interpreter's own affairs
    pytest.mark.skipif(
        DEVICE == "cpu" and os.environ.get("TRITON_INTERPRET") != "1", reason="needs a GPU, or TRITON_INTERPRET=1"
    ),
]


def banned(requests: list[tuple[list[int], list[int], NgramRule]], rows: list[int]) -> list[set[int]]:
    """Return what is forbidden after each of `rows`, of requests with a prompt, what was generated, and a rule."""
    tokens = torch.full((len(requests), POSITIONS), 7, dtype=torch.int32)  # left by requests of before
    for slot, (prompt, generated, _) in enumerate(requests):
        tokens[slot, : len(prompt) + len(generated)] = torch.tensor(prompt + generated)
    logits = torch.zeros(len(rows), VOCABULARY, dtype=torch.bfloat16, device=DEVICE)
    slots, lengths = (
        torch.tensor(numbers, dtype=torch.int32, device=DEVICE)
        for numbers in (rows, [len(prompt) + len(more) for prompt, more, _ in requests])
    )
    rules = torch.stack([torch.from_numpy(describe(rule, len(prompt))) for prompt, _, rule in requests]).to(DEVICE)
    ban(logits, slots, tokens.to(DEVICE), lengths, rules)
    assert torch.all((logits == 0) | (logits == -torch.inf))
    return [set(row.nonzero().flatten().tolist()) for row in logits.cpu()]


@pytest.mark.parametrize("seed", range(20))
def test_it_forbids_what_the_rule_forbids(seed: int) -> None:
    random = Random(seed)
    requests = []
    for _ in range(8):
        size = random.choice([1, 2, 3, 5, 20])
        window = random.choice([one for one in (1, 3, 20, 64, 65, 84, 90, 200, 1024) if one >= size])
        passed = random.sample(range(4), random.choice([0, 0, 1, 2]))
        alphabet = range(random.choice([1, 2, 3]))
        prompt, generated = ([random.choice(alphabet) for _ in range(count)] for count in (5, random.randrange(400)))
        requests.append((prompt, generated, random.choice([NgramRule(size, window, tuple(passed)), OFF])))
    rows = random.sample(range(8), 6)
    assert banned(requests, rows) == [plain_rule(*requests[row][1:]) for row in rows]


def test_it_forbids_within_the_window_and_not_beyond() -> None:
    unit, prefix = [*[0, 1, 2] * 9, 0, 1, 3], [*[0, 1, 2] * 9, 0, 1]
    assert len(unit) == PUBLISHED.size
    between = PUBLISHED.window - len(unit) - len(prefix)
    near, far = ([*unit, *[4] * count, *prefix] for count in (between, between + 1))
    assert banned([([5], near, PUBLISHED), ([5], far, PUBLISHED)], [0, 1]) == [{3}, set()]
    assert banned([([5, *unit], prefix, PUBLISHED), ([5], prefix, PUBLISHED)], [0, 1]) == [set(), set()]


def test_a_whitelist_of_any_length_passes() -> None:
    everything = NgramRule(1, 90, tuple(range(MAX_WHITELIST)))
    assert banned([([], [1, 2, 3], everything), ([], [1, 2, 3], NgramRule(1, 90, ()))], [1, 0]) == [{1, 2, 3}, set()]
