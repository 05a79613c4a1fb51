"""`deepseek-ocr doctor`: what would run, for people and for programs, with and without vLLM."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.doctor import Choice, Report, render
from app.engine.hardware import Gpu
from app.engine.vllm_loading import vllm_version

BACKEND = Path(__file__).parents[1] / "backend"
NO_VLLM = pytest.mark.skipif(vllm_version() is not None, reason="vLLM is installed")


def doctor(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, away from the project's .env."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/tmp"),
        "PYTHONPATH": str(BACKEND),
        "CUDA_VISIBLE_DEVICES": "",
        **settings,
    }
    command = [sys.executable, "-m", "app", "doctor", *arguments]
    return subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, timeout=120)


@NO_VLLM
def test_without_vllm_it_says_that_rapidocr_would_run():
    """And imports neither vLLM nor PyTorch, which are not there."""
    ended = doctor("--json", INFERENCE_ENGINE="auto")
    found = json.loads(ended.stdout)
    assert (ended.returncode, found["engine"], found["vllm"], found["problems"]) == (0, "rapidocr", None, [])
    assert found["would_run"] is True
    assert found["choices"] == [{"what": "engine rapidocr", "why": "vLLM is not installed"}]


@NO_VLLM
def test_without_vllm_the_vllm_engine_would_not_run():
    """The exit code is not zero, and the cause is said."""
    ended = doctor(INFERENCE_ENGINE="vllm_direct")
    assert ended.returncode == 1
    assert (
        "problem           vLLM is not installed here. Install vllm, or set INFERENCE_ENGINE=rapidocr.\n"
        in ended.stdout
    )
    assert ended.stdout.endswith("verdict           vllm_direct would not run\n")


def test_the_report_for_people_names_every_fact():
    """One fact a line, the verdict last."""
    report = Report(
        service="1.0", python="3.12.1", asked_for="auto", engine="vllm_direct", vllm="0.26.0", torch="2.11.0",
        cuda="13.0", driver="570.86", device="cuda", memory_gib=60.5, model="deepseek-ai/DeepSeek-OCR",
        gpus=[Gpu("NVIDIA H200", 140 * 2**30, 139 * 2**30, "570.86", "9.0")], ships_own_class=True,
        choices=[Choice("model runner V1", "it can load the rule")],
    )  # fmt: skip
    assert render(report) == (
        "service           1.0, Python 3.12.1\n"
        "engine            vllm_direct (INFERENCE_ENGINE=auto)\n"
        "vLLM              0.26.0\n"
        "PyTorch           2.11.0\n"
        "CUDA              13.0\n"
        "driver            570.86\n"
        "GPU 0             NVIDIA H200, 139.0 GiB free of 140.0, compute capability 9.0\n"
        "memory            60.5 GiB available\n"
        "vLLM runs on      cuda\n"
        "vLLM's own class  this release has a DeepSeek-OCR class of its own, which is not used\n"
        "model             deepseek-ai/DeepSeek-OCR: not on this machine\n"
        "choice            model runner V1: it can load the rule\n"
        "verdict           vllm_direct would run\n"
    )


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.skipif(vllm_version() is None, reason="vLLM is not installed")
def test_with_vllm_it_names_the_choices_and_what_the_model_folder_lacks(tmp_path: Path):
    """The real vLLM is imported, and nothing is started."""
    (tmp_path / "config.json").write_text("{}")
    ended = doctor("--json", INFERENCE_ENGINE="vllm_direct", MODEL_PATH=str(tmp_path), ENGINE_ARGS='{"no_such": 1}')
    found = json.loads(ended.stdout)
    assert (ended.returncode, found["would_run"], found["vllm"]) == (1, False, vllm_version())
    assert found["ships_own_class"] is True
    assert [choice["what"] for choice in found["choices"]][-1] == "model runner V1"
    assert "This release of vLLM has no engine argument no_such. Correct ENGINE_ARGS." in found["problems"]
    assert (
        f"The model folder {tmp_path} is incomplete: tokenizer.json is missing; no *.safetensors weights are there. "
        "Download the model again."
    ) in found["problems"]


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.skipif(vllm_version() is None, reason="vLLM is not installed")
def test_with_vllm_it_names_a_variable_that_would_drop_the_no_repeat_rule():
    """In the sentence that the service would start with."""
    ended = doctor("--json", INFERENCE_ENGINE="vllm_direct", VLLM_USE_V2_MODEL_RUNNER="1")
    found = json.loads(ended.stdout)
    assert (ended.returncode, found["would_run"]) == (1, False)
    (problem,) = [problem for problem in found["problems"] if "VLLM_USE_V2_MODEL_RUNNER" in problem]
    assert problem.endswith(
        "with VLLM_USE_V2_MODEL_RUNNER=1 would drop the no-repeat n-gram rule; unset it: the rule works on releases "
        "from 0.10.2 to 0.33 in engine V1 with model runner V1, and with model runner V2 on NVIDIA GPUs with 0.26 and 0.33."
    )


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.skipif(vllm_version() is None, reason="vLLM is not installed")
def test_with_vllm_it_says_where_a_model_that_is_not_here_would_come_from(tmp_path: Path):
    """Or that it may not be downloaded."""
    told = {"INFERENCE_ENGINE": "vllm_direct", "MODEL_PATH": "somebody/no-such-model", "HF_HOME": str(tmp_path)}
    found = json.loads(doctor("--json", **told).stdout)
    assert (found["would_run"], found["choices"][-1]) == (
        True,
        {
            "what": "download",
            "why": "somebody/no-such-model is no folder, and the cache has no whole copy; the first start downloads it from the "
            "Hugging Face hub",
        },
    )
    offline = doctor("--json", **told, HF_HUB_OFFLINE="1")
    assert (offline.returncode, json.loads(offline.stdout)["problems"]) == (
        1,
        [
            "The model somebody/no-such-model is not on this machine, and HF_HUB_OFFLINE forbids its download. Unset "
            "HF_HUB_OFFLINE, or set MODEL_PATH to a folder that holds the model."
        ],
    )
