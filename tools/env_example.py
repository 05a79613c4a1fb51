"""Print .env.example: each setting with its default, documented by its own docstring in app/settings.py."""

from __future__ import annotations

import sys
import textwrap
from typing import Literal, get_args, get_origin

from app.settings import Settings

HEADER = """\
Copy this file to .env and uncomment what you change. Variables of the environment win over .env. Written by
`make env-example` from backend/app/settings.py."""

# Read by docker compose alone, in docker-compose.yml.
COMPOSE = (
    (
        "MEMORY_LIMIT",
        "",
        "docker compose: most memory a container may use. Default: 50g for backend-direct, 8g for cpu.",
    ),
    (
        "STOP_GRACE_PERIOD",
        "130s",
        "docker compose: time to stop before the container is killed. Keep it above SHUTDOWN_TIMEOUT_SECONDS.",
    ),
    (
        "BASE_IMAGE",
        "",
        "docker compose, build: base image in place of the Dockerfile's, for example from a registry of yours.",
    ),
    (
        "MODELS_DIR",
        "models",
        "docker compose: where backend-direct keeps models: a volume, or a folder of the host that user 10001 may write.",
    ),
    (
        "GPU_DOCKERFILE",
        "Dockerfile.vllm-direct",
        "docker compose, build: how backend-direct is built; Dockerfile.vllm installs vLLM on a CUDA base.",
    ),
    ("VLLM_VERSION", "", "docker compose, build: the release of vLLM that Dockerfile.vllm installs."),
    ("PIP_INDEX_URL", "", "docker compose, build: package index in place of PyPI, for example a mirror."),
)


def render() -> str:
    """Return the text of .env.example."""
    blocks = [_comment(HEADER)]
    for name, field in Settings.model_fields.items():
        sentences = field.description or ""
        if get_origin(field.annotation) is Literal:
            sentences += f" One of: {', '.join(get_args(field.annotation))}."
        blocks.append(f"{_comment(sentences)}\n#{name.upper()}={_value(field.default)}")
    blocks += [f"{_comment(text)}\n#{name}={default}" for name, default, text in COMPOSE]
    return "\n\n".join(blocks) + "\n"


def _comment(text: str) -> str:
    lines = textwrap.wrap(" ".join(text.split()), width=108, break_long_words=False, break_on_hyphens=False)
    return "\n".join(f"# {line}" for line in lines)


def _value(default: object) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return ",".join(default)
    return str(default)


if __name__ == "__main__":
    sys.stdout.write(render())
