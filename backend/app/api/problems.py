"""Errors as RFC 9457 problem+json, from the one tree in errors.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Scope

from app.errors import (
    ClientGone,
    InternalError,
    InvalidParameter,
    MalformedRequest,
    MethodNotAllowed,
    NotFound,
    ServiceError,
)

log = structlog.get_logger()


class Problem(BaseModel):
    """RFC 9457 problem details; `detail` is one sentence for a person, `code` is stable for programs."""

    type: str = Field(description="A URN that names the kind of error.")
    title: str = Field(description="The kind of error in a few words.")
    status: int = Field(description="The HTTP status of this answer.")
    code: str = Field(description="A stable name of the kind of error, for programs.")
    detail: str = Field(description="What was wrong and what to do about it.")
    request_id: str = Field(description="Names this request in the service's log.")


class ProblemResponse(JSONResponse):
    """A JSONResponse under RFC 9457's media type."""

    media_type = "application/problem+json"


def problem(error: ServiceError, scope: Scope) -> dict[str, Any]:
    """Return the JSON of an error and note its code for the log line and the metrics."""
    state = scope.setdefault("state", {})
    state["error_code"] = error.code
    return Problem(
        type=f"urn:deepseek-ocr:error:{error.code}",
        title=error.title,
        status=error.status,
        code=error.code,
        detail=error.detail,
        request_id=state.get("request_id", ""),
    ).model_dump()


def problem_response(error: ServiceError, scope: Scope, headers: Mapping[str, str] | None = None) -> ProblemResponse:
    """Return the answer to a request that failed."""
    sent = dict(headers or {})
    if error.retry_after is not None:
        sent["Retry-After"] = str(error.retry_after)
    if error.status == 401:
        sent["WWW-Authenticate"] = "Bearer"
    return ProblemResponse(problem(error, scope), status_code=error.status, headers=sent)


def install_handlers(app: FastAPI) -> None:
    """Answer every error of the application in one format."""

    @app.exception_handler(ServiceError)
    async def service_error(request: Request, error: ServiceError) -> ProblemResponse:
        return problem_response(error, request.scope)

    @app.exception_handler(RequestValidationError)
    async def validation_error(request: Request, error: RequestValidationError) -> ProblemResponse:
        return problem_response(InvalidParameter(describe_validation(error.errors())), request.scope)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> ProblemResponse:
        return problem_response(_translate(error), request.scope, error.headers)


def _translate(error: HTTPException) -> ServiceError:
    # FastAPI wraps whatever interrupts the reading of a body; our own limits are what it wrapped.
    cause = error.__cause__
    if isinstance(cause, ServiceError):
        return cause
    if isinstance(cause, ClientDisconnect):
        return ClientGone()
    if error.status_code == 404:
        return NotFound()
    if error.status_code == 405:
        return MethodNotAllowed()
    if error.status_code < 500:
        return MalformedRequest()
    return InternalError()


_SENTENCES = {
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "int_parsing_size": "must be a smaller number",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "string_type": "must be text, not a file",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "too_long": "must be at most {max_length} characters long",
    "nul_character": "must not contain NUL characters",
}


_FILES = {
    "image": ("picture", "page.png"),
    "pdf": ("document", "document.pdf"),
    "pdf_file": ("document", "document.pdf"),
}


def describe_validation(errors: Sequence[Any]) -> str:
    """Return one sentence for each field that was refused, in our words."""
    return " ".join(_describe(error) for error in errors)


def _describe(error: Mapping[str, Any]) -> str:
    field = str(error["loc"][-1]) if error.get("loc") else "body"
    if field in _FILES:
        what, example = _FILES[field]
        if error.get("type") == "missing":
            return f"Field '{field}' is missing. Send the {what} as the multipart/form-data file field '{field}', as in: curl -F {field}=@{example}."
        return f"Field '{field}' arrived as text, not as a file. With curl, put @ before the file name: -F {field}=@{example}."
    sentence = _SENTENCES.get(str(error.get("type")), "has a value this service does not accept")
    return f"Field '{field}' {sentence.format(**error.get('ctx', {}))}."
