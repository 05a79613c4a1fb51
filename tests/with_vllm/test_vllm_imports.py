"""Importing vLLM into the service: without standstills, and without a slow end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

SCRIPT = """
import gc
whole_heap = []
gc.callbacks.append(lambda phase, info: whole_heap.append(info) if info["generation"] == 2 else None)
from app.engine.vllm_imports import import_vllm
compat = import_vllm()
assert compat.ModelRegistry and gc.isenabled()
print("collections", len(whole_heap))
print("left alone", gc.get_freeze_count() > 300_000)
assert import_vllm() is compat

class Loop:
    def __init__(self):
        self.itself = self
    def __del__(self):
        print("looked for at the end")

from app.vllm_models import register
register()
Loop()
"""


def test_the_garbage_collector_does_not_walk_the_heap_while_vllm_is_imported_nor_at_the_end(
    vllm_environment: dict[str, str],
):
    """Each walk is 0.05 to 0.3 s in which /livez is not answered, or 2 s that the end of a process takes longer."""
    result = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == ["collections 0", "left alone True"]


def test_a_core_started_ahead_has_read_the_tokenizer(small_checkpoint: Path, vllm_environment: dict[str, str]) -> None:
    registry = pytest.importorskip("vllm.tokenizers.registry", reason="this vLLM has no such cache")
    from app import vllm_compat
    from app.engine.vllm_ahead import _prepare
    from app.engine.vllm_options import VllmOptions, engine_arguments

    arguments = engine_arguments(VllmOptions(max_model_len=160, max_num_seqs=6), small_checkpoint)
    _prepare(arguments)
    read = registry.cached_get_tokenizer.cache_info().misses
    config = vllm_compat.make_engine_args(**arguments).create_engine_config()
    registry.cached_tokenizer_from_config(config.model_config)
    assert registry.cached_get_tokenizer.cache_info().misses == read
    _prepare({"model": str(small_checkpoint.parent)})  # what goes wrong here goes wrong again, and is said then
