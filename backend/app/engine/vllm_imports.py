"""Imports vLLM while the event loop goes on: Python's global lock is never held for long."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

_READ_SECONDS = 120.0


def import_vllm() -> Any:
    """Return `app.vllm_compat`; raises ImportError. Takes seconds, and belongs into a thread.

    Importing makes 600,000 objects. The garbage collector would walk through them seven times meanwhile, with everything
    else at a standstill for up to 0.3 s; so it rests during the import, and leaves these objects alone afterwards.
    """
    if "app.vllm_compat" not in sys.modules:
        _read_libraries()
        collecting = gc.isenabled()
        gc.disable()
        try:
            _import()
            gc.freeze()
        finally:
            if collecting:
                gc.enable()
    return _import()


def register_class() -> None:
    """Register the model's class itself; by its name alone, vLLM would start a process only to look at it (10 s, once)."""
    from app.vllm_compat import ModelRegistry
    from app.vllm_models import ARCHITECTURE
    from app.vllm_models.deepseek_ocr import DeepseekOCRForCausalLM

    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(ARCHITECTURE, DeepseekOCRForCausalLM)


def _import() -> Any:
    import app.vllm_compat
    import app.vllm_models.deepseek_ocr

    return app.vllm_compat


def _read_libraries() -> None:
    """Have another process load PyTorch's libraries, so that they are in memory when this process loads them.

    Loading holds Python's global lock: for 0.2 s out of memory, for many seconds from a disk. What goes wrong here
    goes wrong again, and is said, when PyTorch is imported.
    """
    torch = importlib.util.find_spec("torch")
    if torch is None or torch.origin is None:
        return
    library = Path(torch.origin).with_name("lib") / "libtorch_python.so"
    load = "import ctypes, sys; ctypes.CDLL(sys.argv[1])"
    command = [sys.executable, "-I", "-S", "-c", load, str(library)]
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(command, check=False, stderr=subprocess.DEVNULL, timeout=_READ_SECONDS)  # noqa: S603
