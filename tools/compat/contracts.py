"""The contracts: what has to hold on every release, and which tests show it.

The first word of a test's name in tests/with_vllm/test_contract.py is the contract it belongs to.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path

TESTS = "tests/with_vllm/test_contract.py"

CONTRACTS = {
    "registration": "vLLM's own processes find the model class",
    "weights": "the language model computes what plain PyTorch does with the same checkpoint",
    "pixel": "pixel values reach the encoder unchanged, from a picture, an array or prepared views",
    "placeholders": "each of the five resolutions takes its published number of image tokens",
    "text": "the text read is the text on the page, in the two resolutions that the tiny reader was trained for",
    "ngram": "the no-repeat n-gram rule is active, with the values of each request",
    "streaming": "a stream gives the same text piece by piece",
    "abort": "a client that goes away ends its generation",
    "refusal": "bad values are refused and cost no other request",
    "service": "the service answers over HTTP with the FastAPI, Pydantic and Pillow of that environment",
    "death": "a dead engine core is noticed, waiting requests get their answer, and its successor starts and stops in order",
}

PASSED, FAILED, NOT_RUN = "passed", "failed", "not run"


@dataclass
class Outcome:
    """What happened to each contract, and the first line of each failure."""

    contracts: dict[str, str] = field(default_factory=lambda: dict.fromkeys(CONTRACTS, NOT_RUN))
    failures: list[str] = field(default_factory=list)

    @property
    def green(self) -> bool:
        return set(self.contracts.values()) == {PASSED} and not self.failures


def read_outcome(report: Path) -> Outcome:
    """Read pytest's JUnit report; raises ValueError for a test that belongs to no contract.

    A contract has passed when all its tests have; a test that was skipped has not.
    """
    outcome = Outcome()
    if not report.exists():
        return outcome
    for case in ElementTree.parse(report).iter("testcase"):  # noqa: S314 - our own file
        name = case.get("name", "")
        found = re.match(r"test_([a-z]+)_", name)
        fault = next((case.find(kind) for kind in ("failure", "error", "skipped") if case.find(kind) is not None), None)
        if found is None or found[1] not in CONTRACTS:
            if fault is None:
                raise ValueError(f"{name} in {TESTS} belongs to no contract; see {Path(__file__).name}.")
            outcome.failures.append(f"{name or 'collection'}: {_first_line(fault)}")
        elif fault is not None:
            outcome.contracts[found[1]] = FAILED
            outcome.failures.append(f"{name}: {_first_line(fault)}")
        elif outcome.contracts[found[1]] == NOT_RUN:
            outcome.contracts[found[1]] = PASSED
    return outcome


def _first_line(fault: ElementTree.Element) -> str:
    text = fault.get("message") or fault.text or ""
    return next((line.strip() for line in text.splitlines() if line.strip()), "no reason given")[:300]
