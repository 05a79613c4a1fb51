"""Render the page in the language of the person who looks at it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

HERE = Path(__file__).parent
STATIC = HERE / "static"
LANGUAGES = {"en": "English", "zh": "中文"}

# No script, style, picture or connection but our own; blob: is the picture that the person chose, shown before it is
# sent; data: are figures cut out of it.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
SECURITY_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


@dataclass(frozen=True)
class View:
    """What the page says about the service: `modes` and `resolutions` are the names it offers, the first chosen.

    An engine that takes no prompts has no `resolutions` to choose from either. `documents` says whether the service takes
    whole documents.
    """

    engine: str
    model: str
    version: str
    notice: str | None
    modes: tuple[str, ...]
    resolutions: tuple[str, ...]
    keys_needed: bool
    documents: bool


def wants_html(headers: Headers) -> bool:
    """Say whether a browser asks: it names text/html, which programs do not."""
    accepted = [part.partition(";")[0].strip().lower() for part in headers.get("accept", "").split(",")]
    return "text/html" in accepted and "application/json" not in accepted


def choose_language(asked: str | None, accept_language: str) -> str:
    """Return the language asked for, else the first of the browser's that there is, else English."""
    if asked in LANGUAGES:
        return asked
    wanted = [part.partition(";")[0].strip().lower()[:2] for part in accept_language.split(",")]
    return next((language for language in wanted if language in LANGUAGES), "en")


def render_page(view: View, language: str) -> str:
    """Return the page's HTML."""
    return _template().render(view=view, language=language, languages=LANGUAGES, t=load_texts(language))


class OwnFiles(StaticFiles):
    """The page's scripts and styles, with its security headers; a browser asks each time whether they have changed."""

    def file_response(self, *args: Any, **options: Any) -> Response:
        """Return Starlette's answer with our headers."""
        response = super().file_response(*args, **options)
        response.headers.update(SECURITY_HEADERS | {"Cache-Control": "no-cache"})
        return response


@lru_cache(maxsize=len(LANGUAGES))
def load_texts(language: str) -> dict[str, Any]:
    """Return every sentence of the page in a language, by its name."""
    texts: dict[str, Any] = json.loads((HERE / "texts" / f"{language}.json").read_text("utf-8"))
    return texts


@lru_cache(maxsize=1)
def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(HERE / "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html")
