"""The form of `POST /api/ocr`: fields, defaults and how they become options.

What makes the options is a coroutine throughout: FastAPI sends each plain function to a thread of its own and back.
"""

from __future__ import annotations

import codecs
import contextlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any

import structlog
from fastapi import Depends, Form, Query, Request, Response, UploadFile
from fastapi.routing import APIRoute
from pydantic import AfterValidator
from pydantic_core import PydanticCustomError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException

from app.api.spool import SpoolingParser
from app.errors import InvalidParameter, MalformedRequest, StorageFull, UnsupportedMediaType
from app.ingest.choice import DEFAULT_DPI, HIGHEST_DPI, LOWEST_DPI, PageChoice
from app.ocr.modes import DEFAULT_FIND_TERM, DEFAULT_SCHEMA, find_mode
from app.ocr.resolution import resolve_resolution
from app.ocr.service import RecogniseOptions
from app.results.document import Options
from app.settings import Settings

log = structlog.get_logger()

LONGEST_PROMPT = 20_000
LONGEST_TERM = 500
LONGEST_PASSWORD = 500
MOST_TOKENS = 1_000_000
LONGEST_RANGES = 5_000
LONGEST_URL = 2_000
LONGEST_NAME = 255
MOST_PRIORITY = 100

# BCP 47, as far as its shape goes.
_LANGUAGE = r"^([A-Za-z]{2,8}(-[A-Za-z0-9]{1,8}){0,5})?$"

# Starlette keeps each file's first megabyte and each text field whole in memory, and takes a thousand of both.
MOST_FILES, MOST_FIELDS = 8, 64

# Python has codecs that take quadratic time, or make characters no answer can be written with.
_CHARSETS = frozenset({"utf-8", "ascii", "iso8859-1"})


def _no_nul(value: str) -> str:
    if "\x00" in value:
        raise PydanticCustomError("nul_character", "NUL character")
    return value


Text = Annotated[str, AfterValidator(_no_nul)]


class FormRoute(APIRoute):
    """A route whose form is checked and bounded before its body is parsed, which FastAPI has no option for."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return FastAPI's handler, called with a request of ours."""
        handle = super().get_route_handler()

        async def handle_form(request: Request) -> Response:
            return await handle(_FormRequest(request.scope, request.receive))

        return handle_form


def loading(upload: UploadFile) -> Callable[[], Coroutine[Any, Any, bytes]]:
    """Return what gives an upload whole, as often as it is asked."""

    async def load() -> bytes:
        await upload.seek(0)
        return await upload.read()

    return load


class _FormRequest(Request):
    def form(self, **limits: Any) -> Any:
        _require_form(self.headers.get("content-type", ""))
        return super().form(max_files=MOST_FILES, max_fields=MOST_FIELDS)

    async def _get_form(self, **limits: Any) -> FormData:
        """Read the form as Starlette does, its files into the spool; raises StorageFull when that has no room."""
        media_type, _ = parse_options_header(self.headers.get("content-type", ""))
        if self._form is None and media_type == b"multipart/form-data":
            try:
                async with contextlib.aclosing(self.stream()) as stream:
                    parser = SpoolingParser(self.app.state.spool, self.headers, stream, **limits)
                    self._form = await parser.parse()
            except MultiPartException as error:
                raise MalformedRequest from error
            except OSError as error:
                log.error("upload_not_written", reason=error.strerror)
                raise StorageFull from None
        return await super()._get_form(**limits)


def _require_form(content_type: str) -> None:
    """Refuse a body that is not a form before anyone wonders why its fields are missing."""
    media_type, parameters = parse_options_header(content_type)
    if media_type not in (b"multipart/form-data", b"application/x-www-form-urlencoded", b""):
        raise UnsupportedMediaType(
            "Send the picture as multipart/form-data in the field 'image', as in: curl -F image=@page.png."
        )
    charset = parameters.get(b"charset", b"utf-8").decode("latin-1")
    try:
        known = codecs.lookup(charset).name in _CHARSETS
    except (LookupError, ValueError):
        known = False
    if not known:
        raise UnsupportedMediaType("Send the fields of the form as UTF-8, and leave 'charset' out of Content-Type.")


