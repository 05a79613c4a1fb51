"""What must hold on every supported release of vLLM: `make compat` runs this file in an environment of each.

One engine with the tiny reader, behind the service, on a port of this process. `tools/compat/contracts.py` gives each
test its column in docs/vllm-compatibility-matrix.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import httpx
import httpx_sse
import numpy as np
import psutil
import pytest
import pytest_asyncio
import uvicorn

from app.engine.vllm_direct import VllmDirectEngine
from app.engine.vllm_text import ModelTokenizer
from app.engines import vllm_options
from app.main import KEEP_ALIVE_SECONDS, create_app
from app.ocr.modes import MODES
from app.ocr.resolution import RESOLUTIONS
from app.settings import Settings
from app.vllm_models import ARCHITECTURE, encode_prompt
from app.vllm_models.ngram_state import PUBLISHED, NgramRule
from app.vllm_models.views import ViewOptions, placeholder_count, prepare_views
from tests.with_vllm.ngram_plain import OFF, plain_rule
from tools.tiny_reader.serve import FOLDER

pytest.importorskip("torch", reason="PyTorch is not installed")

import torch

from benchmarks.tiny_reader import RESOLUTIONS as TRAINED
from benchmarks.tiny_reader import Sample, make_samples
from tools.tiny_reader import fonts
from tools.tiny_reader.batches import prompt_ids
from tools.tiny_reader.export import read_folder
from tools.tiny_reader.faces import load_faces

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

IMAGE = 259
FREE_OCR = "Free OCR."
# Neither training's nor the benchmark's. The plain PyTorch model reads these pages to the letter.
SEED = 3_000_002
PAGES = 4
LOADING_SECONDS = 500
ON_GPU = os.environ.get("CONTRACT_DEVICE", "cpu") == "cuda"
# Float32 rounding between two implementations of one model. On an H200 vLLM 0.26.0 is 0.000006 off, 0.20.2 0.004 for a reason
# not found. Of 70 swaps of two weights of one shape in the language model, 67 change a score by more than 0.01, and 68 by 0.002.
CLOSE = 1e-2 if ON_GPU else 2e-3
SETTINGS: dict[str, Any] = {
    "inference_engine": "vllm_direct",
    "model_path": str(FOLDER),
    "max_model_len": 4096,
    "max_num_seqs": 8,
    "enforce_eager": not ON_GPU,
    # With a size for its KV cache, vLLM does not mind what other releases' tests do on the same GPU meanwhile.
    "engine_args": {"dtype": "float32"} | ({"kv_cache_memory_bytes": 2**30} if ON_GPU else {}),
    "decode_workers": 1,
    "engine_stall_seconds": 180,
}


@dataclass
class Running:
    """The service on its port, and the engine behind it."""

    client: httpx.AsyncClient
    engine: VllmDirectEngine
    asked: int = 0

    @property
    def vllm(self) -> Any:
        """vLLM's own engine."""
        assert self.engine._engine is not None, self.engine.health()
        return self.engine._engine

    async def ask(self, prompt: dict[str, Any], **sampling: Any) -> Any:
        """Return vLLM's last output for one request of its own."""
        from app import vllm_compat

        self.asked += 1
        params = vllm_compat.SamplingParams(
            **{"temperature": 0.0, "max_tokens": 8, "logprobs": 1, "skip_special_tokens": False} | sampling
        )
        outputs = self.vllm.generate(prompt, params, f"contract-{self.asked}")
        return [output async for output in outputs][-1]

    async def ask_about(self, picture: Any, options: dict[str, Any] | None = None, **sampling: Any) -> Any:
        """Ask for the text of `picture`."""
        prompt = {
            "prompt_token_ids": encode_prompt(ModelTokenizer(FOLDER), f"<image>\n{FREE_OCR}"),
            "multi_modal_data": {"image": picture},
            **({"mm_processor_kwargs": options} if options else {}),
        }
        return await self.ask(prompt, **sampling)

    async def until(self, condition: Callable[[], Awaitable[bool]], seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not await condition():
            assert time.monotonic() < deadline, f"{what}: not within {seconds} s; {self.engine.health()}"
            await asyncio.sleep(0.05)

    async def has_started(self) -> bool:
        """Whether loading is over, well or not: the service would go on trying."""
        answer = await self.client.get("/readyz")
        return answer.status_code == 200 or answer.json()["code"] == "engine_start_failed"

    async def is_ready(self) -> bool:
        return (await self.client.get("/readyz")).status_code == 200

    async def metric(self, name: str) -> float:
        """The sum of one of vLLM's metrics."""
        text = (await self.client.get("/metrics")).text
        values = re.findall(rf"^{re.escape(name)}(?:\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE)
        assert values, f"/metrics has no {name}"
        return sum(float(value) for value in values)

    async def is_idle(self) -> bool:
        return await self.metric("vllm:num_requests_running") == 0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(vllm_environment: dict[str, str]) -> AsyncIterator[Running]:
    settings = Settings(_env_file=None, **SETTINGS)
    engine = VllmDirectEngine(vllm_options(settings), frozenset(MODES))
    # As `serve` has it: a connection that rests while a test computes is not to be lost under the next request.
    app = create_app(settings, engine)
    config = uvicorn.Config(app, log_config=None, access_log=False, timeout_keep_alive=KEEP_ALIVE_SECONDS)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        async with httpx.AsyncClient(base_url=url, timeout=300, trust_env=False) as client:
            service = Running(client, engine)
            await service.until(service.has_started, LOADING_SECONDS, "the engine has started")
            assert await service.is_ready(), (await client.get("/readyz")).json()["detail"]
            yield service
    finally:
        server.should_exit = True
        await task
        listener.close()


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    """Pages of up to eight lines, half of each size that the reader was trained on."""
    faces = load_faces([font for font in fonts.TRAINING if font.file_name == "DejaVuSans.ttf"])
    return make_samples(PAGES, SEED, {"known": faces})


@pytest.fixture(scope="module")
def plain_model() -> Any:
    """The same weights in plain PyTorch."""
    return read_folder(FOLDER).float()


def form(sample: Sample, **fields: str) -> dict[str, Any]:
    """A request for the text of a page, as a client posts it."""
    data = {"resolution": TRAINED[sample.page.side], **fields}
    return {"files": {"image": ("page.png", sample.png(), "image/png")}, "data": data}


def as_options(name: str) -> dict[str, Any]:
    """A published resolution as vLLM's request options."""
    mode = RESOLUTIONS[name]
    return {"base_size": mode.base_size, "image_size": mode.image_size, "crop_mode": mode.crop_mode}


def core_processes() -> list[psutil.Process]:
    """The engine core and its children; none for engine V0, which lives in this process."""
    cores = [child.pid for child in multiprocessing.active_children() if child.name.startswith("EngineCore")]
    found = [psutil.Process(pid) for pid in cores if pid is not None]
    return found + [child for core in found for child in core.children(recursive=True)]


def kill(vllm: Any) -> None:
    """Kill the engine core, or let the next step of engine V0 fail."""
    if cores := core_processes():
        cores[0].kill()
        return

    async def fail(*_: Any) -> None:
        raise RuntimeError("ended by a test")

    vllm.engine.step_async = fail


def tokens_of(output: Any) -> list[int]:
    return list(output.outputs[0].token_ids)


def scores_of(output: Any) -> list[float]:
    """The log-probability of each token of the answer."""
    piece = output.outputs[0]
    return [float(step[token].logprob) for token, step in zip(piece.token_ids, piece.logprobs, strict=True)]


def plain_scores(model: Any, embedded: torch.Tensor, answer: list[int]) -> list[float]:
    """The log-probabilities that the plain model gives to each token of `answer` after `embedded` (1, t, width)."""
    with torch.inference_mode():
        words = model.language.embed_tokens(torch.tensor([answer[:-1]]))
        hidden, _ = model.language(torch.cat((embedded, words), dim=1))
        logprobs = model.language.lm_head(hidden[0, -len(answer) :]).float().log_softmax(-1)
    return [float(row[token]) for row, token in zip(logprobs, answer, strict=True)]


async def test_registration_reaches_every_process(running: Running) -> None:
    """Only our plugin knows the architecture: vLLM's own processes could not have built the model without it."""
    config = running.vllm.model_config
    assert config.hf_config.architectures == [ARCHITECTURE]
    assert config.registry.models[ARCHITECTURE].load_model_cls().__module__ == "app.vllm_models.deepseek_ocr"
    assert bool(core_processes()) is not hasattr(running.vllm, "engine"), (
        "engine V0, and no other, lives in this process"
    )


async def test_registration_survives_old_environment_files(vllm_environment: dict[str, str]) -> None:
    """They may say "true" where vLLM up to 0.11.0 reads a number, 0.8.5 as soon as it is imported."""
    environment = os.environ | {"VLLM_USE_V1": "true"}
    command = [sys.executable, "-c", "import app.vllm_models.deepseek_ocr"]
    ended = await asyncio.to_thread(subprocess.run, command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


async def test_weights_of_the_language_model_are_those_of_the_checkpoint(running: Running, plain_model: Any) -> None:
    """A prompt without a picture: each token's probability is the plain model's."""
    sizes = plain_model.language.config
    head = sizes["hidden_size"] // sizes["num_attention_heads"]
    assert running.vllm.model_config.get_head_size() == head, "attention on a GPU would have other buffers"
    prompt = [0, *range(40, 100, 3)]
    output = await running.ask({"prompt_token_ids": prompt}, max_tokens=12, ignore_eos=True)
    embedded = plain_model.language.embed_tokens(torch.tensor([prompt]))
    assert scores_of(output) == pytest.approx(plain_scores(plain_model, embedded, tokens_of(output)), abs=CLOSE)


@pytest.mark.parametrize("side", sorted(TRAINED))
async def test_pixel_values_reach_the_encoder_as_they_are(
    running: Running, plain_model: Any, samples: list[Sample], side: int
) -> None:
    """Probabilities are the plain model's, whether a request brings a picture, an array or prepared views."""
    sample = next(sample for sample in samples if sample.page.side == side)
    pixels = np.asarray(sample.picture)
    options = as_options(TRAINED[side])
    views = prepare_views(pixels, ViewOptions(**options))
    assert (views.global_view == pixels).all()
    with torch.inference_mode():
        images, _ = plain_model.encode(torch.from_numpy(pixels.copy())[None])
        embedded = plain_model.embed(images, torch.tensor([prompt_ids(FREE_OCR)]))
    answers = []
    for picture, chosen in ((sample.picture, options), (pixels, options), (views, None)):
        output = await running.ask_about(picture, chosen, max_tokens=16)
        answers.append(tokens_of(output))
        wanted = plain_scores(plain_model, embedded, answers[-1])
        assert scores_of(output) == pytest.approx(wanted, abs=CLOSE)
    assert answers[0] == answers[1] == answers[2]


@pytest.mark.parametrize("name", RESOLUTIONS)
async def test_placeholders_are_the_published_number(running: Running, name: str) -> None:
    """One start token, then an image token for each embedding, then the words."""
    page = np.full((1684, 1190, 3), 255, np.uint8)
    expected = placeholder_count(1190, 1684, ViewOptions(**as_options(name)))
    assert expected == {"tiny": 73, "small": 111, "base": 273, "large": 421, "gundam": 903}[name]
    output = await running.ask_about(page, as_options(name), max_tokens=2)
    assert list(output.prompt_token_ids) == [0, *[IMAGE] * expected, *prompt_ids(FREE_OCR)[1:]]


async def test_text_read_is_the_text_on_the_page(running: Running, samples: list[Sample]) -> None:
    """To the letter, in both resolutions that the reader was trained for, and side by side."""
    answers = await asyncio.gather(*(running.client.post("/api/ocr", **form(sample)) for sample in samples))
    assert [answer.json()["text"] for answer in answers] == [sample.text for sample in samples]
    assert {answer.json()["metadata"]["resolution"] for answer in answers} == set(TRAINED.values())


async def test_ngram_rule_is_active(running: Running, samples: list[Sample]) -> None:
    """Two rules and none side by side: what each bans, its answer does not hold, and without a rule it would."""
    rules = [OFF, NgramRule(2, 60, ()), NgramRule(1, 8, ())]
    options = as_options(TRAINED[samples[0].page.side])
    outputs = await asyncio.gather(
        *(
            running.ask_about(samples[0].picture, options, max_tokens=100, extra_args=rule.extra_args())
            for rule in rules
        )
    )
    answers = [tokens_of(output) for output in outputs]
    assert [repeats(answer, rule) for answer, rule in zip(answers, rules, strict=True)] == [0, 0, 0]
    assert all(repeats(answers[0], rule) for rule in rules[1:])


async def test_text_does_not_depend_on_what_is_read_beside_it(running: Running, samples: list[Sample]) -> None:
    """More requests than run at once, of all kinds: each token is the one of the request alone, decoded step by step.

    A request that asks for the scores of its tokens is decoded so, and so is what runs beside it.
    """
    kinds: list[dict[str, Any]] = [
        {"max_tokens": 90},
        {"max_tokens": 1},
        {"max_tokens": 2, "ignore_eos": True},
        {"max_tokens": 50, "ignore_eos": True, "extra_args": NgramRule(1, 8, ()).extra_args()},
        {"max_tokens": 61, "ignore_eos": True, "extra_args": NgramRule(3, 200, ()).extra_args()},
        {"max_tokens": 33, "temperature": 0.2, "seed": 7, "extra_args": NgramRule(2, 60, ()).extra_args()},
        {"max_tokens": 27, "ignore_eos": True, "logit_bias": {40: 100.0}, "extra_args": OFF.extra_args()},
    ]
    asked = [(sample, kind) for sample in samples[:2] for kind in kinds]

    def ask(sample: Sample, kind: dict[str, Any], scores: int | None) -> Awaitable[Any]:
        options = as_options(TRAINED[sample.page.side])
        return running.ask_about(sample.picture, options, **kind, logprobs=scores)

    alone = [tokens_of(await ask(sample, kind, 1)) for sample, kind in asked]
    beside = await asyncio.gather(*(ask(sample, kind, None) for sample, kind in asked))
    assert [tokens_of(output) for output in beside] == alone
    assert [len(tokens) for tokens in alone[1:5]] == [1, 2, 50, 61]


async def test_ngram_rule_gets_the_model_runner_that_keeps_it(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where both can run, as on a GPU with Triton, what the service has set decides, and not vLLM's own default."""
    from app import vllm_compat

    second = ON_GPU and vllm_compat.VLLM_VERSION[:2] in vllm_compat.RUNNER_V2
    config = getattr(running.vllm, "vllm_config", None)
    if hasattr(type(config), "use_v2_model_runner"):  # up to 0.21 the worker reads the variable
        monkeypatch.setattr(sys.modules[type(config).__module__], "HAS_TRITON", True)
        assert config.use_v2_model_runner is second
    named = {name for name in dict(vllm_compat.choices()) if name.startswith("model runner")}
    assert named == (
        {"model runner V2" if second else "model runner V1"} if vllm_compat.VLLM_VERSION >= (0, 12) else set()
    )
    assert os.environ["VLLM_USE_V2_MODEL_RUNNER"] == str(int(second))


async def test_ngram_rule_is_not_dropped_for_model_runner_v2(running: Running) -> None:
    """Who asks for it where it cannot keep the rule is told so, before anything is loaded."""
    from app import vllm_compat

    command = [sys.executable, "-c", "import app.vllm_compat"]
    environment = os.environ | {"VLLM_USE_V2_MODEL_RUNNER": "1"}
    ended = await asyncio.to_thread(subprocess.run, command, env=environment, capture_output=True, text=True)
    last = ended.stderr.strip().splitlines()[-1:]
    keeps = ON_GPU and vllm_compat.VLLM_VERSION[:2] in vllm_compat.RUNNER_V2
    if keeps or vllm_compat.VLLM_VERSION < (0, 12):  # there is none
        assert ended.returncode == 0, ended.stderr
    else:
        assert ended.returncode == 1
        assert "VLLM_USE_V2_MODEL_RUNNER=1 would drop the no-repeat n-gram rule; unset it" in last[0]


def repeats(tokens: list[int], rule: NgramRule) -> int:
    """How many of the tokens the rule would have banned."""
    return sum(token in plain_rule(tokens[:place], rule) for place, token in enumerate(tokens))


async def test_streaming_gives_the_text_piece_by_piece(running: Running, samples: list[Sample]) -> None:
    whole = (await running.client.post("/api/ocr", **form(samples[0]))).json()["raw_text"]
    request = form(samples[0], stream="true")
    async with httpx_sse.aconnect_sse(running.client, "POST", "/api/ocr", **request) as source:
        events = [(event.event, json.loads(event.data)) async for event in source.aiter_sse()]
    assert {name for name, _ in events[:-1]} == {"delta"}
    assert len(events) > 2
    assert "".join(data["text"] for _, data in events[:-1]) == events[-1][1]["raw_text"] == whole


async def test_abort_ends_the_generation_of_a_client_that_goes_away(running: Running, samples: list[Sample]) -> None:
    """vLLM stops before it has written what the page holds."""
    longest = max(samples, key=lambda sample: len(sample.text))
    request = form(longest, grounding="true")
    whole = (await running.client.post("/api/ocr", **request)).json()["usage"]["output_tokens"]
    await running.until(running.is_idle, 120, "vLLM has ended what came before")
    before = await running.metric("vllm:generation_tokens_total")
    request["data"]["stream"] = "true"
    async with httpx_sse.aconnect_sse(running.client, "POST", "/api/ocr", **request) as source:
        async for _ in source.aiter_sse():
            break
    await running.until(running.is_idle, 120, "vLLM has stopped")
    assert await running.metric("vllm:generation_tokens_total") - before < whole


@pytest.mark.parametrize("options", [{"base_size": 1000}, {"zoom": 1}, {"max_tiles": 10}, {"crop_mode": "yes"}])
async def test_refusal_of_wrong_picture_options_costs_their_request_only(
    running: Running, samples: list[Sample], options: dict[str, Any]
) -> None:
    from app import vllm_compat

    with pytest.raises(vllm_compat.REQUEST_ERRORS, match=f"'{next(iter(options))}'"):
        await running.ask_about(samples[0].picture, options)
    assert not running.vllm.errored


async def test_refusal_of_a_wrong_rule_costs_its_request_at_most(running: Running, samples: list[Sample]) -> None:
    """vLLM hands a bad value to the rule before or after the request is accepted; then the default rule holds."""
    from app import vllm_compat

    sample, wanted = samples[0], {"no_repeat_window": 0}
    options = as_options(TRAINED[sample.page.side])
    answer = None
    with contextlib.suppress(*vllm_compat.REQUEST_ERRORS):
        answer = tokens_of(await running.ask_about(sample.picture, options, extra_args=wanted))
    expected = tokens_of(await running.ask_about(sample.picture, options, extra_args=PUBLISHED.extra_args()))
    assert answer in (None, expected)
    assert not running.vllm.errored


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"mode": "freeform", "prompt": "w" * 4096}, "context_too_long"),
        ({"mode": "freeform", "prompt": "Read <image> twice."}, "invalid_parameter"),
        ({"max_tokens": "0"}, "invalid_parameter"),
    ],
)
async def test_refusal_over_http_is_a_422(
    running: Running, samples: list[Sample], fields: dict[str, str], code: str
) -> None:
    answer = await running.client.post("/api/ocr", **form(samples[0], **fields))
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert await running.is_ready()


