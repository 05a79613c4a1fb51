"""The small checkpoint and the plugin, for tests that run vLLM; without vLLM those are skipped with the reason."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process import Served, served
from tests.with_vllm.tiny_service import LOADING_SECONDS, SETTINGS

BACKEND = Path(__file__).parents[2] / "backend"
HAS_VLLM = importlib.util.find_spec("vllm") is not None
# What `python -m tools.compat.here` chooses between.
ENVIRONMENTS = {
    "cpu": {"CUDA_VISIBLE_DEVICES": "", "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    "cuda": {"HF_HUB_OFFLINE": "1"},
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("vllm"):
            # vLLM and what it imports warn of their own affairs.
            item.add_marker(pytest.mark.filterwarnings("default"))
            if not HAS_VLLM:
                item.add_marker(pytest.mark.skip(reason="vLLM is not installed"))


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A seeded random DeepSeek-OCR of a few MB: the whole model folder."""
    from tools.random_checkpoint import write_checkpoint

    folder = tmp_path_factory.mktemp("checkpoint") / "small"
    write_checkpoint(folder, "small", seed=0)
    return folder


@pytest.fixture(scope="session")
def vllm_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Let this process and its children run vLLM, on the CPU unless told otherwise, and find our plugin, installed or not."""
    site = tmp_path_factory.mktemp("site")
    info = site / "deepseek_ocr_service_under_test-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: deepseek-ocr-service-under-test\nVersion: 0\n")
    (info / "entry_points.txt").write_text("[vllm.general_plugins]\ndeepseek_ocr = app.vllm_models:register\n")
    paths = [str(site), str(BACKEND), str(BACKEND.parent)]
    inherited = [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
    variables = ENVIRONMENTS[os.environ.get("CONTRACT_DEVICE", "cpu")] | {
        "PYTHONPATH": os.pathsep.join([*paths, *inherited])
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        patch.setattr(sys, "path", [*paths, *sys.path])
        yield variables


@pytest.fixture(scope="session")
def tiny_service(vllm_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A service with the tiny reader in vLLM.

    Two modules share it, since it takes long to load. The last of them, test_vllm_service.py, breaks and stops it.
    """
    log = tmp_path_factory.mktemp("service") / "log"
    with served(log, ready_timeout=LOADING_SECONDS, **(vllm_environment | SETTINGS)) as running:
        yield running
