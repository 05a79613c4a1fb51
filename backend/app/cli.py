"""The command line: `deepseek-ocr serve`, `read`, `doctor`, `api-key`, `openapi`."""

from __future__ import annotations

import argparse
import errno
import json
import os
import secrets
import signal
import socket
import sys
from typing import TYPE_CHECKING

from pydantic import ValidationError

from app import __version__
from app.batch.arguments import add_arguments
from app.settings import Settings

if TYPE_CHECKING:
    from app.jobs.documents import Documents


def main(arguments: list[str] | None = None) -> None:
    """Run one command; exits with 2 and a sentence when the settings are wrong."""
    parser = argparse.ArgumentParser(prog="deepseek-ocr", description="Document OCR over HTTP.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve", help="serve the API (settings from the environment and .env)")
    add_arguments(commands.add_parser("read", help="read files and folders, here or through a running service"))
    commands.add_parser("api-key", help="print a new API key and the hash to put into API_KEY_HASHES")
    commands.add_parser("openapi", help="print the OpenAPI description of the API as JSON")
    doctor = commands.add_parser("doctor", help="say which engine would run here, on what, and why not")
    doctor.add_argument("--json", action="store_true", help="print JSON for programs")
    parsed = parser.parse_args(arguments)
    if parsed.command == "doctor":
        raise SystemExit(diagnose(as_json=parsed.json))
    if parsed.command == "read":
        from app.batch.command import read

        raise SystemExit(read(parsed, _settings()))
    run = {"serve": serve, "api-key": make_api_key, "openapi": print_openapi}
    run[parsed.command]()


def serve() -> None:
    """Serve until SIGTERM or SIGINT, then finish what was accepted."""
    # uvicorn raises the signal again once it has shut down in order: an orderly end is exit code 0.
    signal.signal(signal.SIGTERM, _exit)
    signal.signal(signal.SIGINT, _exit)
    settings = _settings()
    listener = _listen(settings.api_host, settings.api_port)
    # From here on connections queue in the kernel. The imports below take a second, which need not be lost to the engine.
    from app.engine.base import EarlyEngine
    from app.engines import build_engine

    engine = build_engine(settings)
    if isinstance(engine, EarlyEngine):
        engine.begin()
    import structlog
    import uvicorn

    from app.logs import configure_logs
    from app.main import KEEP_ALIVE_SECONDS, create_app

    configure_logs(settings.log_level, settings.log_format)
    app = create_app(settings, engine)
    _prepare_documents(app.state.documents)
    host = "localhost" if settings.api_host in ("0.0.0.0", "::") else settings.api_host
    structlog.get_logger().info("listening", url=f"http://{host}:{listener.getsockname()[1]}")
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=settings.shutdown_timeout_seconds,
    )
    server = uvicorn.Server(config)
    app.state.stopping = lambda: server.should_exit
    server.run(sockets=[listener])


def diagnose(as_json: bool) -> int:
    """Print what was found, and return the exit code: 0 where the engine would run, else 1."""
    settings = _settings()
    from app.doctor import examine, render
    from app.engines import choose_engine, vllm_options

    report = examine(settings.inference_engine, choose_engine(settings), vllm_options(settings))
    text = json.dumps(report.as_dict(), indent=2, ensure_ascii=False) + "\n" if as_json else render(report)
    sys.stdout.write(text)
    return 1 if report.problems else 0


def make_api_key() -> None:
    """Print a new key once, and its hash."""
    from app.api.gate import hash_api_key

    key = secrets.token_urlsafe(32)
    sys.stdout.write(f"key (give it to the client, it is stored nowhere): {key}\n")
    sys.stdout.write(f"hash (put it into API_KEY_HASHES): {hash_api_key(key)}\n")


def print_openapi() -> None:
    """Print the OpenAPI description, the same for every engine."""
    from app.main import create_app

    schema = create_app(Settings(inference_engine="fake")).openapi()
    sys.stdout.write(json.dumps(schema, indent=2, ensure_ascii=False, sort_keys=True) + "\n")


def _prepare_documents(documents: Documents | None) -> None:
    from app.errors import DatabaseUnavailable

    try:
        if documents is not None:
            documents.prepare()
    except DatabaseUnavailable as error:
        sys.stderr.write(f"deepseek-ocr: {error.detail}\n")
        raise SystemExit(2) from None


def _exit(signum: int, frame: object) -> None:
    raise SystemExit(0)


def _settings() -> Settings:
    try:
        return Settings()
    except ValidationError as error:
        for fault in error.errors():
            name = f"setting {str(fault['loc'][0]).upper()}" if fault["loc"] else "settings"
            sys.stderr.write(f"deepseek-ocr: {name}: {fault['msg'].removeprefix('Value error, ')}\n")
        raise SystemExit(2) from None
    except UnicodeDecodeError:
        sys.stderr.write("deepseek-ocr: the file .env is not UTF-8 text. Save it as UTF-8.\n")
        raise SystemExit(2) from None


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        number = error.errno or 0  # not one of errno's when the name was not found
        reason = os.strerror(number) if number in errno.errorcode else "No such address"
        of_port = number in (errno.EADDRINUSE, errno.EACCES)
        remedy = "API_PORT to another port" if of_port else "API_HOST to an address of this machine"
        sys.stderr.write(f"deepseek-ocr: cannot listen on {host} port {port}: {reason}. Set {remedy}.\n")
        raise SystemExit(2) from None
