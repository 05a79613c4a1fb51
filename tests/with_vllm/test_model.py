"""The registered model inside the real vLLM, on the CPU, with the small checkpoint."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from numpy.typing import NDArray

from app.engine.vllm_text import ModelTokenizer
from app.ocr.resolution import RESOLUTIONS
from app.vllm_models import ENGINE_ARGUMENTS, encode_prompt
from app.vllm_models.views import ViewOptions, placeholder_count, prepare_views
from tests.with_vllm.tiny_service import IN_CORE

pytestmark = pytest.mark.vllm

MODES = {name: (mode.base_size, mode.image_size, mode.crop_mode) for name, mode in RESOLUTIONS.items()}
PAGE_SIZE = (1684, 1190)
in_module_loop = pytest.mark.asyncio(loop_scope="module")


def page(seed: int, height: int = PAGE_SIZE[0], width: int = PAGE_SIZE[1]) -> NDArray[np.uint8]:
    """Return a page of grey blocks, different for each seed."""
    blocks = np.random.default_rng(seed).integers(0, 256, (height // 32 + 1, width // 32 + 1, 3), np.uint8)
    return np.ascontiguousarray(np.kron(blocks, np.ones((32, 32, 1), np.uint8))[:height, :width])


def as_kwargs(name: str) -> dict[str, Any]:
    """Return a published resolution as a request's options."""
    return dict(zip(("base_size", "image_size", "crop_mode"), MODES[name], strict=True))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(small_checkpoint: Path, vllm_environment: dict[str, str]) -> AsyncIterator[Any]:
    """vLLM's AsyncLLMEngine with the small checkpoint; float32, so that batching cannot change a token."""
    from app import vllm_compat

    arguments = vllm_compat.make_engine_args(
        model=str(small_checkpoint),
        dtype="float32",
        enforce_eager=True,
        max_model_len=4096,
        **ENGINE_ARGUMENTS,
        **IN_CORE,
    )
    running = vllm_compat.AsyncLLMEngine.from_engine_args(arguments)
    yield running
    vllm_compat.shutdown(running, timeout=10)
    # vLLM keeps frames of its first import, this one among them: the engine would live until modules are torn down.
    del running


async def ask(engine: Any, picture: Any, options: dict[str, Any] | None = None, **sampling: Any) -> Any:
    """Return vLLM's last output for one request with `picture`, or a list of pictures."""
    from app import vllm_compat

    ask.count += 1
    pictures = len(picture) if isinstance(picture, list) else 1
    tokenizer = ModelTokenizer(Path(engine.model_config.model))
    prompt = {
        "prompt_token_ids": encode_prompt(tokenizer, "<image>" * pictures + "\nFree OCR.", pictures),
        "multi_modal_data": {"image": picture},
        **({"mm_processor_kwargs": options} if options else {}),
    }
    sampling = {"temperature": 0.0, "max_tokens": 12, "logprobs": 1, "skip_special_tokens": False} | sampling
    outputs = engine.generate(prompt, vllm_compat.SamplingParams(**sampling), f"request-{ask.count}")
    return [output async for output in outputs][-1]


ask.count = 0


def answer(output: Any) -> tuple[int, ...]:
    return tuple(output.outputs[0].token_ids)


def first_score(output: Any) -> float:
    """Return the log-probability of the first token: it moves with anything the model sees."""
    return float(output.outputs[0].logprobs[0][output.outputs[0].token_ids[0]].logprob)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def alone(engine: Any) -> dict[tuple[int, str], Any]:
    """The answers to two pages in each resolution, asked for one after the other."""
    return {(seed, name): await ask(engine, page(seed), as_kwargs(name)) for seed in (0, 1) for name in MODES}


@in_module_loop
@pytest.mark.parametrize("name", MODES)
async def test_each_resolution_generates_with_its_number_of_image_tokens(
    alone: dict[tuple[int, str], Any], name: str
) -> None:
    output = alone[0, name]
    image = 259
    expected = placeholder_count(PAGE_SIZE[1], PAGE_SIZE[0], ViewOptions(*MODES[name]))
    assert output.prompt_token_ids[: expected + 2] == [0, *[image] * expected, output.prompt_token_ids[expected + 1]]
    assert output.prompt_token_ids.count(image) == expected
    assert len(answer(output)) == 12 or output.outputs[0].finish_reason == "stop"


