"""The JSON of tasks."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from urllib.parse import quote

from pydantic import BaseModel, Field

from app.api.schemas import BoxJson, ImageDims, PageView
from app.jobs.files import archive_name
from app.jobs.task import Task, TaskState
from app.results.document import Pictures
from app.results.json_file import page_json
from app.results.pages import PageResult
from app.results.writers import FORMATS


class PageErrorJson(BaseModel):
    """Why a page was not read."""

    code: str
    detail: str


class TaskPageJson(BaseModel):
    """A page of a document."""

    index: int = Field(description="Which page of the document this is, from 0 on.")
    markdown: str = Field(description="The text; links to figures are relative to the task's download address.")
    raw_text: str
    image_assets: list[str] = Field(description="The figures of the page, as the text links to them.")
    boxes: list[BoxJson]
    image_dims: ImageDims
    dpi: float | None
    finish_reason: str
    looped: bool
    attempts: int
    error: PageErrorJson | None = Field(description="Why the page was not read; null for one that was.")

    @classmethod
    def of(cls, page: PageResult) -> TaskPageJson:
        """Put a page into the contract's JSON."""
        return cls.model_validate(page_json(page))


class TaskPageViewJson(TaskPageJson, PageView):
    """A page of a document, to be shown."""

    @classmethod
    def view(cls, page: PageResult, pictures: Pictures) -> TaskPageViewJson:
        """Put a page into JSON with what shows it."""
        return cls.model_validate(page_json(page) | PageView.make(page, pictures).model_dump())


class TaskResultJson(BaseModel):
    """Where the results are, and the pages themselves."""

    markdown_url: str
    raw_json_url: str
    archive_url: str
    image_urls: list[str]
    files: dict[str, str] = Field(description="The address of the document in each format, by the format's name.")
    pages: list[TaskPageJson] = Field(description="Empty in lists, and with pages=false.")


class ProgressJson(BaseModel):
    """How far a task is."""

    current: int
    total: int
    percent: int = Field(description="0 to 100.")
    message: str
    pages_completed: int = Field(description="Pages that are behind it, those that failed included.")
    pages_total: int
    pages_failed: int = Field(description="Those among pages_completed that could not be read.")


class TaskTimingJson(BaseModel):
    """When things happened; null for what has not."""

    queued_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    duration_ms: float | None = Field(description="From the start of its first page to its end.")


class FailedPageJson(BaseModel):
    """A page that was not read, and why."""

    page: int = Field(description="From 1 on.")
    code: str
    detail: str


class TaskJson(BaseModel):
    """A document, as front ends follow it."""

    task_id: str
    status: Literal["pending", "running", "succeeded", "failed"] = Field(
        description="A cancelled task is failed with the error_code cancelled."
    )
    task_type: Literal["pdf", "image"]
    created_at: datetime
    updated_at: datetime
    error_message: str | None
    error_code: str | None
    name: str = Field(description="The upload's file name.")
    priority: int
    pages: str = Field(description="Which pages of the document these are, from 1 on, as ranges such as 1-3,7.")
    result: TaskResultJson | None
    progress: ProgressJson
    timing: TaskTimingJson
    failed_pages: list[FailedPageJson] = Field(description="At most 1,000 of them; empty in lists.")
    webhook: str | None = Field(description="What became of the webhook: retrying, delivered or failed.")

    @classmethod
    def of(cls, task: Task, pages: list[PageResult], pictures: list[str], failed: list[PageResult]) -> TaskJson:
        """Put a task into the contract's JSON."""
        return cls.model_validate(
            {
                "task_id": task.id,
                "status": task.status,
                "task_type": task.order.type,
                "created_at": task.created_at,
                "updated_at": task.updated_at,
                "error_message": task.error_detail,
                "error_code": task.error_code,
                "name": task.order.name,
                "priority": task.order.priority,
                "pages": task.numbers,
                "result": _result(task, pages, pictures) if task.has_result else None,
                "progress": _progress(task),
                "timing": _timing(task),
                "failed_pages": [
                    {"page": page.number, "code": page.failure.code, "detail": page.failure.detail}
                    for page in failed
                    if page.failure
                ],
                "webhook": task.webhook_state,
            }
        )


class TaskListJson(BaseModel):
    """Tasks, newest first."""

    tasks: list[TaskJson]
    next_cursor: str | None = Field(description="Send it as `cursor` for older ones; null where there are none.")


class ImageTaskResponse(BaseModel):
    """A picture read at once."""

    success: Literal[True] = True
    text: str
    raw_text: str
    boxes: list[BoxJson]
    image_dims: ImageDims
    task_id: str
    timing: TaskTimingJson
    duration_ms: float


def download_url(task_id: str, name: str) -> str:
    """Return the address of a file of a task."""
    return f"/api/tasks/{task_id}/download/{quote(name)}"


def _result(task: Task, pages: list[PageResult], pictures: list[str]) -> dict[str, object]:
    archive = archive_name(task.order.name)
    files = {
        name: download_url(task.id, archive if name == "archive" else found.file_name)
        for name, found in FORMATS.items()
    }
    return {
        "markdown_url": files["markdown"],
        "raw_json_url": files["json"],
        "archive_url": files["archive"],
        "image_urls": [download_url(task.id, name) for name in pictures],
        "files": files,
        "pages": [page_json(page) for page in pages],
    }


def _progress(task: Task) -> dict[str, object]:
    words = {
        TaskState.PENDING: "Waiting",
        TaskState.RUNNING: f"Page {min(task.done + 1, task.total)} of {task.total}",
        TaskState.SUCCEEDED: "Done",
        TaskState.FAILED: "Failed",
        TaskState.CANCELLED: "Cancelled",
    }
    return {
        "current": task.done,
        "total": task.total,
        "percent": 100 * task.done // task.total,
        "message": words[task.state],
        "pages_completed": task.done,
        "pages_total": task.total,
        "pages_failed": task.failed,
    }


def _timing(task: Task) -> dict[str, object]:
    duration = task.finished_at - task.started_at if task.finished_at and task.started_at else None
    return {
        "queued_at": task.created_at,
        "started_at": task.started_at,
        "finished_at": task.finished_at,
        "duration_ms": None if duration is None else round(duration.total_seconds() * 1000, 1),
    }
