"""What the vLLM engine is told, and what it says before vLLM is even loaded. Nothing here needs vLLM."""

from __future__ import annotations

import asyncio
import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from app.engine.base import EngineState
from app.engine.hardware import Gpu, cuda_device_present, parse_gpus
from app.engine.model_folder import check_folder, find_model, folder_faults
from app.engine.vllm_direct import VllmDirectEngine
from app.engine.vllm_loading import vllm_version
from app.engine.vllm_memory import GIB, Need, check_cpu_memory, check_gpu_memory, estimate_need
from app.engine.vllm_options import VllmOptions, engine_arguments, runner_arguments, sampling, several_steps
from app.engines import choose_engine, vllm_options
from app.errors import EngineNotReady, EngineStartError
from app.ocr.modes import MODES
from app.vllm_models.ngram_state import NgramRule
from tests.serving import make_settings, serving, upload

LANGUAGE = {"hidden_size": 1280, "num_attention_heads": 10, "num_key_value_heads": 10, "num_hidden_layers": 12}


def write_model(folder: Path, **config: Any) -> Path:
    """A model folder that is complete on the outside: a header for every file of weights."""
    folder.mkdir()
    named = {"architectures": ["DeepseekOCRForCausalLM"], "language_config": LANGUAGE, **config}
    (folder / "config.json").write_text(json.dumps(named))
    (folder / "tokenizer.json").write_text("{}")
    header = json.dumps({"w": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}).encode()
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for shard in shards:
        (folder / shard).write_bytes(struct.pack("<Q", len(header)) + header + b"data")
    index = {"weight_map": {"a": shards[0], "b": shards[1]}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def sentence_of(action: Any, *arguments: Any, **named: Any) -> str:
    with pytest.raises(EngineStartError) as caught:
        action(*arguments, **named)
    return caught.value.detail


# The model's folder


def test_a_complete_folder_has_no_faults(tmp_path: Path):
    """And it is what find_model gives back."""
    folder = write_model(tmp_path / "model")
    assert folder_faults(folder) == []
    assert find_model(str(folder)) == folder


@pytest.mark.parametrize(
    ("break_it", "fault"),
    [
        (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
        (lambda folder: (folder / "config.json").write_text("<html>"), "config.json is not JSON"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json is missing"),
        (
            lambda folder: (folder / "model-00002-of-00002.safetensors").unlink(),
            "model-00002-of-00002.safetensors is missing",
        ),
        (
            lambda folder: os.truncate(folder / "model-00001-of-00002.safetensors", 70),
            "model-00001-of-00002.safetensors is cut short",
        ),
        (
            lambda folder: os.truncate(folder / "model-00001-of-00002.safetensors", 5),
            "model-00001-of-00002.safetensors is cut short or not a safetensors file",
        ),
        (
            lambda folder: (folder / "model-00001-of-00002.safetensors").write_text(
                "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"
            ),
            "model-00001-of-00002.safetensors is a Git LFS pointer, not the weights (run: git lfs pull)",
        ),
    ],
)
def test_an_incomplete_folder_is_named_file_by_file(tmp_path: Path, break_it: Any, fault: str):
    """Down to files cut short, whose headers promise more."""
    folder = write_model(tmp_path / "model")
    break_it(folder)
    assert folder_faults(folder) == [fault]
    assert (
        sentence_of(check_folder, folder)
        == f"The model folder {folder} is incomplete: {fault}. Download the model again."
    )


def test_a_folder_without_weights_is_enough_for_dummy_weights(tmp_path: Path):
    """As load_format=dummy uses it."""
    folder = write_model(tmp_path / "model")
    for path in folder.glob("model*"):
        path.unlink()
    assert folder_faults(folder) == ["no *.safetensors weights are there"]
    assert find_model(str(folder), weights=False) == folder


def test_another_model_is_refused_by_name(tmp_path: Path):
    """Before vLLM tries to load it."""
    folder = write_model(tmp_path / "model", architectures=["LlamaForCausalLM"])
    assert sentence_of(check_folder, folder) == (
        f"The model in {folder} is LlamaForCausalLM, not DeepSeek-OCR (DeepseekOCRForCausalLM). "
        "Set MODEL_PATH to DeepSeek-OCR."
    )


@pytest.mark.parametrize("path", ["/nowhere/at/all", "./models/ocr", "DeepSeek-OCR", "~/DeepSeek-OCR"])
def test_a_path_that_is_no_hub_name_must_be_a_folder(path: str):
    """No network is asked for it."""
    assert "there is no such folder" in sentence_of(find_model, path)


def test_a_hub_name_without_a_network_says_so(tmp_path: Path):
    """In a process of its own: the hub's library reads its variables once, when it is imported."""
    pytest.importorskip("huggingface_hub")
    import subprocess
    import sys

    code = (
        "from app.engine.model_folder import find_model\nfrom app.errors import EngineStartError\n"
        "try:\n    find_model('some-owner/some-model')\nexcept EngineStartError as error:\n    print(error.detail)\n"
    )
    backend = str(Path(__file__).parents[2] / "backend")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PYTHONPATH": backend}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout == (
        "The model some-owner/some-model is not on this machine and could not be downloaded from the Hugging Face hub. "
        "Check the network and the disk, or set MODEL_PATH to a folder that holds the model.\n"
    )


# Memory


def test_the_need_of_the_published_model_is_what_it_takes():
    """Twelve layers of keys and values of 1280 numbers, two bytes each, for 8192 tokens."""
    need = estimate_need({"language_config": LANGUAGE}, 6_670_000_000, 8192)
    assert need == Need(6_670_000_000, 12 * 2 * 1280 * 2 * 8192, 8192)
    assert estimate_need({"language_config": LANGUAGE}, 0, 8192, "fp8_e4m3").cache == need.cache // 2


def test_gpus_that_are_too_few_too_full_or_too_small_are_named_with_the_setting():
    """Each with its figures."""
    need = Need(6 * GIB, GIB, 8192)
    card = Gpu("RTX", 24 * GIB, 23 * GIB, "570.1", "8.9")
    check_gpu_memory(need, [card], 1, 0.75)
    assert "TENSOR_PARALLEL_SIZE is 2, but only 1 GPU(s)" in sentence_of(check_gpu_memory, need, [card], 2, 0.75)
    full = Gpu("RTX", 24 * GIB, 10 * GIB, "570.1", "8.9")
    assert sentence_of(check_gpu_memory, need, [full], 1, 0.75) == (
        "GPU 0 (RTX) has 10.0 GiB free of 24.0 GiB, and GPU_MEMORY_UTILIZATION=0.75 asks for 18.0 GiB. "
        "End what else uses the GPU, or lower GPU_MEMORY_UTILIZATION."
    )
    small = Gpu("GTX", 8 * GIB, 8 * GIB, "570.1", "7.5")
    assert "needs about 9.0 GiB on GPU 0 (GTX)" in sentence_of(check_gpu_memory, need, [small], 1, 0.9)


def test_a_cpu_without_room_for_one_request_is_told_which_setting_to_change():
    """The cache's own limit first, then the machine's memory."""
    need = Need(6 * GIB, 2 * GIB, 8192)
    check_cpu_memory(need, 9 * GIB, None)
    assert "Raise VLLM_CPU_KVCACHE_SPACE or lower MAX_MODEL_LEN" in sentence_of(check_cpu_memory, need, 99 * GIB, GIB)
    assert "need 10.0 GiB of memory, and 9.0 GiB are available" in sentence_of(check_cpu_memory, need, 9 * GIB, 4 * GIB)


def test_nvidia_smis_lines_are_read():
    """A line of an unreadable GPU is left out."""
    answer = "NVIDIA H200, 143771, 143000, 570.86.15, 9.0\nNVIDIA X, [N/A], [N/A], 570.86.15, 9.0\n"
    assert parse_gpus(answer) == [Gpu("NVIDIA H200", 143771 * 2**20, 143000 * 2**20, "570.86.15", "9.0")]


@pytest.mark.parametrize(
    ("files", "visible", "present"),
    [
        ((), None, False),
        (("nvidiactl", "nvidia-uvm"), None, False),
        (("nvidia0",), None, True),
        (("nvidia0",), "0", True),
        (("nvidia0",), "", False),
        (("nvidia0",), "-1", False),
        (("dxg",), None, True),
    ],
)
def test_a_gpu_is_seen_by_its_device_file(tmp_path: Path, files: tuple[str, ...], visible: str | None, present: bool):
    """Control devices are there without a GPU, too; CUDA_VISIBLE_DEVICES can hide all."""
    for name in files:
        (tmp_path / name).touch()
    assert cuda_device_present(visible, tmp_path) is present


# Options


def test_settings_become_options_with_the_published_defaults():
    """The predecessor's names and values, and the n-gram rule of the published script."""
    options = vllm_options(make_settings(inference_engine="vllm_direct"))
    assert (options.model_path, options.gpu_memory_utilization, options.max_model_len) == (
        "deepseek-ai/DeepSeek-OCR",
        0.75,
        8192,
    )
    assert options.ngram == NgramRule(30, 90, (128821, 128822))


def test_each_attempt_bans_more_and_only_the_third_leaves_the_greedy_path():
    """The same page gives the same text, because the seed is fixed."""
    plans = [sampling(VllmOptions(), attempt) for attempt in range(3)]
    assert [(plan.temperature, plan.seed) for plan in plans] == [(0.0, None), (0.0, None), (0.2, 2)]
    assert [(plan.ngram.size, plan.ngram.window) for plan in plans] == [(30, 90), (20, 1024), (12, 1024)]


def test_further_engine_arguments_reach_vllm_but_not_those_the_service_owns(tmp_path: Path):
    """Each refusal names the setting to use."""
    arguments = engine_arguments(
        VllmOptions(engine_args={"kv_cache_dtype": "fp8", "max_num_batched_tokens": 99}), tmp_path
    )
    assert (arguments["kv_cache_dtype"], arguments["max_num_batched_tokens"]) == ("fp8", 99)
    assert arguments["limit_mm_per_prompt"] == {"image": 1}
    owned = VllmOptions(engine_args={"max_model_len": 4096})
    assert sentence_of(engine_arguments, owned, tmp_path) == (
        "ENGINE_ARGS must not hold 'max_model_len'; set MAX_MODEL_LEN instead."
    )
    fixed = VllmOptions(engine_args={"hf_overrides": {}})
    assert "the service sets it itself" in sentence_of(engine_arguments, fixed, tmp_path)
    watermark = VllmOptions(engine_args={"watermark_config": {}})
    assert sentence_of(engine_arguments, watermark, tmp_path) == (
        "ENGINE_ARGS must not hold 'watermark_config'; it needs vLLM's model runner V2, which does not keep the no-repeat "
        "n-gram rule."
    )


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"engine_args": "[1]"}, "one JSON object"),
        ({"engine_args": "{kv"}, "one JSON object"),
        ({"no_repeat_ngram_size": 100}, "NO_REPEAT_WINDOW must not be smaller"),
        ({"max_tiles": 10}, "less than or equal to 9"),
        ({"gpu_memory_utilization": 1.5}, "less than or equal to 1"),
    ],
)
def test_wrong_settings_are_refused_at_once(values: dict[str, Any], words: str):
    """With the words an operator needs."""
    with pytest.raises(ValidationError, match=words):
        make_settings(**values)


