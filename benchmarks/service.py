"""The service as a process of its own, as a person starts it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

BACKEND = Path(__file__).resolve().parent.parent / "backend"
SERVE = (sys.executable, "-m", "app", "serve")
_STOP_SECONDS = 30.0


@dataclass
class Served:
    """A running service: its address, its process, and where its log goes."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path


@contextlib.contextmanager
def served(
    log: Path,
    ready_timeout: float = 60.0,
    command: Sequence[str] = SERVE,
    ready: str = "/readyz",
    **settings: object,
) -> Iterator[Served]:
    """Start `command`, which serves, on a free port, wait until `ready` is answered with 200, and stop it with SIGTERM.

    The port is API_PORT, and stands where the command says "{port}". `settings` are environment variables, the service's settings first of all, by their names in any case. Raises
    RuntimeError, with the log, when it does not become ready within `ready_timeout` seconds, or does not end.
    """
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/tmp"),
        "PYTHONPATH": str(BACKEND),
        "API_HOST": "127.0.0.1",
        "API_PORT": str(port),
        "PYTHONFAULTHANDLER": "1",
        **{name.upper(): str(value) for name, value in settings.items()},
    }
    with log.open("wb") as sink:
        # Another folder than the project's, so that no `.env` of the developer's is read.
        words = [word.replace("{port}", str(port)) for word in command]
        process = subprocess.Popen(words, cwd=log.parent, env=environment, stdout=sink, stderr=sink)
        try:
            service = Served(f"http://127.0.0.1:{port}", process, log)
            _wait_ready(service, ready, ready_timeout)
            yield service
        finally:
            process.terminate()
            try:
                process.wait(timeout=_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                children = psutil.Process(process.pid).children(recursive=True)
                process.send_signal(signal.SIGABRT)  # has it write down what each of its threads was doing
                process.wait()
                for child in children:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        child.kill()
                raise RuntimeError(f"the service did not end within {_STOP_SECONDS:g} s:\n{log.read_text()}") from None


def _wait_ready(service: Served, path: str, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if service.process.poll() is not None:
            raise RuntimeError(f"the service ended at once:\n{service.log.read_text()}")
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{service.url}{path}", timeout=5, trust_env=False).status_code == 200:
                return
        time.sleep(0.05)
    raise RuntimeError(f"the service was not ready within {timeout} s:\n{service.log.read_text()}")
