"""The tiny reader's service as the tests start it: as `make serve-tiny` does, and quicker to notice a hung engine."""

from __future__ import annotations

from tools.tiny_reader.serve import SETTINGS as SERVED

# Loading imports vLLM in two new processes: 25 s on two free cores, minutes on busy ones.
LOADING_SECONDS = 400
STALL = 15
SETTINGS = SERVED | {"DECODE_WORKERS": "1", "LOG_FORMAT": "json", "ENGINE_STALL_SECONDS": str(STALL)}
