"""The model loaded before vLLM asks for it, in a process as the engine core's is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.vllm

LOADS = """
import sys
from pathlib import Path

from app.engine.vllm_early import EarlyModel
from app.engine.vllm_options import VllmOptions

if __name__ == "__main__":
    folder, dtype = Path(sys.argv[1]), sys.argv[2]
    options = VllmOptions(str(folder), max_model_len=1024, max_num_seqs=2, engine_args={"dtype": dtype})
    model, asked = EarlyModel(options, folder), []

    def make(config):
        asked.append(config)

    def core(vllm_config, executor_class, log_stats):
        executor = executor_class(vllm_config)
        print(type(executor).__name__, vllm_config.model_config.model == str(folder) if vllm_config else None, len(asked), log_stats)
        if executor is not None:
            executor.shutdown()

    arguments = model._arguments if sys.argv[3] == "same" else {}
    core(**model.offer({"vllm_config": None, "executor_class": make, "log_stats": True}, arguments))
    print(model.offer({"other": 1}, arguments))
"""


def load(folder: Path, tmp_path: Path, dtype: str = "float32", settled: str = "same") -> list[str]:
    script = tmp_path / "loads.py"
    script.write_text(LOADS)
    ended = subprocess.run(
        [sys.executable, script, folder, dtype, settled], capture_output=True, text=True, timeout=200, env=os.environ
    )
    assert ended.returncode == 0, ended.stderr
    return [line for line in ended.stdout.splitlines() if line.startswith(("Uni", "Multi", "None", "{"))]


def test_vllm_s_core_takes_the_model_that_is_loaded(
    small_checkpoint: Path, vllm_environment: dict[str, str], tmp_path: Path
) -> None:
    from app import vllm_compat

    if not vllm_compat.NEEDS_NO_TOKENIZER:
        pytest.skip("this release loads its model when it is asked to")
    taken, left = load(small_checkpoint, tmp_path)
    executor, same, made, stats = taken.split()
    assert executor in ("UniProcExecutor", "MultiprocExecutor")
    assert (same, made, stats, left) == ("True", "0", "True", "{'other': 1}")


def test_what_cannot_be_loaded_is_left_to_vllm_s_core(
    small_checkpoint: Path, vllm_environment: dict[str, str], tmp_path: Path
) -> None:
    assert load(small_checkpoint, tmp_path, dtype="no_such_type") == ["NoneType None 1 True", "{'other': 1}"]


def test_what_was_loaded_by_other_arguments_is_let_go(
    small_checkpoint: Path, vllm_environment: dict[str, str], tmp_path: Path
) -> None:
    assert load(small_checkpoint, tmp_path, settled="other") == ["NoneType None 1 True", "{'other': 1}"]
