"""The tiny reader's service as the tests start it: as `make serve-tiny` does, and quicker to notice a hung engine."""

from __future__ import annotations

import json

from tools.tiny_reader.serve import SETTINGS as SERVED

# The model runs in the engine core, as on a GPU. On a CPU vLLM would start one process more, and the two spin while
# they wait for each other, which takes both cores; the contract tests have it so. A class, since "uni" is overruled.
IN_CORE = {"distributed_executor_backend": "vllm.v1.executor.uniproc_executor.UniProcExecutor"}

# Loading imports vLLM in two new processes: 25 s on two free cores, minutes on busy ones.
LOADING_SECONDS = 400
STALL = 15
SETTINGS = SERVED | {
    "DECODE_WORKERS": "1",
    "LOG_FORMAT": "json",
    "ENGINE_STALL_SECONDS": str(STALL),
    "ENGINE_ARGS": json.dumps(json.loads(SERVED["ENGINE_ARGS"]) | IN_CORE),
}
