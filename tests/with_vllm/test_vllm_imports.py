"""Importing vLLM into the service: without standstills, and without a slow end."""

from __future__ import annotations

import subprocess
import sys

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
