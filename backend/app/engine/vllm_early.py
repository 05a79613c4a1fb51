"""The model, loaded by the process that becomes vLLM's engine core, before vLLM asks it to.

vLLM's core waits for the configuration that the process which serves makes up, when that has imported vLLM too: 1 to 3 s later.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.engine.vllm_ahead import follow_threads
from app.engine.vllm_imports import import_vllm, register_class
from app.engine.vllm_options import VllmOptions, engine_arguments, runner_arguments, several_steps, token_arguments
from app.engine.vllm_text import read_special

log = logging.getLogger(__name__)

# What vLLM's core is told what to load by.
_CONFIG, _EXECUTOR = "vllm_config", "executor_class"


class EarlyModel:
    """A loaded model, with vLLM's configuration and executor; where something went wrong nothing, and vLLM loads it."""

    def __init__(self, options: VllmOptions, folder: Path) -> None:
        self._arguments: Mapping[str, Any] = {}
        self._config: Any = None
        self._executor: Any = None
        try:
            compat = import_vllm()
            if compat.NEEDS_NO_TOKENIZER:
                register_class()
                self._arguments = complete_arguments(compat, options, folder)
                limit_threads()
                follow_threads()
                self._config, self._executor = compat.make_executor(compat.make_engine_args(**self._arguments))
        except Exception:  # process boundary: what is wrong goes wrong again where it is said
            log.info("model_not_loaded_early", exc_info=True)

    def offer(self, kwargs: Mapping[str, Any], arguments: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return the arguments of vLLM's engine core, which takes what has been loaded in the place of what it would load.

        `arguments` are the engine arguments that it is to be loaded by: by others, it is let go.
        """
        if self._executor is None or not {_CONFIG, _EXECUTOR} <= kwargs.keys():
            return dict(kwargs)
        if arguments != self._arguments:
            log.warning("model_loaded_again")
            self._take().shutdown()
            return dict(kwargs)
        return {**kwargs, _CONFIG: self._config, _EXECUTOR: lambda config: self._take()}

    def _take(self) -> Any:
        executor, self._executor, self._config = self._executor, None, None
        return executor


def complete_arguments(compat: Any, options: VllmOptions, folder: Path) -> dict[str, Any]:
    """Return all of vLLM's engine arguments; raises EngineStartError for one that ENGINE_ARGS may not set, or a bad tokenizer."""
    special = read_special(folder)
    arguments = engine_arguments(options, folder)
    arguments |= runner_arguments(options, compat.choose_runner(several_steps(options)))
    if compat.NEEDS_NO_TOKENIZER:
        arguments |= token_arguments(special.image)
    return arguments


def limit_threads() -> None:
    """Have the engine core of a GPU compute on one thread what it computes on the CPU, unless the operator has said how many.

    That is little, such as putting views side by side: on 16 cores, 16 threads of PyTorch waited for each other in
    turns, four cores were busy with it, and pages took twice as long to begin (see docs/performance.md).
    """
    from vllm.platforms import current_platform

    if current_platform.is_cuda():
        os.environ.setdefault("OMP_NUM_THREADS", "1")
