"""What `make compat` records: results of several runs in one table, newest first."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tools.compat.contracts import CONTRACTS, FAILED, PASSED
from tools.compat.environment import ROOT
from tools.compat.record import FOLDER, PAGE, is_green, read_results, render, write_results
from tools.compat.releases import RELEASES


def result(status: str = PASSED, **changes: Any) -> dict[str, Any]:
    return {
        "torch": "2.10.0",
        "contracts": dict.fromkeys(CONTRACTS, status),
        "failures": [],
        "packages": {"torch": "2.10.0", "fastapi": "0.136.3"},
        "seconds": {"environment": 4, "contracts": 81},
        "sources": "0123456789abcdef",
        **changes,
    }


def test_results_of_runs_elsewhere_are_put_together_newest_first(tmp_path: Path) -> None:
    write_results(tmp_path / "table", {"0.16.0": result(FAILED, failures=["test_text_read: no text"])})
    for version in ("0.9.2", "0.16.0", "0.32.0"):
        write_results(tmp_path / version, {version: result()})
    files = [str(tmp_path / version / "vllm-compatibility-matrix.json") for version in ("0.9.2", "0.32.0", "0.16.0")]
    told = [sys.executable, "-m", "tools.compat.record", str(tmp_path / "table"), *files]
    subprocess.run(told, cwd=ROOT, check=True)
    results = read_results(tmp_path / "table")
    assert list(results) == ["0.32.0", "0.16.0", "0.9.2"]
    assert all(is_green(found) for found in results.values())
    page = (tmp_path / "table" / "vllm-compatibility-matrix.md").read_text("utf-8")
    row = " | ".join(["yes"] * len(CONTRACTS))
    assert f"\n| 0.16.0 | 2.10.0 | {row} | 81 | 0123456789abcdef |\n" in page
    assert "**no** |" not in page


def test_a_contract_that_failed_or_is_missing_is_not_green() -> None:
    assert is_green(result())
    assert not is_green(result(FAILED))
    assert not is_green(result(contracts={"text": PASSED}))
    assert not is_green(result(failures=["sources: vllm.config has no VllmConfig"]))


def test_a_release_with_another_s_libraries_is_marked_and_explained(tmp_path: Path) -> None:
    write_results(tmp_path, {"0.33.0": result(libraries="0.32.0", source_checks=108), "0.32.0": result()})
    page = (tmp_path / "vllm-compatibility-matrix.md").read_text("utf-8")
    assert "\n| 0.33.0 \\* | 2.10.0 | yes |" in page
    assert "\n| 0.32.0 | 2.10.0 | yes |" in page
    assert (
        "\n\\* vLLM 0.33.0 has no CPU build: the Python of its wheel for CUDA ran with the compiled libraries of 0.32.0's CPU "
        "build.\nFor what only a GPU runs, `python -m tools.compat.source 0.33.0` looked at 108 names, calls and methods in that "
        "wheel's sources, and found nothing wrong.\n"
    ) in page


def test_a_run_on_a_gpu_is_a_row_of_its_own_before_the_same_release_on_the_cpu(tmp_path: Path) -> None:
    write_results(tmp_path, {"0.26.0": result(), "0.26.0 cuda": result(device="NVIDIA H200"), "0.25.1": result()})
    assert list(read_results(tmp_path)) == ["0.26.0 cuda", "0.26.0", "0.25.1"]
    page = (tmp_path / "vllm-compatibility-matrix.md").read_text("utf-8")
    assert page.count("\n| 0.26.0, NVIDIA H200 | ") == 2
    assert page.count("\n| 0.26.0 | ") == 2


def test_the_page_in_the_repository_is_what_its_results_say() -> None:
    """Of releases in the table of releases, each with every contract fulfilled."""
    results = read_results(FOLDER)
    assert (FOLDER / PAGE).read_text("utf-8") == render(results)
    assert {name.removesuffix(" cuda") for name in results} <= {release.version for release in RELEASES}
    assert [version for version, found in results.items() if not is_green(found)] == []


def test_the_releases_are_listed_for_a_matrix_of_jobs() -> None:
    told = [sys.executable, "-m", "tools.compat", "--list"]
    listed = subprocess.run(told, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert json.loads(listed) == [release.version for release in RELEASES]
