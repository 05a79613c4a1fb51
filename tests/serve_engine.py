"""The service with an engine that no setting chooses, as a process: `python -m tests.serve_engine MODULE CLASS [JSON]`.

JSON holds the arguments of the class. Settings and logs are those of `deepseek-ocr serve`.
"""

from __future__ import annotations

import importlib
import json
import sys

import uvicorn

from app.logs import configure_logs
from app.main import create_app
from app.settings import Settings


def main(module: str, name: str, arguments: str = "{}") -> None:
    """Serve until SIGTERM."""
    engine = getattr(importlib.import_module(module), name)(**json.loads(arguments))
    settings = Settings(_env_file=None)
    configure_logs(settings.log_level, settings.log_format)
    app = create_app(settings, engine)
    uvicorn.run(app, host=settings.api_host, port=settings.api_port, log_config=None, access_log=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
