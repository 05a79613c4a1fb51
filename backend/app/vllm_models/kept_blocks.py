"""The encoder's blocks compiled to functions that are kept on disk: a start loads them, where it would trace each kind again.

What PyTorch's compiler makes it keeps by itself, but it traces a module to find that: 0.6 to 1.4 s for each of five kinds of
blocks on one H200's processor, of which 0.1 s are its loading (PyTorch 2.14).

`torch.compile(...).aot_compile` is experimental in PyTorch: whatever goes wrong here is raised, and the caller compiles as before.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch._dynamo
import torch._inductor.config
from torch import Tensor, nn
from torch._inductor.runtime.runtime_utils import cache_dir
from torch.torch_version import TorchVersion

from app.vllm_models import deepencoder

logger = logging.getLogger(__name__)

Step = Callable[..., Tensor]
# What the compiled code is made from.
_SOURCES = (Path(__file__), Path(deepencoder.__file__), Path(__file__).with_name("relative_attention.py"))


@dataclass(frozen=True)
class Example:
    """A block of a kind, and inputs as it will get them, of two views; `dynamic` are the dimensions of the first input that vary."""

    block: nn.Module
    hidden: Tensor
    others: tuple[int, ...] = ()
    dynamic: tuple[int, ...] = (0,)

    def on(self, device: torch.device) -> Example:
        """Return the same on another device, with weights of any value."""
        hidden = torch.zeros_like(self.hidden, device=device)
        return replace(self, block=self.block.to_empty(device=device), hidden=hidden)


def can_keep() -> bool:
    """Return whether this PyTorch can: 2.10 has what loads them too, but makes a case of its own of a lone view."""
    return TorchVersion(torch.__version__) >= "2.11"


def keep_blocks(blocks: Sequence[nn.Module], examples: Sequence[Example]) -> None:
    """Have `blocks` called as compiled for the kinds of `examples`, from disk where they are there; raises what PyTorch raises."""
    steps = {_kind(example.block, example.others): keep_block(example) for example in examples}

    def call(block: nn.Module, hidden: Tensor, *others: int) -> Tensor:
        return steps[_kind(block, others)](block, hidden, *others)

    for block in blocks:
        block._compiled_call_impl = partial(call, block)  # where `block.compile` puts what it makes


def _kind(block: nn.Module, others: tuple[int, ...]) -> tuple[Any, ...]:
    """Return what tells compiled blocks apart: class, window and side, not weights."""
    return type(block).__name__, getattr(block, "window", None), *others


def keep_block(example: Example) -> Step:
    """Return the compiled form of an example's block, from disk where it is there, where it is afterwards; raises what PyTorch raises."""
    file = Path(cache_dir(), "deepencoder", f"{_key(example)}.bin")
    if file.is_file():
        try:
            with file.open("rb") as kept:
                return _tried(torch.compiler.load_compiled_function(kept), example)
        except Exception:  # process boundary: a file of another hand, or of an end amid writing
            logger.info("kept_block_refused file=%s", file, exc_info=True)
    step = _compile(example)
    with contextlib.suppress(OSError):  # the next start compiles again
        file.parent.mkdir(parents=True, exist_ok=True)
        new = file.with_suffix(f".{os.getpid()}")
        step.save_compiled_function(str(new))
        new.replace(file)
    return _tried(step, example)


def _compile(example: Example) -> Any:
    hidden = example.hidden.clone()
    torch._dynamo.mark_dynamic(hidden, example.dynamic)
    # Blocks of a kind are alike, and what they are called with is checked by its sizes alone.
    options = {"guard_filter_fn": lambda guards: [guard.guard_type == "SHAPE_ENV" for guard in guards]}
    with _kept_on_request():
        compiled: Any = torch.compile(_run, fullgraph=True, dynamic=False, options=options)
        return compiled.aot_compile(((example.block, hidden, *example.others), {}))


def _kept_on_request() -> AbstractContextManager[None]:
    """Have PyTorch hand out what it compiles, which it does only on request up to 2.11, and by itself in 2.13."""
    asked = hasattr(torch._dynamo.config, "enable_aot_compile")
    return torch._dynamo.config.patch(enable_aot_compile=True) if asked else contextlib.nullcontext()


def _run(block: nn.Module, hidden: Tensor, *others: int) -> Tensor:
    result: Tensor = type(block).forward(block, hidden, *others)
    return result


def _tried(step: Step, example: Example) -> Step:
    """Return the function, called once with two views and with one, so that what does not fit shows here."""
    for hidden in (example.hidden, example.hidden[: len(example.hidden) // 2]):
        step(example.block, hidden, *example.others)
    return step


def _key(example: Example) -> str:
    hidden = example.hidden
    shapes = [(name, tuple(parameter.shape)) for name, parameter in example.block.named_parameters()]
    facts = (
        *(torch.__version__, torch.version.cuda, *_device(hidden), torch.backends.cuda.matmul.allow_tf32),
        *(_kind(example.block, example.others), hidden.dtype, hidden.shape, example.dynamic, shapes),
        sorted(torch._inductor.config.save_config_portable().items()),
    )
    total = hashlib.sha256(repr(facts).encode())
    for source in _SOURCES:
        total.update(source.read_bytes())
    return total.hexdigest()[:32]


def _device(tensor: Tensor) -> tuple[Any, ...]:
    """Return what code is compiled for: the kind of GPU, not the one of its kind, and the Triton that compiles for it."""
    if not tensor.is_cuda:
        return ("cpu",)
    gpu = torch.cuda.get_device_properties(tensor.device)
    return gpu.name, gpu.major, gpu.minor, gpu.multi_processor_count, version("triton")
