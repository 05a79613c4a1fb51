"""The processes vLLM starts: found after loading, and ended for certain."""

from __future__ import annotations

import multiprocessing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

# As vLLM names its direct children; workers are children of the engine core.
_NAMES = ("EngineCore", "VllmWorker", "DPCoordinator", "VLLM_DP_Coordinator")

# A killed process is gone when its memory has been given back. That took more than 5 s on two cores that four engines were busy on.
_KILLED_SECONDS = 30


def engine_processes() -> list[psutil.Process]:
    """Return vLLM's processes below this one, the engine core's own children included."""
    children = [child for child in multiprocessing.active_children() if child.name.startswith(_NAMES)]
    if not children:
        return []
    import psutil  # one of vLLM's own dependencies

    found: list[psutil.Process] = []
    for child in children:
        if child.pid is not None:
            try:
                process = psutil.Process(child.pid)
                found += [*process.children(recursive=True), process]
            except psutil.NoSuchProcess:
                continue
    return found


def end_processes(processes: list[psutil.Process], patience: float) -> int:
    """Wait `patience` seconds for processes to end, kill those that do not, and return how many those were."""
    if not processes:
        return 0
    import psutil

    _, alive = psutil.wait_procs(processes, timeout=patience)
    for process in alive:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(alive, timeout=_KILLED_SECONDS)
    return len(alive)
