"""docs/vllm-version-compatibility.md and its Chinese twin list the problems that `deepseek-ocr doctor` prints, word for word."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
APP = ROOT / "backend" / "app"
DOCS = (ROOT / "docs" / "vllm-version-compatibility.md", ROOT / "docs" / "vllm-version-compatibility.zh-CN.md")
# Where doctor's sentences are made; of some files by these functions alone, the others being for the start.
SOURCES = {
    "doctor.py": None,
    "vllm_compat.py": None,
    "engine/vllm_memory.py": None,
    "engine/vllm_options.py": None,
    "engine/model_folder.py": {"check_hub_name", "check_download", "check_folder", "_modelscope"},
    "engine/vllm_loading.py": {"check_plugin", "check_device"},
}
FAULTS = {"EngineStartError", "UnsupportedVllm"}


def printed() -> list[list[str]]:
    """Return each sentence as its fixed pieces; between two of them stands a value."""
    found = []
    for name, functions in SOURCES.items():
        tree = ast.parse((APP / name).read_text("utf-8"))
        parts = [
            node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name in (functions or ())
        ]
        for part in parts or [tree]:
            found += [pieces for call in ast.walk(part) if isinstance(call, ast.Call) for pieces in sentence(call)]
    return found


def sentence(call: ast.Call) -> Iterator[list[str]]:
    told = isinstance(call.func, ast.Name) and call.func.id in FAULTS
    added = isinstance(call.func, ast.Attribute) and ast.unparse(call.func) == "report.problems.append"
    if not (told or added):
        return
    match call.args[0]:
        case ast.Constant(value=str(text)):
            yield [text]
        case ast.JoinedStr(values=values):
            text = "".join(str(one.value) if isinstance(one, ast.Constant) else "\0" for one in values)
            yield re.split("\0+", text)


def listed(page: Path) -> list[str]:
    """Return the first column of the page's table of problems."""
    text = page.read_text("utf-8")
    table = text[text.index("`problem`") :].partition("\n\n")[0]
    return re.findall(r"^\| `(.+?)` \|", table, re.MULTILINE)


def fits(pieces: list[str], line: str) -> bool:
    return re.fullmatch(".+".join(map(re.escape, pieces)), line) is not None


def test_there_are_sentences_to_compare() -> None:
    """Among them one without values and one with several."""
    pieces = printed()
    assert ["vLLM is not installed here. Install vllm, or set INFERENCE_ENGINE=rapidocr."] in pieces
    assert ["MODEL_PATH is ", ", and there is no such folder. Set it to the model's folder."] in pieces
    assert len(pieces) > 20


@pytest.mark.parametrize("page", DOCS, ids=["english", "chinese"])
def test_each_line_of_the_page_is_one_that_doctor_prints(page: Path) -> None:
    assert [line for line in listed(page) if not any(fits(pieces, line) for pieces in printed())] == []


@pytest.mark.parametrize("page", DOCS, ids=["english", "chinese"])
def test_each_sentence_of_doctor_s_is_on_the_page(page: Path) -> None:
    lines = listed(page)
    assert [pieces for pieces in printed() if not any(fits(pieces, line) for line in lines)] == []


def test_both_pages_list_the_same_problems_in_the_same_order() -> None:
    english, chinese = map(listed, DOCS)
    assert english == chinese


def test_the_range_on_the_page_is_the_one_that_is_refused_outside_of() -> None:
    source = (APP / "vllm_compat.py").read_text("utf-8")
    oldest, newest = ast.literal_eval(re.search(r"^OLDEST, NEWEST = (.+)$", source, re.MULTILINE)[1])
    patch = int(re.search(r"^OLDEST_PATCH = (\d+)$", source, re.MULTILINE)[1])
    (adapter,) = re.findall(r"^ADAPTERS = \{\((\d+, \d+, \d+)\)", source, re.MULTILINE)
    supported = f"{oldest[0]}.{oldest[1]}.{patch} to {newest[0]}.{newest[1]}, or {adapter.replace(', ', '.')}"
    assert f"vLLM X is not supported; install a release from {supported}." in listed(DOCS[0])