def test_each_model_runner_gets_what_makes_it_keep_the_rule_and_the_second_decodes_several_steps_at_once():
    """But for what changes how steps run, where V2 still has the rule from the model's state."""
    rule = {"logits_processors": ["app.vllm_models.ngram:NoRepeatNgram"]}
    several = {
        "scheduler_cls": "app.vllm_models.multi_step.MultiStepScheduler",
        "worker_cls": "app.vllm_models.multi_step.MultiStepWorker",
    }
    assert runner_arguments(VllmOptions(), runner_v2=False) == rule
    sizes = runner_arguments(VllmOptions(), runner_v2=True)
    assert sizes.items() >= several.items()
    assert runner_arguments(VllmOptions(engine_args={"block_size": 32}), True) == sizes
    assert runner_arguments(VllmOptions(engine_args={"max_cudagraph_capture_size": 256}), runner_v2=True) == several
    for other in ({"pipeline_parallel_size": 2}, {"worker_cls": "theirs.Worker"}, {"async_scheduling": False}):
        assert runner_arguments(VllmOptions(engine_args=other), runner_v2=True) == {}
    for single in (VllmOptions(enforce_eager=True), VllmOptions(tensor_parallel_size=2)):
        assert runner_arguments(single, runner_v2=True) == {}
        assert not several_steps(single)
    assert several_steps(VllmOptions())
    for most, count in ((1, 27), (384, 27), (400, 28), (1024, 27), (2000, 27)):
        sizes = runner_arguments(VllmOptions(max_num_seqs=most), runner_v2=True)["cudagraph_capture_sizes"]
        assert (sizes[-1], len(sizes), most in sizes) == (1024, count, most <= 1024)