async def ocr_options(
    request: Request,
    mode: Annotated[
        Text, Form(max_length=100, description="What to do; GET /api/modes lists the modes.")
    ] = "plain_ocr",
    prompt: Annotated[Text, Form(max_length=LONGEST_PROMPT, description="Your prompt, in mode freeform.")] = "",
    grounding: Annotated[bool, Form(description="Ask for boxes.")] = False,
    include_caption: Annotated[bool, Form(description="Ask for a sentence that describes the picture.")] = False,
    find_term: Annotated[
        Text | None,
        Form(max_length=LONGEST_TERM, description=f"What find_ref looks for; '{DEFAULT_FIND_TERM}' if empty."),
    ] = None,
    json_schema: Annotated[
        Text | None,
        Form(alias="schema", max_length=LONGEST_PROMPT, description="The JSON that kv_json fills; '{}' if empty."),
    ] = None,
    base_size: Annotated[int | None, Form(description="Side of the global view in pixels; 1024 if empty.")] = None,
    image_size: Annotated[int | None, Form(description="Side of a tile in pixels; 640 if empty.")] = None,
    crop_mode: Annotated[bool | None, Form(description="Cut large pages into tiles too; true if empty.")] = None,
    test_compress: Annotated[bool, Form(description="Accepted for old clients; has no effect.")] = False,
    resolution: Annotated[
        Text | None,
        Form(
            max_length=100,
            description="tiny, small, base, large or gundam, in place of base_size, image_size and crop_mode.",
        ),
    ] = None,
    max_tokens: Annotated[int | None, Form(ge=1, le=MOST_TOKENS, description="Most tokens of output.")] = None,
) -> RecogniseOptions:
    """Return the options of a request; raises InvalidParameter for what is not known."""
    settings: Settings = request.app.state.settings
    find_mode(mode)
    term = (find_term or "").strip() or DEFAULT_FIND_TERM
    if "<|" in term:
        raise InvalidParameter("Field 'find_term' must not contain '<|', which marks the model's own tags.")
    return RecogniseOptions(
        mode=mode,
        prompt=prompt.strip(),
        grounding=grounding,
        include_caption=include_caption,
        find_term=term,
        schema=(json_schema or "").strip() or DEFAULT_SCHEMA,
        resolution=resolve_resolution(
            resolution,
            settings.base_size if base_size is None else base_size,
            settings.image_size if image_size is None else image_size,
            settings.crop_mode if crop_mode is None else crop_mode,
        ),
        max_tokens=max_tokens,
    )


OcrOptions = Annotated[RecogniseOptions, Depends(ocr_options)]


async def page_choice(
    page: Annotated[int, Form(ge=1, description="Which page of a PDF or TIFF to read, from 1 on.")] = 1,
    dpi: Annotated[
        int, Form(ge=LOWEST_DPI, le=HIGHEST_DPI, description="At how many dots per inch a PDF's page is rendered.")
    ] = DEFAULT_DPI,
    password: Annotated[Text, Form(max_length=LONGEST_PASSWORD, description="Opens an encrypted PDF.")] = "",
) -> PageChoice:
    """Return which page of the file is to be read."""
    return PageChoice(page, dpi, password)


ChosenPage = Annotated[PageChoice, Depends(page_choice)]


@dataclass(frozen=True)
class PagesFields:
    """Which pages of a document are to be read, and how it is opened."""

    pages: str
    dpi: float
    password: str


@dataclass(frozen=True)
class DocumentFields(PagesFields):
    """What a document takes beside the options of a page."""

    priority: int
    webhook_url: str


async def which_pages(
    pages: Annotated[
        Text, Form(max_length=LONGEST_RANGES, description="Which pages to read, such as 1-3,7,10-; all if empty.")
    ] = "",
    dpi: Annotated[
        int, Form(ge=LOWEST_DPI, le=HIGHEST_DPI, description="At how many dots per inch a PDF's pages are rendered.")
    ] = DEFAULT_DPI,
    password: Annotated[Text, Form(max_length=LONGEST_PASSWORD, description="Opens an encrypted PDF.")] = "",
) -> PagesFields:
    """Return which pages of a document are to be read."""
    return PagesFields(pages.strip(), dpi, password)


WhichPages = Annotated[PagesFields, Depends(which_pages)]


async def document_fields(
    which: WhichPages,
    priority: Annotated[
        int,
        Form(ge=-MOST_PRIORITY, le=MOST_PRIORITY, description="Documents of a higher priority are read first."),
    ] = 0,
    webhook_url: Annotated[
        Text, Form(max_length=LONGEST_URL, description="Where a POST tells of the end of the task.")
    ] = "",
) -> DocumentFields:
    """Return what is to be done with a document."""
    return DocumentFields(which.pages, which.dpi, which.password, priority, webhook_url.strip())


Document = Annotated[DocumentFields, Depends(document_fields)]


async def result_options(
    drop_running: Annotated[bool, Query(description="Leave out headers, footers and page numbers.")] = False,
    join_hyphens: Annotated[bool, Query(description="Join words that are divided at the end of a line.")] = False,
    join_pages: Annotated[bool, Query(description="Join paragraphs that run over a page.")] = False,
    language: Annotated[
        str, Query(pattern=_LANGUAGE, description="The language stated in HTML and hOCR, such as de; guessed if empty.")
    ] = "",
    add_to_existing_text: Annotated[
        bool, Query(description="In a PDF, add text even where the page has the same text already.")
    ] = False,
) -> Options:
    """Return how a document is to be written."""
    return Options(drop_running, join_hyphens, join_pages, language, add_to_existing_text)


ResultOptions = Annotated[Options, Depends(result_options)]
