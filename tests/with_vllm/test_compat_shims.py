"""The version branches of vllm_compat.py: found, taken out one by one, and missed by the releases they serve alone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools.compat.releases import RELEASES
from tools.compat.shims import ROOT, SHIMS, copy_without, find_shims, telling, without

SOURCE = (ROOT / SHIMS).read_text("utf-8")
SAMPLE = """\
def hook():
    return "new" if VLLM_VERSION >= (0, 15) else "old"
if VLLM_VERSION < (0, 11, 1):
    names["A"] = 1
def choices():
    return VLLM_VERSION >= (0, 12)
def mend():
    return "mended" if (0, 13) <= VLLM_VERSION < (0, 14) else "whole"
"""


def test_each_comparison_is_a_shim_named_by_what_it_decides() -> None:
    assert [(shim.name, shim.newest, shim.line) for shim in find_shims(SAMPLE)] == [
        ("hook-0.15", True, 2),
        ("A-0.11.1", False, 3),
        ("mend-0.14", False, 8),
    ]


def test_a_shim_serves_the_releases_before_the_one_it_names() -> None:
    hook, a, mend = find_shims(SAMPLE)
    assert [mend.serves(version) for version in ("0.12.0", "0.13.0", "0.13.2", "0.14.0")] == [False, True, True, False]
    assert [hook.serves(version) for version in ("0.14.1", "0.15.0", "0.15.1")] == [True, False, False]
    assert [a.serves(version) for version in ("0.11.0", "0.11.1", "0.11.2")] == [True, False, False]
    assert telling([hook, a], ["0.11.2", "0.16.0"]) == [hook]
    assert telling([hook, a], ["0.12.0"]) == [hook, a]


def test_taking_shims_out_leaves_what_the_newest_release_gets() -> None:
    hook, a, mend = find_shims(SAMPLE)
    assert without(SAMPLE, [mend]) == SAMPLE.replace("(0, 13) <= VLLM_VERSION < (0, 14)", "False")
    assert without(SAMPLE, [hook]) == SAMPLE.replace("VLLM_VERSION >= (0, 15)", "True")
    assert without(SAMPLE, [a]) == SAMPLE.replace("VLLM_VERSION < (0, 11, 1)", "False")
    assert without(SAMPLE, [a, hook]) == without(without(SAMPLE, [a]), [hook])
    assert without(SAMPLE, []) == SAMPLE


@pytest.mark.parametrize(
    "comparison", ["VLLM_VERSION == (0, 15)", "VLLM_VERSION > (0, 15)", "(0, 12) < VLLM_VERSION < (0, 15)"]
)
def test_a_comparison_that_cannot_be_taken_out_is_refused(comparison: str) -> None:
    with pytest.raises(ValueError, match="line 1: compare VLLM_VERSION by >= or <"):
        find_shims(f"new = {comparison}\n")


def test_the_releases_of_the_table_lie_on_both_sides_of_each_shim() -> None:
    """So that `make compat-shims` can show, for each, a release that needs it and one that does not."""
    shims = find_shims(SOURCE)
    versions = [release.version for release in RELEASES]
    assert len(shims) == len(set(shims)) == len({shim.name for shim in shims})
    assert telling(shims, versions) == shims
    assert len(shims) == len(re.findall(r"VLLM_VERSION (?:<|>=) ", without_choices(SOURCE)))


def without_choices(source: str) -> str:
    return re.sub(r"(?ms)^def choices\(.*?^(?=\S)", "", source)


def test_a_copy_differs_in_the_shim_alone(tmp_path: Path) -> None:
    shim = find_shims(SOURCE)[0]
    tree = copy_without([shim], tmp_path / "tree")
    compile(changed := (tree / SHIMS).read_text("utf-8"), "copy", "exec")
    assert sum(a != b for a, b in zip(changed.splitlines(), SOURCE.splitlines(), strict=True)) == 1
    contract = "tests/with_vllm/test_contract.py"
    assert (tree / contract).read_text("utf-8") == (ROOT / contract).read_text("utf-8")
    assert (tree / "models" / "tiny-reader" / "config.json").is_file()


@pytest.mark.slow
@pytest.mark.skipif(
    "COMPAT_SHIMS_ON" not in os.environ,
    reason="makes environments of two releases and takes ten minutes: COMPAT_SHIMS_ON='0.10.2 0.11.2' runs it",
)
def test_breaking_any_one_shim_turns_the_releases_it_serves_red_and_only_those() -> None:
    """On the releases in COMPAT_SHIMS_ON, of which shims serve some and not all."""
    versions = os.environ["COMPAT_SHIMS_ON"].split()
    told = [sys.executable, "-m", "tools.compat.shims", *versions]
    ended = subprocess.run(told, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    lines = ended.stdout.splitlines()
    shims = telling(find_shims(SOURCE), versions)
    served = [(version, shim.name) for version in versions for shim in shims if shim.serves(version)]
    assert served
    assert [line for line in lines if " green " in line] == [line for line in lines if not re.search(" red ", line)]
    reds = [match.groups() for line in lines if (match := re.match(r"(\S+): red without (\S+):", line))]
    assert reds == served
