"""Jobs for the worker-process tests: functions that a worker imports and that behave badly on purpose."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

from app.errors import QueueFull

_greeting = ""


def greet_with(greeting: str) -> None:
    """Initializer: remember a word."""
    global _greeting
    _greeting = greeting


def sleep_before_start(seconds: float) -> None:
    """Initializer: take a while."""
    time.sleep(seconds)


def refuse_to_start() -> None:
    """Initializer: raise a ServiceError."""
    raise QueueFull("no room", retry_after=7)


def break_at_start() -> None:
    """Initializer: raise something else."""
    raise KeyError("lost")


def greeting() -> str:
    return _greeting


def echo(value: Any) -> Any:
    return value


def length(value: bytes) -> int:
    return len(value)


def pid() -> int:
    return os.getpid()


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def refuse() -> None:
    raise QueueFull("no room", retry_after=7)


def divide() -> float:
    return 1 / int("0")


def leave(code: int) -> None:
    os._exit(code)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def unpicklable() -> Any:
    return threading.Lock()


def count(most: int, pause: float = 0.0) -> Iterator[int]:
    for number in range(most):
        time.sleep(pause)
        yield number


def count_then_divide(most: int) -> Iterator[float]:
    yield from range(most)
    yield divide()


def count_then_hang(most: int) -> Iterator[int]:
    yield from range(most)
    time.sleep(600)


def hold_the_interpreter(seconds: int) -> None:
    """Sleep in native code without letting any other thread of the interpreter run."""
    ctypes.PyDLL(None).sleep(seconds)
