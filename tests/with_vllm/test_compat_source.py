"""The check of a release by its sources: on the vLLM that is installed, and on changes of it that must be noticed."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

from app.engine.vllm_loading import vllm_version
from tools.compat.reading import read
from tools.compat.source import check
from tools.compat.sources import Sources

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

VERSION = tuple(int(part) for part in (vllm_version() or "0.32.0").partition("+")[0].split("."))
REFUSAL = "vllm.exceptions has no VLLMValidationError"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of the installed vLLM, each file a link."""
    found = importlib.util.find_spec("vllm")
    if found is None or found.origin is None:
        pytest.skip("vLLM is not installed")
    folder = tmp_path_factory.mktemp("sources")
    source = Path(found.origin).parent
    for file in source.rglob("*.py"):
        target = folder / "vllm" / file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(file)
    return folder


# Files of vLLM, what is replaced in them by what, and the fault that must be found.
CHANGES = [
    ("vllm/exceptions.py", "class VLLMValidationError", "class Refused", REFUSAL),
    ("vllm/v1/engine/async_llm.py", "def shutdown(self, timeout", "def shutdown(self, patience", "AsyncLLMEngine.shutdown takes no timeout"),
    ("vllm/v1/sample/logits_processor/interface.py", "    moved:", "    swapped:", "BatchUpdate has no moved"),
    ("vllm/engine/arg_utils.py", "    logits_processors:", "    processors:", "AsyncEngineArgs has no logits_processors"),
    ("vllm/sampling_params.py", "    extra_args:", "    other_args:", "SamplingParams takes no extra_args"),
    ("vllm/envs.py", "VLLM_USE_V2_MODEL_RUNNER", "VLLM_USE_NEW_RUNNER", "vllm.envs has no VLLM_USE_V2_MODEL_RUNNER"),
    (
        "vllm/v1/sample/logits_processor/interface.py", "def update_state(", "def follow_batch(",
        "NoRepeatNgram does not write follow_batch, which is abstract",
    ),
    (
        "vllm/v1/worker/gpu_worker.py", "self.use_v2_model_runner = ", "self.use_v2_model_runner = True or ",
        "not seen that the worker keeps to that choice",
    ),
]  # fmt: skip


def test_the_installed_release_passes(installed: Path) -> None:
    findings = check(Sources(installed), VERSION)
    assert findings.faults == []
    assert findings.checked > 100


def test_each_change_of_what_is_used_is_noticed(installed: Path, tmp_path: Path) -> None:
    """All of them in one release, since reading one takes seconds."""
    shutil.copytree(installed, tmp_path / "changed", symlinks=True)
    for file, old, new, _ in CHANGES:
        path = tmp_path / "changed" / file
        text = path.read_text("utf-8")
        assert old in text
        path.unlink()
        path.write_text(text.replace(old, new), "utf-8")
    faults = check(Sources(tmp_path / "changed"), VERSION).faults
    assert [fault for *_, fault in CHANGES if fault not in faults] == []


def test_what_an_older_release_gets_does_not_fit_the_installed_one(installed: Path) -> None:
    """The picture hook of 0.28 and before, for one, is not there any more."""
    faults = check(Sources(installed), (0, 15, 1)).faults
    assert any("_call_hf_processor" in fault or "_PicturesAndPrompt" in fault for fault in faults), faults


def test_a_name_for_type_checkers_alone_is_not_there(tmp_path: Path) -> None:
    """One that the module makes when it is asked for is."""
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from os import Typed, Lazy\nif 1:\n    here = 1\n"
    (tmp_path / "typed.py").write_text(text)
    (tmp_path / "lazy.py").write_text(f"{text}def __getattr__(name):\n    return {{'Lazy': 1}}[name]\n")
    sources = Sources(tmp_path)
    assert [sources.has("typed", name) for name in ("Typed", "Lazy", "here", "nowhere")] == [False, False, True, False]
    assert [sources.has("lazy", name) for name in ("Typed", "Lazy", "here", "nowhere")] == [False, True, True, False]


def test_a_release_is_read_with_the_branches_it_takes_and_no_others() -> None:
    old, new = read((0, 13, 0)), read((0, 33, 0))
    assert {"_FieldWiseModel", "_PicturesAndPrompt"} & set(old.classes) == {"_PicturesAndPrompt"}
    assert {"_PicturesAndPrompt", "_PicturesPromptAndParser"} <= set(old.classes)
    assert {"_PicturesAndPrompt", "_MergingModel"} & set(new.classes) == set()
    assert old.imports["vllm_compat.py"]["BaseDummyInputsBuilder"] == (
        "vllm.multimodal.profiling",
        "BaseDummyInputsBuilder",
    )
    assert new.imports["vllm_compat.py"]["BaseDummyInputsBuilder"] == (
        "vllm.multimodal.processing",
        "BaseDummyInputsBuilder",
    )
    assert new.imports["processing.py"]["BaseProcessingInfo"] == ("vllm.multimodal.processing", "BaseProcessingInfo")