@in_module_loop
async def test_what_the_picture_shows_and_how_it_is_cut_changes_what_the_model_computes(
    alone: dict[tuple[int, str], Any],
) -> None:
    scores = [first_score(output) for output in alone.values()]
    assert len({round(score, 4) for score in scores}) == len(scores)


@in_module_loop
async def test_ten_requests_at_once_with_mixed_resolutions_equal_the_same_requests_alone(
    engine: Any, alone: dict[tuple[int, str], Any]
) -> None:
    together = await asyncio.gather(*(ask(engine, page(seed), as_kwargs(name)) for seed, name in alone))
    assert [answer(output) for output in together] == [answer(output) for output in alone.values()]
    assert [first_score(output) for output in together] == pytest.approx(
        [first_score(output) for output in alone.values()], abs=1e-3
    )


@in_module_loop
@pytest.mark.parametrize("name", ["small", "gundam"])
async def test_prepared_views_give_the_answer_of_the_picture_whatever_the_request_says(engine: Any, name: str) -> None:
    expected = await ask(engine, page(2), as_kwargs(name))
    views = prepare_views(page(2), ViewOptions(*MODES[name]))
    for options in (None, as_kwargs("tiny")):
        output = await ask(engine, views, options)
        assert output.prompt_token_ids == expected.prompt_token_ids
        assert answer(output) == answer(expected)
        assert first_score(output) == pytest.approx(first_score(expected), abs=1e-4)


@in_module_loop
async def test_several_pictures_of_one_request_each_take_their_own_place(engine: Any) -> None:
    large, small = page(0), page(1, 400, 300)
    output = await ask(engine, [large, small])
    assert output.prompt_token_ids.count(259) == 903 + 273
    swapped = await ask(engine, [small, large])
    assert swapped.prompt_token_ids == output.prompt_token_ids
    assert first_score(swapped) != pytest.approx(first_score(output), abs=1e-4)


@in_module_loop
@pytest.mark.parametrize("options", [{"base_size": 1000}, {"zoom": 1}, {"max_tiles": 10}, {"crop_mode": "yes"}])
async def test_wrong_options_fail_their_request_only(engine: Any, options: dict[str, Any]) -> None:
    from app import vllm_compat

    with pytest.raises(vllm_compat.REQUEST_ERRORS, match=f"'{next(iter(options))}'"):
        await ask(engine, page(0), options)
    assert not engine.errored
    assert answer(await ask(engine, page(0), as_kwargs("tiny")))


@in_module_loop
async def test_a_request_longer_than_the_context_is_refused_before_the_engine_core(engine: Any) -> None:
    from app import vllm_compat

    with pytest.raises(vllm_compat.REQUEST_ERRORS, match="4096"):
        await ask(engine, [page(0)] * 5)
    assert not engine.errored


@in_module_loop
async def test_the_class_in_the_worker_is_ours(engine: Any) -> None:
    config = engine.model_config
    assert config.architectures == ["DeepseekOCRServiceForCausalLM"]
    architecture = config.registry.resolve_model_cls(config.architectures, config)
    assert architecture[0].__module__ == "app.vllm_models.deepseek_ocr"


@pytest.fixture(scope="module")
def bare_model(small_checkpoint: Path, vllm_environment: dict[str, str], tmp_path_factory: Any) -> Iterator[Any]:
    """Our class in this process, without an engine: a function that builds it, not yet loaded."""
    import torch
    from vllm.config import set_current_vllm_config
    from vllm.distributed import (
        destroy_distributed_environment,
        destroy_model_parallel,
        init_distributed_environment,
        initialize_model_parallel,
    )

    from app import vllm_compat
    from app.vllm_models import register
    from app.vllm_models.deepseek_ocr import DeepseekOCRForCausalLM

    register()
    arguments = vllm_compat.make_engine_args(model=str(small_checkpoint), dtype="float32", **ENGINE_ARGUMENTS)
    config = arguments.create_engine_config()
    store = tmp_path_factory.mktemp("store") / "file"
    with set_current_vllm_config(config):
        init_distributed_environment(1, 0, f"file://{store}", 0, "gloo")
        initialize_model_parallel(1)

    def build() -> Any:
        config.compilation_config.static_forward_context.clear()
        with set_current_vllm_config(config):
            return DeepseekOCRForCausalLM(vllm_config=config)

    yield build
    destroy_model_parallel()
    destroy_distributed_environment()
    torch.set_default_dtype(torch.float32)


