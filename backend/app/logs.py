"""Logs as events with fields, for people or for machines; uvicorn's and other libraries' included."""

from __future__ import annotations

import logging
import multiprocessing
import sys
from typing import Literal

import structlog


def make_handler(style: Literal["console", "json"]) -> logging.Handler:
    """Return the handler that writes the service's lines to stderr; vLLM's processes use it too."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if style == "json"
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )
    final: list[structlog.typing.Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if style == "json":
        final.append(structlog.processors.format_exc_info)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=_shared(), processors=[*final, renderer])
    )
    return handler


def configure_logs(level: str, style: Literal["console", "json"]) -> None:
    """Send structlog's and the standard library's records to stderr in one format."""
    root = logging.getLogger()
    root.handlers = [make_handler(style)]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).handlers = []
        logging.getLogger(name).propagate = True
    logging.getLogger("uvicorn.access").disabled = True  # our own line has the request id and the code
    structlog.configure(
        processors=[*_shared(), structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def _shared() -> list[structlog.typing.Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        _add_process,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]


def _add_process(
    logger: structlog.typing.WrappedLogger, method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Name the process in the lines of those the service has started."""
    name = multiprocessing.current_process().name
    if name != "MainProcess":
        event["process"] = name
    return event