def test_engine_arguments_are_written_as_json():
    """In the environment or in .env."""
    assert make_settings(engine_args='{"kv_cache_dtype": "fp8"}').engine_args == {"kv_cache_dtype": "fp8"}


def test_auto_takes_rapidocr_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch):
    """And a chosen engine stays chosen."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert choose_engine(make_settings(inference_engine="auto")) == "rapidocr"
    assert choose_engine(make_settings(inference_engine="vllm_direct")) == "vllm_direct"


# The engine that cannot start


async def test_an_engine_that_is_not_started_says_what_it_can_do_and_stops_twice():
    """Without importing vLLM; stopping is idempotent."""
    engine = VllmDirectEngine(VllmOptions(max_num_seqs=7), frozenset(MODES))
    able = engine.capabilities()
    assert (able.modes, able.prompted, able.concurrency, able.retries) == (frozenset(MODES), True, 7, 2)
    assert engine.health().state is EngineState.STARTING
    with pytest.raises(EngineNotReady):
        await anext(engine.generate(None))  # type: ignore[arg-type]
    await engine.stop()
    await engine.stop()
    assert engine.health().state is EngineState.STOPPED


async def test_a_wrong_model_path_is_said_to_every_client_and_the_port_stays_open(vllm_environment: dict[str, str]):
    """The service listens, is not ready, and says in one sentence why."""
    engine = VllmDirectEngine(VllmOptions(model_path="/nowhere/at/all"), frozenset(MODES))
    wanted = (
        "vLLM is not installed here. Install vllm, or set INFERENCE_ENGINE=rapidocr."
        if vllm_version() is None
        else "MODEL_PATH is /nowhere/at/all, and there is no such folder. Set it to the model's folder."
    )
    async with serving(engine, wait_ready=False) as client:
        for _ in range(200):
            ready = await client.get("/readyz")
            if ready.json().get("detail") == wanted:
                break
            await asyncio.sleep(0.05)
        answer = await client.post("/api/ocr", files=upload())
        assert (await client.get("/livez")).status_code == 200
    assert (ready.status_code, ready.json()["detail"]) == (503, wanted)
    assert (answer.status_code, answer.json()["detail"]) == (503, wanted)
