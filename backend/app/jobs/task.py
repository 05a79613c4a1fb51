"""A task: one document to read, and how far that has come."""

from __future__ import annotations

import contextlib
import uuid
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any, Literal

from app.engine.base import Resolution
from app.ocr.service import RecogniseOptions

TaskType = Literal["pdf", "image"]

Run = tuple[str, int]
"""A task's id, and the how manieth time, from 1 on, that it is read."""

CANCELLED = "cancelled"
NO_PAGE_READ = "no_page_read"


def is_id(name: str) -> bool:
    """Say whether a name is that of a task: a UUID in its usual form."""
    with contextlib.suppress(ValueError):
        return str(uuid.UUID(name)) == name
    return False


class TaskState(str, Enum):
    """Where a task is in its life."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


UNFINISHED = (TaskState.PENDING, TaskState.RUNNING)


@dataclass(frozen=True)
class Order:
    """What a client asks for: which pages of a document, read how.

    `name` is the upload's file name as the client gave it, never a path here. `pages` is written as in
    `ranges.parse`. A higher `priority` goes first. `password` is never written down; of a task, `password_half` is kept.
    """

    type: TaskType
    name: str
    options: RecogniseOptions
    pages: str = ""
    dpi: float = 144
    password: str = field(default="", repr=False)
    password_half: str = field(default="", repr=False)
    priority: int = 0
    webhook_url: str = ""
    idempotency_key: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return it as values JSON has."""
        return {**asdict(self), "password": ""}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Order:
        """Return what `to_json` wrote down."""
        options = dict(value["options"])
        options["resolution"] = Resolution(**options["resolution"])
        return cls(**{**value, "options": RecogniseOptions(**options)})


@dataclass(frozen=True)
class Task:
    """A task as the database has it.

    The pages to be read are `numbers`, as ranges, `total` of them, of which `done` are behind it and `failed` of those were not read; `run` counts from
    1 and rises with each retry. `sequence` is the number of the last page that was added, for those who follow.
    """

    id: str
    order: Order
    state: TaskState
    run: int
    numbers: str
    total: int
    done: int
    failed: int
    sequence: int
    bytes: int
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    error_code: str | None
    error_detail: str | None
    webhook_state: str | None

    @property
    def status(self) -> str:
        """The state as clients have always read it: a cancelled task has failed."""
        return "failed" if self.state is TaskState.CANCELLED else self.state.value

    @property
    def unfinished(self) -> bool:
        return self.state in UNFINISHED

    @property
    def has_result(self) -> bool:
        """Whether it is over and a page was read: of a cancelled task, those it came to."""
        return not self.unfinished and self.done > self.failed
