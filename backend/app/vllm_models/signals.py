"""Signals that end a process, heard again after a library has put its own handlers in the place of Python's.

NVRTC does, and gives Python's back with SA_RESTART, by which a main thread that waits never comes to call a handler written
in Python (seen with cuDNN 9.19, which compiles convolutions by NVRTC, and NVRTC 13; vLLM's engine core waits like that).
"""

from __future__ import annotations

import signal
import threading


def hear_again() -> None:
    """Put Python's handlers of SIGTERM and SIGINT back as Python itself does, 20 us; in another thread than the main one nothing."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGTERM, signal.SIGINT):
        handler = signal.getsignal(number)
        if callable(handler):  # written in Python
            signal.signal(number, handler)
