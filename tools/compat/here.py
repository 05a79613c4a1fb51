"""Run the contract tests on this GPU, with the vLLM of this Python: python -m tools.compat.here FILE

For machines that have a GPU and a release's own build for CUDA, with the packages of the service and of the tests
beside it. FILE gets the result; `python -m tools.compat.record docs FILE` adds it to the table as a row of its own.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import torch

from tools.compat.environment import ROOT, Environment
from tools.compat.record import is_green, source_hash
from tools.compat.running import run_contracts

# Float32 as it stands in the contracts: without the ten bits of TF32 in cuBLAS and cuDNN, and in Triton.
EXACT = {"NVIDIA_TF32_OVERRIDE": "0", "TRITON_F32_DEFAULT": "ieee"}


def main(file: Path) -> int:
    device = torch.cuda.get_device_name()
    variables = os.environ | {"CONTRACT_DEVICE": "cuda"} | EXACT
    environment = Environment(Path(sys.prefix), variables).with_sources(ROOT, os.environ.get("PYTHONPATH", ""))
    packages = environment.versions("vllm")
    log = file.with_suffix(".log")
    log.write_text("")
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as work:
        outcome = run_contracts(environment, Path(work), log)
    release = packages.pop("vllm").partition("+")[0]
    result = {
        "torch": packages["torch"],
        "contracts": outcome.contracts,
        "failures": outcome.failures,
        "packages": packages,
        "seconds": {"environment": 0, "contracts": round(time.monotonic() - began)},
        "sources": source_hash(),
        "device": device,
    }
    file.write_text(json.dumps({f"{release} cuda": result}, indent=2) + "\n", "utf-8")
    return 0 if is_green(result) else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
