"""An engine that would not keep the no-repeat n-gram rule does not start."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from app.engine import vllm_options
from app.engine.base import EngineState
from app.engine.vllm_direct import VllmDirectEngine
from app.engine.vllm_loading import load_engine, vllm_version
from app.engine.vllm_options import VllmOptions
from app.errors import EngineStartError
from app.ocr.modes import MODES
from tests.with_vllm.tiny_service import IN_CORE
from tools.tiny_reader.serve import FOLDER

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

OPTIONS = VllmOptions(
    model_path=str(FOLDER),
    max_model_len=4096,
    max_num_seqs=2,
    enforce_eager=True,
    engine_args={"dtype": "float32"} | IN_CORE,
)


async def test_an_engine_whose_runner_bans_nothing_is_refused_after_its_first_page(
    vllm_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A processor that does nothing stands for one that the runner left out."""
    monkeypatch.setattr(vllm_options, "NGRAM_PROCESSOR", "tests.with_vllm.idle_rule:IdleRule")
    engine = VllmDirectEngine(OPTIONS, frozenset(MODES))
    try:
        with pytest.raises(EngineStartError) as caught:
            await engine.start()
        assert caught.value.detail == (
            "vLLM started, but its model runner does not keep the no-repeat n-gram rule; install a release from "
            "0.10.2 to 0.33, and leave VLLM_USE_V2_MODEL_RUNNER unset."
        )
        assert engine.health().state is EngineState.FAILED
    finally:
        await engine.stop()


def test_the_choice_of_model_runner_v1_is_logged_when_the_engine_is_loaded(
    vllm_environment: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """With its reason, before anything heavy: this loading is given up at once."""
    from app.vllm_compat import RUNNER_V2_NAMES

    given_up = threading.Event()
    given_up.set()
    with caplog.at_level("INFO"), pytest.raises(EngineStartError, match="was stopped while it was loading"):
        load_engine(OPTIONS, given_up)
    assert (
        f"vllm_choice version={vllm_version()} what='model runner V1' why='V2 decodes several steps at once, from "
        f"graphs on one NVIDIA GPU, with vLLM {RUNNER_V2_NAMES}'"
    ) in caplog.messages


def test_a_runner_that_cannot_keep_the_rule_is_refused_before_anything_is_loaded(
    vllm_environment: dict[str, str],
) -> None:
    """In a process of its own, as vLLM reads the variable once."""
    from app.vllm_compat import RUNNER_V2_NAMES

    code = (
        "import asyncio\nfrom app.engine.vllm_direct import VllmDirectEngine\nfrom app.errors import EngineStartError\n"
        f"from app.engine.vllm_options import VllmOptions\noptions = VllmOptions(model_path={str(FOLDER)!r})\n"
        "try:\n    asyncio.run(VllmDirectEngine(options, frozenset()).start())\n"
        "except EngineStartError as error:\n    print(error.detail)\n"
    )
    environment = os.environ | {"VLLM_USE_V2_MODEL_RUNNER": "1", "VLLM_USE_V1": "0"}
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1].endswith(
        "would drop the no-repeat n-gram rule; unset it: the rule works on releases from 0.10.2 to 0.33 in engine V1 "
        f"with model runner V1, and with model runner V2 on NVIDIA GPUs with {RUNNER_V2_NAMES}."
    )
