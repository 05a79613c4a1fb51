"""The results: a JSON file that runs add to, and the page written from it alone.

Results of runs elsewhere are put together by `python -m tools.compat.record FOLDER FILE...`.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from tools.compat.contracts import CONTRACTS, FAILED, NOT_RUN, PASSED, TESTS
from tools.compat.environment import ROOT
from tools.compat.releases import numbers

FOLDER = ROOT / "docs"
# What failures begin with that the check of a wheel's sources found.
SOURCES = "sources: "
RESULTS, PAGE = "vllm-compatibility-matrix.json", "vllm-compatibility-matrix.md"

_MARKS = {PASSED: "yes", FAILED: "**no**", NOT_RUN: "-"}
_SHARED = ("transformers", "fastapi", "pydantic", "pillow", "numpy")

Result = dict[str, Any]


def source_hash() -> str:
    """Return a hash of what decides a result: the model, the shims, the engine and the contract tests."""
    app = ROOT / "backend" / "app"
    files = [*app.glob("vllm_models/*.py"), app / "vllm_compat.py", *app.glob("engine/vllm_*.py"), ROOT / TESTS]
    total = hashlib.sha256()
    for file in sorted(files):
        total.update(f"{file.relative_to(ROOT).as_posix()}\n".encode() + hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()[:16]


def read_results(folder: Path) -> dict[str, Result]:
    """Return the results recorded in a folder by release."""
    path = folder / RESULTS
    results: dict[str, Result] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return results


def write_results(folder: Path, added: dict[str, Result]) -> None:
    """Add results, or replace them, and write the page anew."""
    results = read_results(folder) | added
    ordered = {name: results[name] for name in sorted(results, key=_order, reverse=True)}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RESULTS).write_text(json.dumps(ordered, indent=2) + "\n", "utf-8")
    (folder / PAGE).write_text(render(ordered), "utf-8")


def _order(name: str) -> tuple[tuple[int, ...], bool]:
    """Rows of a GPU, "0.26.0 cuda", come before the same release's on the CPU."""
    version, _, device = name.partition(" ")
    return numbers(version), bool(device)


def is_green(result: Result) -> bool:
    passed = set(result["contracts"].values()) == {PASSED} and set(result["contracts"]) == set(CONTRACTS)
    return passed and not result["failures"]


def render(results: dict[str, Result]) -> str:
    """Return the page: what happened, and what each column means."""
    lines = [
        "# vLLM releases that were run",
        "",
        "Written by `make compat` from [vllm-compatibility-matrix.json](vllm-compatibility-matrix.json); do not edit.",
        f"Each release was installed as its CPU build and ran `{TESTS}` with the",
        "[tiny reader](../models/tiny-reader/README.md). `make compat VLLM=0.16.0` runs one of them.",
        "Rows with the name of a GPU are of the release's own build for CUDA, run there by `python -m tools.compat.here`.",
        *(_explain(version, result) for version, result in results.items() if "libraries" in result),
        "",
        _row(["vLLM", "PyTorch", *CONTRACTS, "Seconds", "Sources"]),
        _row(["---"] * (len(CONTRACTS) + 4)),
    ]
    for version, result in results.items():
        marks = [_MARKS[result["contracts"].get(name, NOT_RUN)] for name in CONTRACTS]
        shown = _name(version, result) + (" \\*" if "libraries" in result else "")
        lines.append(_row([shown, result["torch"], *marks, str(result["seconds"]["contracts"]), result["sources"]]))
    lines += ["", "yes: passed. **no**: failed. -: not run, because something before it failed.", ""]
    lines += ["| Contract | Holds when |", "| --- | --- |"]
    lines += [_row([name, meaning]) for name, meaning in CONTRACTS.items()]
    lines += ["", "Seconds are those of the contracts, the engine's start among them, without the installation."]
    lines += [
        "Sources is a hash of the model, the shims, the engine and the contract tests that ran: where it differs, a row was"
    ]
    lines += ["run before a change, and `make compat` runs it again.", ""]
    lines += ["With these packages, as each release's own requirements choose them beside the service's:", ""]
    lines += [_row(["vLLM", *_SHARED]), _row(["---"] * (len(_SHARED) + 1))]
    lines += [
        _row([_name(version, result), *(result["packages"].get(name, "-") for name in _SHARED)])
        for version, result in results.items()
    ]
    if failed := {version: result["failures"] for version, result in results.items() if result["failures"]}:
        lines += ["", "What failed:", ""]
        lines += [f"- {version}: `{failures[0].replace('`', '')}`" for version, failures in failed.items()]
    return "\n".join(lines) + "\n"


def _name(name: str, result: Result) -> str:
    return f"{name.partition(' ')[0]}, {result['device']}" if "device" in result else name


def _explain(version: str, result: Result) -> str:
    faults = sum(failure.startswith(SOURCES) for failure in result["failures"])
    return (
        f"\\* vLLM {version} has no CPU build: the Python of its wheel for CUDA ran with the compiled libraries of "
        f"{result['libraries']}'s CPU build.\nFor what only a GPU runs, `python -m tools.compat.source {version}` looked at "
        f"{result['source_checks']} names, calls and methods in that wheel's sources, and found {faults or 'nothing'} wrong."
    )


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    for name in sys.argv[2:]:
        write_results(Path(sys.argv[1]), json.loads(Path(name).read_text("utf-8")))