def read_weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "model-00001-of-00001.safetensors")


def test_the_published_names_fill_every_parameter(bare_model: Any, small_checkpoint: Path) -> None:
    model, weights = bare_model(), read_weights(small_checkpoint)
    assert model.load_weights(weights.items()) == {name for name, _ in model.named_parameters()}
    assert model.encoder.image_newline.tolist() == weights["model.image_newline"].tolist()
    embedding = model.language_model.model.embed_tokens.weight
    assert embedding[5].tolist() == weights["model.embed_tokens.weight"][5].tolist()


def test_a_checkpoint_with_faults_is_refused_and_the_faults_are_listed(bare_model: Any, small_checkpoint: Path) -> None:
    from app.vllm_models.checkpoint import CheckpointError

    weights = read_weights(small_checkpoint)
    del weights["model.layers.1.mlp.experts.3.up_proj.weight"], weights["model.sam_model.neck.1.bias"]
    weights["model.vision_model.post_layernorm.weight"] = weights["model.image_newline"]
    weights["model.layers.9.input_layernorm.weight"] = weights["model.image_newline"]
    weights["model.view_seperator"] = weights["model.view_seperator"][:7]
    with pytest.raises(CheckpointError) as caught:
        bare_model().load_weights(weights.items())
    assert str(caught.value) == (
        "This is not a complete DeepSeek-OCR checkpoint. "
        "2 parameters are missing: model.layers.1.mlp.experts.3.up_proj.weight, model.sam_model.neck.1.bias. "
        "2 parameters are unexpected: "
        "model.layers.9.input_layernorm.weight, model.vision_model.post_layernorm.weight. "
        "1 parameters are of the wrong shape: model.view_seperator (7,) instead of (128,)."
    )


def test_picture_embeddings_are_written_where_the_image_tokens_are(bare_model: Any, small_checkpoint: Path) -> None:
    import torch

    model, weights = bare_model(), read_weights(small_checkpoint)
    model.load_weights(weights.items())
    views = [
        prepare_views(page(3, 200, 900), ViewOptions(256, 128, True)),
        prepare_views(page(4, 90, 90), ViewOptions()),
    ]
    inputs = {
        "global_view": [torch.from_numpy(view.global_view) for view in views],
        "tiles": [torch.from_numpy(view.tiles) for view in views],
        "grid": torch.tensor([view.grid for view in views]),
    }
    with torch.inference_mode():
        pictures = model.embed_multimodal(**inputs)
        assert [len(embeddings) for embeddings in pictures] == [view.placeholders for view in views]
        ids = torch.tensor([0, *[259] * views[0].placeholders, 20, 30, *[259] * views[1].placeholders, 40])
        mixed = model.embed_input_ids(ids, pictures, is_multimodal=ids == 259)
    first, second = views[0].placeholders, views[1].placeholders
    assert torch.equal(mixed[1 : 1 + first], pictures[0])
    assert torch.equal(mixed[3 + first : 3 + first + second], pictures[1])
    words = mixed[torch.tensor([0, 1 + first, 2 + first, len(ids) - 1])]
    table = weights["model.embed_tokens.weight"].float()
    assert torch.equal(words, table[torch.tensor([0, 20, 30, 40])])


def is_restarted(number: int) -> bool:
    """Whether a call of the system goes on after this signal, so that Python's handler has to wait for its end (glibc)."""
    action = ctypes.create_string_buffer(256)  # handler, mask of 1024 signals, flags
    ctypes.CDLL(None).sigaction(number, None, action)
    return bool(int.from_bytes(action.raw[136:140], sys.byteorder) & 0x10000000)


