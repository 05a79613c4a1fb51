"""The JSON that clients read."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from app.engine.base import Engine, Resolution
from app.reader import ReadPage
from app.results.blocks import Block, read_blocks
from app.results.document import Pictures
from app.results.html import page_html
from app.results.pages import PageResult

NOTICE = "What to know about the model before trusting its answers; null for most models."


class BoxJson(BaseModel):
    """A labelled rectangle."""

    label: str
    box: tuple[int, int, int, int] = Field(
        description="x1, y1, x2, y2 in pixels of the picture as a person sees it (EXIF rotation applied)."
    )


class ImageDims(BaseModel):
    """The picture's size as a person sees it, in pixels."""

    w: int
    h: int


class BlockJson(BaseModel):
    """A stretch of a page, in reading order."""

    kind: str = Field(
        description="text, title, table, figure, formula, caption, footnote, header, footer, page_number, line or data."
    )
    label: str = Field(description="The class as the model named it; empty where it named none.")
    text: str = Field(description="Markdown; of a line, the line as printed.")
    boxes: list[tuple[int, int, int, int]] = Field(description="Where it stands, as in `boxes`; empty where unknown.")

    @classmethod
    def of(cls, block: Block) -> BlockJson:
        """Put a block into JSON."""
        boxes = [(box.x1, box.y1, box.x2, box.y2) for box in block.boxes]
        return cls(kind=block.kind, label=block.label, text=block.text, boxes=boxes)


class UsageJson(BaseModel):
    """Token counts; null where the engine has no tokens."""

    prompt_tokens: int | None
    image_tokens: int | None
    output_tokens: int | None


class Metadata(BaseModel):
    """What was asked, and what really read the page."""

    mode: str
    grounding: bool
    base_size: int
    image_size: int
    crop_mode: bool
    inference_engine: str
    engine: str
    model: str
    resolution: str = Field(description="The resolution really used: a published name, pixels, or 'native'.")
    page: int = Field(description="Which page of the file this is, from 1 on.")
    pages: int = Field(description="How many pages the file has; 1 for pictures.")
    dpi: float | None = Field(
        description="At how many dots per inch the page of a PDF was rendered: lower than asked for where it would have "
        "had too many pixels. Null for pictures."
    )
    notice: str | None = Field(description=NOTICE)


class PageView(BaseModel):
    """A page to be shown: its HTML, and the blocks that the HTML refers to."""

    html: str = Field(description="The page as sanitised HTML, figures inside, formulas as MathML.")
    blocks: list[BlockJson] = Field(description="The page cut into blocks, which `html` refers to by data-block.")

    @classmethod
    def make(cls, page: PageResult, pictures: Pictures) -> PageView:
        """Make the view of a page; takes milliseconds, so not on the event loop."""
        return cls(html=page_html(page, pictures), blocks=[BlockJson.of(block) for block in read_blocks(page)])


class OcrResponse(BaseModel):
    """One page read."""

    success: Literal[True] = True
    text: str = Field(description="The text, tags removed.")
    raw_text: str = Field(description="What the engine wrote, tags included.")
    boxes: list[BoxJson]
    image_dims: ImageDims
    metadata: Metadata
    finish_reason: Literal["stop", "length"]
    truncated: bool = Field(description="Whether the token limit cut the text short.")
    looped: bool = Field(description="Whether the text repeats itself without end.")
    attempts: int = Field(
        description="How many times the page was read; above 1 when the text before repeated itself without end."
    )
    usage: UsageJson
    timing: dict[str, float] = Field(description="Milliseconds by stage; 'total' is from the end of the upload.")
    request_id: str
    html: str | None = Field(
        description="The page as sanitised HTML, figures inside, formulas as MathML; null where it was not asked for."
    )
    blocks: list[BlockJson] | None = Field(
        description="The page cut into blocks, which `html` refers to by data-block, from 0 on; null without html=true."
    )

    @classmethod
    def of(
        cls, page: ReadPage, engine: Engine, resolution: Resolution, request_id: str, view: PageView | None
    ) -> OcrResponse:
        """Put a page that was read into the contract's JSON."""
        recognition = page.recognition
        return cls(
            text=recognition.text,
            raw_text=recognition.raw_text,
            boxes=[BoxJson(label=box.label, box=(box.x1, box.y1, box.x2, box.y2)) for box in recognition.boxes],
            image_dims=ImageDims(w=recognition.width, h=recognition.height),
            metadata=Metadata(
                mode=recognition.mode,
                grounding=recognition.grounding,
                base_size=resolution.base_size,
                image_size=resolution.image_size,
                crop_mode=resolution.crop_mode,
                inference_engine=engine.name,
                engine=engine.name,
                model=engine.model,
                resolution=recognition.finish.resolution,
                page=page.number,
                pages=page.pages,
                dpi=page.dpi,
                notice=engine.capabilities().notice,
            ),
            finish_reason=recognition.finish.reason,
            truncated=recognition.truncated,
            looped=recognition.looped,
            attempts=recognition.attempts,
            usage=UsageJson(
                prompt_tokens=recognition.usage.prompt_tokens,
                image_tokens=recognition.usage.image_tokens,
                output_tokens=recognition.usage.output_tokens,
            ),
            timing={stage: round(milliseconds, 2) for stage, milliseconds in page.timing_ms.items()},
            request_id=request_id,
            html=view.html if view else None,
            blocks=view.blocks if view else None,
        )


class ModeJson(BaseModel):
    """One mode, and whether this service can do it."""

    name: str
    summary: str
    available: bool
    grounding: bool = Field(description="Whether the mode gives boxes without being asked.")
    prompt: str = Field(description="The prompt sent to a model that takes prompts, with {placeholders}.")


class ModesResponse(BaseModel):
    """What the engine behind this service can do."""

    engine: str
    model: str
    notice: str | None = Field(description=NOTICE)
    prompted: bool = Field(description="Whether the engine follows prompts, or does a fixed job for each mode.")
    modes: list[ModeJson]
    resolutions: dict[str, dict[str, int | bool]]


class IndexResponse(BaseModel):
    """Where a program that knows only the address finds the rest."""

    message: str
    version: str
    docs: str
    inference_engine: str
    model_path: str
    notice: str | None = Field(description=NOTICE)
    routes: dict[str, str]


class HealthResponse(BaseModel):
    """The state of the engine, as the predecessor's front ends read it."""

    status: Literal["healthy", "starting", "unhealthy"]
    model_loaded: bool
    inference_engine: str


class StatusResponse(BaseModel):
    """A probe's answer."""

    status: Literal["ok", "ready"]
