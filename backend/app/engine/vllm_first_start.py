"""Processes that compile the encoder's blocks while vLLM is imported, where the first start of all would do it later, one by one.

A file beside what PyTorch's compiler keeps says that such a start went through.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import multiprocessing
import os
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import app.vllm_models
from app.cores import usable_cores

log = logging.getLogger(__name__)

# As many as there are kinds of blocks. The service and the engine core import vLLM meanwhile.
_MOST, _BUSY_ELSEWHERE = 5, 3
_PATIENCE_SECONDS, _LOOK_SECONDS = 120.0, 0.1
_SPAWN = multiprocessing.get_context("spawn")


class FirstStart:
    """The compiling processes of one start, if it is the first."""

    def __init__(self, config: Mapping[str, Any], arguments: Mapping[str, Any], processes: int) -> None:
        """Start so many for a model's config.json and vLLM's engine arguments; none where such a start went through before."""
        work = (config, arguments.get("mm_processor_kwargs") or {}, _dtype(config, arguments))
        self._marker = _folder() / f"started-{_key(work)}"
        self._began = time.monotonic()
        count = 0 if self._marker.exists() else processes
        self._parts = [_Part(number, count, *work) for number in range(count)]

    @property
    def compiles(self) -> bool:
        """Whether it is the first start, and they were started."""
        return bool(self._parts)

    def wait(self, given_up: threading.Event) -> None:
        """Wait until all is compiled, or all is given up: their memory on the GPU would count as the engine's."""
        while any(part.works() for part in self._parts):
            if given_up.is_set() or time.monotonic() > self._began + _PATIENCE_SECONDS:
                break
            time.sleep(_LOOK_SECONDS)
        for part in self._parts:
            part.end()
        if self._parts:
            failed = [part.failure for part in self._parts if part.failure]
            seconds = time.monotonic() - self._began
            log.info("compiled_ahead processes=%d failed=%d seconds=%.1f", len(self._parts), len(failed), seconds)
            for failure in failed:
                log.info("not_compiled_ahead reason=%r", failure)

    def succeeded(self) -> None:
        """Have the next start know that all is compiled."""
        if self._parts:
            with contextlib.suppress(OSError):  # it will do all this again, and find what it compiles
                self._marker.parent.mkdir(parents=True, exist_ok=True)
                self._marker.touch()

    def close(self) -> None:
        """End those that still compile."""
        for part in self._parts:
            part.end()


def spare_processes() -> int:
    """Return how many processes may compile here: none where the service and the engine core have the cores for themselves."""
    spare = min(_MOST, usable_cores() - _BUSY_ELSEWHERE)
    return spare if spare > 1 else 0


class _Part:
    """One of the processes; `failure` is what went wrong with it, "" for nothing."""

    def __init__(self, *work: Any) -> None:
        self.failure = "it was ended before it was done"
        self._receiver, sender = _SPAWN.Pipe(duplex=False)
        self._process = _SPAWN.Process(target=_compile, args=(sender, *work), name="Compiler", daemon=True)
        self._process.start()
        sender.close()

    def works(self) -> bool:
        """Return whether it still does; once it does not, `failure` says how it ended."""
        if self._process.is_alive() and not self._receiver.poll():
            return True
        with contextlib.suppress(EOFError, OSError):  # it died; or it was asked before
            self.failure = self._receiver.recv()
        self.end()
        return False

    def end(self) -> None:
        """Kill it, and wait until its memory is free; again for nothing."""
        self._receiver.close()
        self._process.kill()
        self._process.join()


def _compile(sender: Connection, *work: Any) -> None:
    # What PyTorch and vLLM have to say when they are imported, the service's own process says.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    logging.disable()
    try:
        from app.vllm_models.compile_ahead import compile_part

        compile_part(*work)
    except Exception:  # noqa: BLE001 - process boundary: the engine core compiles it then
        sender.send(traceback.format_exc())
    else:
        sender.send("")


def _dtype(config: Mapping[str, Any], arguments: Mapping[str, Any]) -> str:
    asked = str(arguments.get("dtype", "auto"))
    # transformers 5 calls it dtype.
    return str(config.get("torch_dtype") or config.get("dtype") or "bfloat16") if asked == "auto" else asked


def _folder() -> Path:
    """Return the folder in which PyTorch's compiler keeps its files, or one as temporary."""
    return Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR") or Path(tempfile.gettempdir(), f"deepseek-ocr-{os.getuid()}"))


def _key(work: Any) -> str:
    """Return what is another wherever something else would have to be compiled, as far as it shows without PyTorch."""
    versions = []
    for name in ("vllm", "torch", "triton"):
        with contextlib.suppress(PackageNotFoundError):
            versions.append((name, version(name)))
    total = hashlib.sha256(json.dumps([versions, work], sort_keys=True).encode())
    for source in sorted(Path(app.vllm_models.__path__[0]).glob("*.py")):
        total.update(source.read_bytes())
    return total.hexdigest()[:32]
