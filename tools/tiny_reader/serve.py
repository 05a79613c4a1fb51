"""Serve the tiny reader on the CPU: python -m tools.tiny_reader.serve

The environment and `.env` still choose the port and everything else that is not named here.
"""

from __future__ import annotations

import os
from pathlib import Path

from app.cli import main

FOLDER = Path(__file__).resolve().parents[2] / "models" / "tiny-reader"

SETTINGS = {
    "INFERENCE_ENGINE": "vllm_direct",
    "MODEL_PATH": str(FOLDER),
    "MAX_MODEL_LEN": "4096",
    "MAX_NUM_SEQS": "16",
    "ENFORCE_EAGER": "true",
    # In float32 a page reads the same alone and beside others.
    "ENGINE_ARGS": '{"dtype": "float32"}',
    "CUDA_VISIBLE_DEVICES": "",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "HF_HUB_OFFLINE": "1",
}

if __name__ == "__main__":
    os.environ.update(SETTINGS)
    main(["serve"])
