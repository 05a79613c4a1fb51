"""The service's answers as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Box:
    """A labelled rectangle in pixels of the page as a person sees it."""

    label: str
    x1: int
    y1: int
    x2: int
    y2: int

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> Box:
        return cls(value["label"], *value["box"])


@dataclass(frozen=True)
class Page:
    """One page read. `json` is the whole answer; docs/api.md explains its fields."""

    text: str
    raw_text: str
    boxes: tuple[Box, ...]
    width: int
    height: int
    number: int
    pages: int
    finish_reason: str
    truncated: bool
    looped: bool
    json: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Page:
        return cls(
            text=body["text"],
            raw_text=body["raw_text"],
            boxes=tuple(map(Box.of, body["boxes"])),
            width=body["image_dims"]["w"],
            height=body["image_dims"]["h"],
            number=body["metadata"]["page"],
            pages=body["metadata"]["pages"],
            finish_reason=body["finish_reason"],
            truncated=body["truncated"],
            looped=body["looped"],
            json=body,
        )


@dataclass(frozen=True)
class Delta:
    """Raw text as it is read, tags included."""

    text: str


@dataclass(frozen=True)
class Restart:
    """All text so far is void because it repeated itself without end; attempt number `attempt` follows."""

    attempt: int


@dataclass(frozen=True)
class PageFailure:
    """A page of a document that was not read, and why."""

    page: int
    code: str
    detail: str


@dataclass(frozen=True)
class TaskPage:
    """Page `number` (from 1 on) of a document; `error` says why it was not read, None for one that was."""

    number: int
    text: str
    raw_text: str
    boxes: tuple[Box, ...]
    error: PageFailure | None
    json: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> TaskPage:
        number, error = body["index"] + 1, body["error"]
        return cls(
            number=number,
            text=body["markdown"],
            raw_text=body["raw_text"],
            boxes=tuple(map(Box.of, body["boxes"])),
            error=PageFailure(number, error["code"], error["detail"]) if error else None,
            json=body,
        )


@dataclass(frozen=True)
class Progress:
    """How many of a task's pages are behind it."""

    done: int
    total: int


@dataclass(frozen=True)
class Task:
    """A document the service reads: `status` is pending, running, succeeded or failed. `json` is the whole answer."""

    id: str
    status: str
    name: str
    progress: Progress
    error: str | None
    failed_pages: tuple[PageFailure, ...]
    json: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Task:
        return cls(
            id=body["task_id"],
            status=body["status"],
            name=body["name"],
            progress=Progress(body["progress"]["current"], body["progress"]["total"]),
            error=body["error_message"],
            failed_pages=tuple(PageFailure(it["page"], it["code"], it["detail"]) for it in body["failed_pages"]),
            json=body,
        )

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen to it unless it is retried."""
        return self.status in ("succeeded", "failed")

    @property
    def pages(self) -> tuple[TaskPage, ...]:
        """The pages of a task that has succeeded, where the answer holds them."""
        result = self.json["result"]
        return tuple(map(TaskPage.of, result["pages"])) if result else ()
