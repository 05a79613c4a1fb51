"""A process that imports vLLM while this one does, loads the model, and becomes vLLM's engine core.

vLLM starts its engine core when this process has imported it and made up its configuration, and the core then imports the
same again: 8 to 15 s one after the other, of which one half is saved. The GPU is opened meanwhile, which takes 3 s.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import logging
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.engine.vllm_imports import register_class

if TYPE_CHECKING:
    from app.engine.vllm_early import EarlyModel
    from app.engine.vllm_options import VllmOptions

log = logging.getLogger(__name__)

# What an engine core imports until it knows its configuration; the first brings PyTorch.
MODULES = (
    "vllm",
    "app.vllm_compat",
    "app.vllm_models.deepseek_ocr",
    "vllm.v1.engine.core",
    "vllm.v1.worker.gpu_worker",
)
# Engine arguments that have the model run in other processes than the engine core.
_PARALLEL = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "prefill_context_parallel_size")
# In the place of what to run: load the model first.
_LOAD = "load"
# As vLLM calls it, so that whoever looks for vLLM's processes finds it.
_NAME = "EngineCore"
_SPAWN = multiprocessing.get_context("spawn")


class ProcessAhead:
    """A process that imports `modules`, prepares for a core with these engine arguments, and then waits for its work.

    `settled` are all engine arguments, once they are known: what the process has loaded by others is of no use.
    """

    def __init__(self, arguments: Mapping[str, Any] | None = None, modules: Sequence[str] = MODULES) -> None:
        self.settled: Mapping[str, Any] | None = None
        receiver, self._sender = _SPAWN.Pipe(duplex=False)
        self._process: BaseProcess | None = _SPAWN.Process(
            target=_wait, args=(receiver, tuple(modules), arguments), name=_NAME
        )
        self._process.start()
        receiver.close()

    def load(self, options: VllmOptions, folder: Path) -> None:
        """Have the process load the model in `folder`, as soon as it has imported all."""
        if self._process is not None:
            with contextlib.suppress(OSError):  # it has ended: `give` finds out
                self._send(_LOAD, {"options": options, "folder": folder})

    def give(self, target: Callable[..., Any], kwargs: Mapping[str, Any]) -> BaseProcess | None:
        """Have the process run `target(**kwargs)`, once; returns it, or None where it cannot."""
        process, self._process = self._process, None
        if process is None:
            return None
        try:
            # What only a process that is being started can inherit, such as a lock, is refused here.
            self._send(target, kwargs)
        except Exception as error:  # process boundary: what it is to run may be anything
            log.warning("core_started_again reason=%r", error, exc_info=True)
            _end(process)
            return None
        finally:
            self._sender.close()
        return process

    def _send(self, target: Any, kwargs: Mapping[str, Any]) -> None:
        self._sender.send_bytes(ForkingPickler.dumps((dict(os.environ), target, dict(kwargs), self.settled)))

    def end(self) -> None:
        """End the process, unless it has been given work."""
        if self._process is not None:
            self._sender.close()
            _end(self._process)
            self._process = None


@contextlib.contextmanager
def started_ahead(arguments: Mapping[str, Any] | None = None) -> Iterator[ProcessAhead]:
    """Give a process started ahead, and end it where nothing came of it."""
    ahead = ProcessAhead(arguments)
    try:
        yield ahead
    finally:
        ahead.end()


class ContextAhead:
    """A context of multiprocessing whose first process is the one started ahead."""

    def __init__(self, context: Any, ahead: ProcessAhead) -> None:
        self._context = context
        self._ahead = ahead

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def Process(self, *, target: Callable[..., Any], kwargs: Mapping[str, Any], name: str | None = None) -> Any:
        return _StartedLater(self._context, self._ahead, target, kwargs, name)


class _StartedLater:
    """A process as multiprocessing gives it, which is chosen when it is started."""

    def __init__(
        self,
        context: Any,
        ahead: ProcessAhead,
        target: Callable[..., Any],
        kwargs: Mapping[str, Any],
        name: str | None,
    ) -> None:
        self._ahead, self._work = ahead, (target, kwargs)
        self._process: BaseProcess = context.Process(target=target, kwargs=kwargs, name=name)

    def start(self) -> None:
        """Hand the work to the process started ahead, or start one."""
        process = self._ahead.give(*self._work)
        if process is None:
            self._process.start()
        else:
            process.name, self._process = self._process.name, process

    def __getattr__(self, name: str) -> Any:
        return getattr(self._process, name)


def _wait(receiver: Connection, modules: Sequence[str], arguments: Mapping[str, Any] | None) -> None:
    """Import modules and prepare, and do what is asked then; ends when nobody can ask any more."""
    gc.disable()  # it would walk through all that is imported, seven times
    opening: threading.Thread | None = None
    for module in modules:
        # The process that starts this one says what is wrong, and some releases have not all of them.
        with contextlib.suppress(Exception):
            importlib.import_module(module)
        if opening is None and arguments is not None and runs_in_core(arguments):
            opening = threading.Thread(target=_open_gpu)
            opening.start()
    if arguments is not None:
        _prepare(arguments)
    if opening is not None:
        opening.join()
    gc.freeze()
    gc.enable()
    early: EarlyModel | None = None
    while (work := _receive(receiver)) is not None:
        target, kwargs, settled = work
        if target == _LOAD:
            from app.engine.vllm_early import EarlyModel

            early = EarlyModel(**kwargs)
        else:
            receiver.close()
            target(**(early.offer(kwargs, settled) if early is not None else kwargs))
            return


def _receive(receiver: Connection) -> tuple[Any, dict[str, Any], Mapping[str, Any] | None] | None:
    """Return what to do next, in the environment of then; None when nobody can ask any more."""
    try:
        environment, *work = ForkingPickler.loads(receiver.recv_bytes())
    except EOFError:
        return None
    _take_environment(environment)
    follow_threads()
    target, kwargs, settled = work
    return target, kwargs, settled


def follow_threads() -> None:
    """Have PyTorch compute on as many threads as OMP_NUM_THREADS says now; it read that when it was imported."""
    torch, asked = sys.modules.get("torch"), os.environ.get("OMP_NUM_THREADS", "")
    if torch is not None and asked.isdigit():  # there may be one for each level of nesting
        torch.set_num_threads(int(asked))


def runs_in_core(arguments: Mapping[str, Any]) -> bool:
    """Return whether the model runs in the engine core itself, and not in processes of its own."""
    return "distributed_executor_backend" not in arguments and all(arguments.get(name, 1) == 1 for name in _PARALLEL)


def _open_gpu() -> None:
    """Compute something on the GPU, which the first time takes 3 s, most of them without Python's lock."""
    try:
        import torch

        if torch.version.cuda is not None and torch.cuda.is_available():
            square = torch.ones(16, 16, device="cuda")
            torch.mm(square, square)
    except Exception:  # process boundary: what is wrong goes wrong again where it is said
        log.debug("core_not_prepared", exc_info=True)


def _prepare(arguments: Mapping[str, Any]) -> None:
    """Prepare for a core with these engine arguments, without a word: what there is to say is said by the process that asks."""
    try:
        logging.disable()
        try:
            from app.vllm_compat import prepare_core

            register_class()
            prepare_core(arguments)
        finally:
            logging.disable(logging.NOTSET)
    except Exception:  # process boundary: it only saves time, and what is wrong goes wrong again where it is said
        log.debug("core_not_prepared", exc_info=True)


def _take_environment(environment: Mapping[str, str]) -> None:
    """Make `environment` this process's: only what differs, since setproctitle looks for the others where they began."""
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update({name: value for name, value in environment.items() if os.environ.get(name) != value})


def _end(process: BaseProcess) -> None:
    process.kill()
    process.join()