async def test_service_answers_over_http(running: Running, samples: list[Sample]) -> None:
    """Counts, boxes, probes, metrics and the description, with the FastAPI, Pydantic and Pillow of this environment."""
    sample = samples[0]
    answer = await running.client.post("/api/ocr", **form(sample, grounding="true"))
    body = answer.json()
    assert answer.status_code == 200, body
    assert body["usage"]["image_tokens"] == 73
    assert (body["finish_reason"], body["truncated"], body["attempts"]) == ("stop", False, 1)
    assert body["metadata"]["engine"] == "vllm_direct"
    assert (body["image_dims"]["w"], body["image_dims"]["h"]) == sample.picture.size
    assert len(body["boxes"]) == len(sample.page.lines)
    assert (await running.client.get("/health")).json()["status"] == "healthy"
    assert "/api/ocr" in (await running.client.get("/openapi.json")).json()["paths"]
    assert await running.metric("vllm:prompt_tokens_total") > 0
    empty = await running.client.post("/api/ocr", files={"image": ("page.png", b"no picture", "image/png")})
    assert 400 <= empty.status_code < 500


async def test_death_of_the_engine_core_is_noticed(running: Running, samples: list[Sample]) -> None:
    """A waiting request gets its answer, and probes say that nothing is ready. Keep this test and the next last."""
    from app import vllm_compat

    vllm = running.vllm
    longest = max(samples, key=lambda sample: len(sample.text))
    waiting = asyncio.ensure_future(running.client.post("/api/ocr", **form(longest, grounding="true")))

    async def is_running() -> bool:
        return not await running.is_idle()

    await running.until(is_running, 120, "vLLM has begun")
    killed = time.monotonic()
    kill(vllm)
    answer = await waiting
    assert time.monotonic() - killed < SETTINGS["engine_stall_seconds"] / 2, "it was noticed only because nothing came"
    assert (answer.status_code, answer.json()["code"]) == (503, "engine_failed")
    assert (await running.client.get("/readyz")).status_code == 503
    assert vllm.errored
    with pytest.raises(vllm_compat.EngineDeadError):
        async for _ in vllm.generate({"prompt_token_ids": [0, 40]}, vllm_compat.SamplingParams(), "after"):
            pass


async def test_death_is_followed_by_a_new_start_and_an_orderly_end(running: Running, samples: list[Sample]) -> None:
    """The successor reads a page; stopped, it leaves none of its processes behind."""
    await running.until(running.has_started, LOADING_SECONDS, "the engine has started again")
    answer = await running.client.post("/api/ocr", **form(samples[0]))
    assert answer.json()["text"] == samples[0].text
    processes, vllm = core_processes(), running.vllm
    commands = {process.pid: process.cmdline() for process in processes}
    await running.engine.stop()
    left = [process for process in processes if process.is_running() and process.status() != "zombie"]
    assert left == [], [commands[process.pid] for process in left]
    # Else vLLM has logged the core's end as an error.
    listener = getattr(vllm, "output_handler", None)
    assert listener is None or listener.cancelled()