def test_signals_are_heard_after_pictures_whatever_their_kernels_did_to_the_handlers(bare_model: Any) -> None:
    import torch

    views, model = prepare_views(page(4, 90, 90), ViewOptions()), bare_model()
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        signal.siginterrupt(signal.SIGTERM, False)
        assert is_restarted(signal.SIGTERM)
        with torch.inference_mode():
            model.embed_multimodal(
                global_view=torch.from_numpy(views.global_view[None]),
                tiles=torch.from_numpy(views.tiles[None]),
                grid=torch.tensor([views.grid]),
            )
        assert not is_restarted(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_main_thread_that_waits_hears_a_signal_after_a_library_has_changed_its_handler() -> None:
    program = """
import os, queue, signal, sys, threading
from app.vllm_models.signals import hear_again
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit("heard"))
signal.siginterrupt(signal.SIGTERM, False)  # as NVRTC leaves it
if sys.argv[1] == "again":
    hear_again()
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
queue.Queue().get()
"""
    arguments = [sys.executable, "-c", program]
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run([*arguments, "not"], timeout=2, check=False)
    heard = subprocess.run([*arguments, "again"], stderr=subprocess.PIPE, timeout=30, check=False)
    assert (heard.returncode, heard.stderr) == (1, b"heard\n")


def test_the_prompt_needs_one_marker_for_each_picture(small_checkpoint: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(small_checkpoint)
    ids = encode_prompt(tokenizer, "<image>\nA")
    assert (ids[:2], len(ids)) == ([0, 259], 4)
    with pytest.raises(ValueError, match="holds 2 <image> markers for 1 picture"):
        encode_prompt(tokenizer, "<image>\nWhat does <image> mean?")


@pytest.mark.parametrize("version", ["0.6.5", "0.10.1", "0.34.0", "1.0.0", "dev"])
def test_a_release_outside_the_supported_range_is_refused_by_name(version: str) -> None:
    from app import vllm_compat

    with pytest.raises(vllm_compat.UnsupportedVllm) as caught:
        vllm_compat.check_supported(vllm_compat.parse_version(version), version)
    assert str(caught.value) == f"vLLM {version} is not supported; install a release from 0.10.2 to 0.33, or 0.8.5."
    for supported in ("0.10.2", "0.11.0", "0.33.1.dev3+g123"):
        vllm_compat.check_supported(vllm_compat.parse_version(supported), "")


def test_a_release_with_a_file_of_its_own_is_let_in_while_the_file_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    from app import vllm_compat

    vllm_compat.check_supported((0, 8, 5), "0.8.5")
    vllm_compat.check_runner((0, 8, 5), "0.8.5", {"VLLM_USE_V1": "0"}, cuda=True)
    with pytest.raises(vllm_compat.UnsupportedVllm, match=r"^vLLM 0\.8\.4 is not supported"):
        vllm_compat.check_supported((0, 8, 4), "0.8.4")
    monkeypatch.setattr(vllm_compat, "ADAPTERS", {(0, 8, 5): "app.vllm_models.deleted"})
    with pytest.raises(vllm_compat.UnsupportedVllm) as caught:
        vllm_compat.check_supported((0, 8, 5), "0.8.5")
    assert str(caught.value) == "vLLM 0.8.5 is not supported; install a release from 0.10.2 to 0.33."


@pytest.mark.parametrize(
    ("version", "variables", "asked", "cuda"),
    [
        ("0.10.2", {"VLLM_USE_V1": "0"}, "VLLM_USE_V1=0", True),
        ("0.11.0", {"VLLM_USE_V1": "0"}, "VLLM_USE_V1=0", True),
        ("0.12.0", {"VLLM_USE_V2_MODEL_RUNNER": "1"}, "VLLM_USE_V2_MODEL_RUNNER=1", True),
        ("0.25.0", {"VLLM_USE_V2_MODEL_RUNNER": "true"}, "VLLM_USE_V2_MODEL_RUNNER=true", True),
        ("0.26.0", {"VLLM_USE_V2_MODEL_RUNNER": "1"}, "VLLM_USE_V2_MODEL_RUNNER=1", False),
        ("0.32.0", {"VLLM_USE_V2_MODEL_RUNNER": "1"}, "VLLM_USE_V2_MODEL_RUNNER=1", True),
    ],
)
def test_variables_that_would_drop_the_ngram_rule_are_refused(
    version: str, variables: dict[str, str], asked: str, cuda: bool
) -> None:
    from app import vllm_compat

    with pytest.raises(vllm_compat.UnsupportedVllm) as caught:
        vllm_compat.check_runner(vllm_compat.parse_version(version), version, variables, cuda)
    assert str(caught.value) == (
        f"vLLM {version} with {asked} would drop the no-repeat n-gram rule; unset it: the rule works on releases from "
        f"0.10.2 to 0.33 in engine V1 with model runner V1, and with model runner V2 on NVIDIA GPUs with "
        f"{vllm_compat.RUNNER_V2_NAMES}."
    )


@pytest.mark.parametrize(
    ("version", "variables"),
    [
        ("0.10.2", {"VLLM_USE_V1": "1", "VLLM_USE_V2_MODEL_RUNNER": "1"}),
        ("0.11.0", {}),
        ("0.11.1", {"VLLM_USE_V1": "0"}),
        ("0.11.2", {"VLLM_USE_V2_MODEL_RUNNER": "1"}),
        ("0.12.0", {"VLLM_USE_V2_MODEL_RUNNER": "0"}),
        ("0.26.1", {"VLLM_USE_V2_MODEL_RUNNER": "1"}),
        ("0.33.0", {"VLLM_USE_V2_MODEL_RUNNER": "1"}),
        ("0.33.0", {"VLLM_USE_V2_MODEL_RUNNER": "0", "VLLM_USE_V1": "0"}),
    ],
)
def test_variables_that_a_release_does_not_know_or_that_keep_the_rule_are_let_in(
    version: str, variables: dict[str, str]
) -> None:
    from app import vllm_compat

    vllm_compat.check_runner(vllm_compat.parse_version(version), version, variables, cuda=True)


@pytest.mark.parametrize(
    ("release", "cuda", "pinned", "several", "asked", "taken", "uncompiled"),
    [
        ((0, 26, 0), True, True, True, None, "1", "1"),
        ((0, 26, 0), True, True, True, "0", "0", None),
        ((0, 26, 0), True, True, False, None, "0", None),
        ((0, 26, 0), True, True, False, "1", "1", None),
        ((0, 26, 0), True, False, True, None, "0", None),
        ((0, 26, 0), False, True, True, None, "0", None),
        ((0, 27, 0), True, True, True, None, "0", None),
        ((0, 33, 0), True, True, True, None, "1", "1"),
        ((0, 33, 0), True, True, False, "1", "1", None),
        ((0, 33, 0), True, True, True, "0", "0", None),
    ],
)
def test_model_runner_v2_is_taken_where_it_keeps_the_rule_and_can_run(
    monkeypatch: pytest.MonkeyPatch,
    release: tuple[int, int, int],
    cuda: bool,
    pinned: bool,
    several: bool,
    asked: str | None,
    taken: str,
    uncompiled: str | None,
) -> None:
    """And the choice is told, in the log and by the doctor."""
    from app import vllm_compat

    for name, value in (("VLLM_USE_V2_MODEL_RUNNER", asked), ("VLLM_USE_BREAKABLE_CUDAGRAPH", None)):
        monkeypatch.setenv(name, value or "")
        if value is None:
            monkeypatch.delenv(name)
    monkeypatch.setattr(vllm_compat, "VLLM_VERSION", release)
    monkeypatch.setattr(vllm_compat.current_platform, "is_cuda", lambda: cuda)
    monkeypatch.setattr(vllm_compat.current_platform, "is_pin_memory_available", lambda: pinned)
    assert vllm_compat.choose_runner(several) is (taken == "1")
    assert os.environ["VLLM_USE_V2_MODEL_RUNNER"] == taken
    assert os.environ.get("VLLM_USE_BREAKABLE_CUDAGRAPH") == uncompiled
    assert f"model runner V{2 if taken == '1' else 1}" in dict(vllm_compat.choices())


def test_experts_of_one_group_are_chosen_without_groups() -> None:
    from app import vllm_compat

    config = SimpleNamespace(n_group=1, topk_group=1, routed_scaling_factor=1.0, n_routed_experts=64)
    assert vllm_compat._ungrouped(config).n_group == 64
    assert config.n_group == 1
    for name, value in (("n_group", 8), ("topk_group", 2), ("routed_scaling_factor", 2.5)):
        other = SimpleNamespace(**{**vars(config), name: value})
        assert vllm_compat._ungrouped(other) is other


def test_an_engine_argument_that_vllm_does_not_have_is_named() -> None:
    from app import vllm_compat

    with pytest.raises(ValueError, match="has no engine argument swap_size, warp"):
        vllm_compat.make_engine_args(model="x", warp=1, swap_size=2)
