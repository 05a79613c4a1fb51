"""`POST /api/process-pdf`: a document read while its client waits, in the format asked for."""

from __future__ import annotations

import asyncio
import base64
import tempfile
import uuid
from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, File, Form, Request, UploadFile
from fastapi.responses import FileResponse, Response
from pydantic import BaseModel, Field

from app.api.forms import LONGEST_NAME, FormRoute, OcrOptions, ResultOptions, Text, WhichPages
from app.api.ocr import PROBLEMS, until_disconnect
from app.api.schemas import BoxJson, ImageDims
from app.api.task_schemas import PageErrorJson
from app.engine.base import Engine
from app.errors import InvalidParameter, UnknownFormat
from app.jobs.at_once import AtOnce
from app.jobs.files import TaskFolder
from app.jobs.task import Order
from app.ocr.modes import find_mode
from app.results.document import Document, FolderPictures, NoPictures, Options, Pictures
from app.results.json_file import page_json
from app.results.pages import PageResult
from app.results.pool import WriterPool
from app.results.writers import FORMATS, Format

router = APIRouter(prefix="/api", tags=["documents"], route_class=FormRoute)


class ProcessedPage(BaseModel):
    """A page of the document."""

    page_number: int = Field(description="From 1 on.")
    text: str
    raw_text: str
    boxes: list[BoxJson]
    images: list[str] = Field(
        description="The figures as JPEG in base64, in the order in which the text links to them."
    )
    image_dims: ImageDims
    finish_reason: str
    looped: bool
    error: PageErrorJson | None = Field(description="Why the page was not read; null for one that was.")


class ProcessMetadata(BaseModel):
    """What was asked, and what read the pages."""

    mode: str
    grounding: bool
    base_size: int
    image_size: int
    crop_mode: bool
    dpi: float
    inference_engine: str
    engine: str
    model: str
    notice: str | None


class ProcessedDocument(BaseModel):
    """A document read at once."""

    success: Literal[True] = True
    total_pages: int = Field(
        description="How many pages the document has; fewer are in `pages` where fewer were asked for."
    )
    pages: list[ProcessedPage]
    metadata: ProcessMetadata


async def chosen_format(
    output_format: Annotated[
        Text,
        Form(max_length=100, description=f"json, or a file: {', '.join(name for name in FORMATS if name != 'json')}."),
    ] = "markdown",
) -> Format:
    """Return the format asked for; raises UnknownFormat."""
    if output_format not in FORMATS:
        raise UnknownFormat(f"Field 'output_format' takes one of {', '.join(FORMATS)}.")
    return FORMATS[output_format]


@router.post(
    "/process-pdf",
    response_model=ProcessedDocument,
    responses={
        **{status: PROBLEMS[status] for status in (400, 401, 408, 413, 415, 422, 429, 503, 504, 507)},
        200: {
            "description": "With output_format json the pages; else the file, as an attachment ocr_result.*.",
            "content": {"application/octet-stream": {}},
        },
    },
)
async def process_document(
    request: Request,
    pdf_file: Annotated[UploadFile, File(description="The document: a PDF, a TIFF of several pages, or a picture.")],
    form: Annotated[Format, Depends(chosen_format)],
    which: WhichPages,
    options: OcrOptions,
    written: ResultOptions,
    extract_images: Annotated[bool, Form(description="Whether the result holds the figures.")] = True,
) -> Response:
    """Read a short document now, and answer with its text in the format asked for."""
    if (count := len((await request.form()).getlist("pdf_file"))) > 1:
        raise InvalidParameter(f"Field 'pdf_file' was sent {count} times. Send one document in each request.")
    state = request.app.state
    order = Order(
        type="pdf",
        name=(pdf_file.filename or "")[:LONGEST_NAME],
        options=options,
        pages=which.pages,
        dpi=which.dpi,
        password=which.password,
    )
    made = tempfile.TemporaryDirectory(prefix="deepseek-ocr-", dir=state.spool, ignore_cleanup_errors=True)
    request.state.until_sent.push_async_callback(asyncio.to_thread, made.cleanup)
    folder = TaskFolder(Path(made.name), str(uuid.uuid4()))
    at_once: AtOnce = state.at_once

    async def work() -> Response:
        pages, total = await at_once.read(order, pdf_file.file, folder, request.state.request_id)
        pictures: Pictures = FolderPictures(folder.path) if extract_images else NoPictures()
        if form.name == "json":
            body = await asyncio.to_thread(_body, pages, total, pictures, _metadata(order, state.engine))
            return Response(body, media_type="application/json")
        return await _file(state.writers, order, pages, folder, form, pictures, written)

    return await until_disconnect(request.receive, work())


async def _file(
    writers: WriterPool,
    order: Order,
    pages: list[PageResult],
    folder: TaskFolder,
    form: Format,
    pictures: Pictures,
    options: Options,
) -> FileResponse:
    document = Document(order.name or "Document", tuple(pages), folder.source, order.password)
    path = folder.path / form.file_name
    await writers.write(document, {form.name: path}, pictures, options, pages=len(pages))
    return FileResponse(path, media_type=form.media_type, filename=f"ocr_result{path.suffix}")


def _body(pages: list[PageResult], total: int, pictures: Pictures, metadata: ProcessMetadata) -> str:
    shown = [ProcessedPage.model_validate(_page(page, pictures)) for page in pages]
    return ProcessedDocument(total_pages=total, pages=shown, metadata=metadata).model_dump_json()


def _page(page: PageResult, pictures: Pictures) -> dict[str, object]:
    cut = (pictures.figure(page.number, number) for number in range(1, len(page.figures) + 1))
    known = page_json(page)
    return {
        **{name: known[name] for name in ("raw_text", "boxes", "image_dims", "finish_reason", "looped", "error")},
        "page_number": page.number,
        "text": page.text,
        "images": [base64.b64encode(jpeg).decode() for jpeg in cut if jpeg is not None],
    }


def _metadata(order: Order, engine: Engine) -> ProcessMetadata:
    options, resolution = order.options, order.options.resolution
    return ProcessMetadata(
        mode=options.mode,
        grounding=options.grounding or find_mode(options.mode).grounded,
        base_size=resolution.base_size,
        image_size=resolution.image_size,
        crop_mode=resolution.crop_mode,
        dpi=order.dpi,
        inference_engine=engine.name,
        engine=engine.name,
        model=engine.model,
        notice=engine.capabilities().notice,
    )
