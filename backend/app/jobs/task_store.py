"""The tasks in the database. Every method blocks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from app.errors import IdempotencyConflict, TaskConflict, TaskNotFound, TooManyTasks
from app.jobs import ranges
from app.jobs.database import PAGE, TASK, Database, is_task, is_unfinished, now
from app.jobs.task import Order, Task, TaskState

_SAME = (
    "id",
    "run",
    "numbers",
    "total",
    "done",
    "failed",
    "sequence",
    "bytes",
    "error_code",
    "error_detail",
    "webhook_state",
)


class TaskStore:
    """Writes down tasks and how far they are."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self,
        task_id: str,
        order: Order,
        numbers: Sequence[int],
        size: int,
        fingerprint: str,
        most: int,
        queued: datetime | None = None,
    ) -> Task:
        """Write down a new task; where its idempotency key is known, return the task that has it.

        `queued` is when it came, if not now. Raises IdempotencyConflict when that one is of another upload, TooManyTasks past `most` unfinished ones.
        """
        at = now()
        row = {
            "id": task_id,
            "ordered": json.dumps(order.to_json()),
            "state": TaskState.PENDING.value,
            "run": 1,
            "numbers": ranges.write(numbers),
            "total": len(numbers),
            "bytes": size,
            "created_at": queued.astimezone(timezone.utc).replace(tzinfo=None) if queued else at,
            "updated_at": at,
            "idempotency_key": order.idempotency_key or None,
            "fingerprint": fingerprint,
        }
        with self._database.changing() as connection:
            known = self._known(connection, order.idempotency_key, fingerprint)
            if known is not None:
                return known
            if self._count_unfinished(connection) >= most:
                raise TooManyTasks
            try:
                with connection.begin_nested():
                    connection.execute(sa.insert(TASK).values(**row))
            except IntegrityError:  # the same key, in the same moment
                known = self._known(connection, order.idempotency_key, fingerprint)
                if known is None:
                    raise
                return known
            return self._get(connection, task_id)

    def get(self, task_id: str) -> Task:
        """Return a task; raises TaskNotFound."""
        with self._database.reading() as connection:
            return self._get(connection, task_id)

    def newest(self, limit: int, before: tuple[datetime, str] | None, state: TaskState | None) -> list[Task]:
        """Return tasks, newest first, those after the one that `before` names by time and id."""
        query = sa.select(TASK).order_by(TASK.c.created_at.desc(), TASK.c.id.desc()).limit(limit)
        if before is not None:
            query = query.where(sa.tuple_(TASK.c.created_at, TASK.c.id) < sa.tuple_(*map(sa.literal, before)))
        if state is not None:
            query = query.where(TASK.c.state == state.value)
        with self._database.reading() as connection:
            return [_task_of(row) for row in connection.execute(query)]

    def start(self, task_id: str, run: int) -> None:
        """Note that the first page of a run is being read."""
        at = now()
        change = sa.update(TASK).where(is_task(task_id, run), TASK.c.state == TaskState.PENDING.value)
        with self._database.changing() as connection:
            connection.execute(change.values(state=TaskState.RUNNING.value, started_at=at, updated_at=at))

    def end(
        self, task_id: str, run: int | None, state: TaskState, error: tuple[str, str] | None, size: int = 0
    ) -> bool:
        """Finish an unfinished task, whatever its run where that is None; say whether it was one. `size` adds to its bytes."""
        at = now()
        code, detail = error or (None, None)
        change = (
            sa.update(TASK)
            .where(is_task(task_id, run), is_unfinished())
            .values(
                state=state.value,
                error_code=code,
                error_detail=detail,
                finished_at=at,
                updated_at=at,
                bytes=TASK.c.bytes + size,
            )
        )
        with self._database.changing() as connection:
            return connection.execute(change).rowcount == 1

    def restart(self, task_id: str, most: int) -> Task:
        """Make a finished task pending again, without its failed pages, under a new run.

        Raises TaskConflict when it is unfinished or has nothing left to read.
        """
        with self._database.changing() as connection:
            task = self._get(connection, task_id)
            if task.unfinished:
                raise TaskConflict("The task is not finished. Wait for its end, or cancel it first.")
            if task.done == task.total and not task.failed:
                raise TaskConflict("Every page of the task was read: there is nothing to try again.")
            if self._count_unfinished(connection) >= most:
                raise TooManyTasks
            connection.execute(sa.delete(PAGE).where(PAGE.c.task_id == task_id, PAGE.c.failed))
            change = (
                sa.update(TASK)
                .where(is_task(task_id, task.run), sa.not_(is_unfinished()))
                .values(
                    state=TaskState.PENDING.value,
                    run=task.run + 1,
                    done=task.done - task.failed,
                    failed=0,
                    finished_at=None,
                    error_code=None,
                    error_detail=None,
                    webhook_state=None,
                    updated_at=now(),
                )
            )
            if connection.execute(change).rowcount != 1:
                raise TaskConflict
            return self._get(connection, task_id)

    def remove(self, task_id: str) -> None:
        """Forget a task and its pages; raises TaskNotFound."""
        with self._database.changing() as connection:
            connection.execute(sa.delete(PAGE).where(PAGE.c.task_id == task_id))
            if connection.execute(sa.delete(TASK).where(TASK.c.id == task_id)).rowcount == 0:
                raise TaskNotFound

    def add_bytes(self, task_id: str, size: int) -> None:
        """Count what was written for a task."""
        with self._database.changing() as connection:
            connection.execute(sa.update(TASK).where(TASK.c.id == task_id).values(bytes=TASK.c.bytes + size))

    def set_webhook_state(self, task_id: str, run: int, state: str) -> None:
        """Note what became of the webhook of a run."""
        with self._database.changing() as connection:
            connection.execute(sa.update(TASK).where(is_task(task_id, run)).values(webhook_state=state))

    def counts(self) -> dict[str, int]:
        """Return how many tasks are in each state."""
        query = sa.select(TASK.c.state, sa.func.count()).group_by(TASK.c.state)
        with self._database.reading() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

    def total_bytes(self) -> int:
        """Return what the files of all tasks take."""
        with self._database.reading() as connection:
            return int(connection.execute(sa.select(sa.func.coalesce(sa.func.sum(TASK.c.bytes), 0))).scalar_one())

    def unfinished(self) -> list[tuple[str, int, datetime]]:
        """Return id, run and time of the last change of every unfinished task."""
        query = sa.select(TASK.c.id, TASK.c.run, TASK.c.updated_at).where(is_unfinished())
        with self._database.reading() as connection:
            return [(row.id, row.run, row.updated_at) for row in connection.execute(query)]

    def finished_before(self, moment: datetime) -> list[str]:
        """Return the tasks that ended before `moment`."""
        query = sa.select(TASK.c.id).where(sa.not_(is_unfinished()), TASK.c.finished_at < moment).limit(1000)
        with self._database.reading() as connection:
            return list(connection.execute(query).scalars())

    def known(self, task_ids: Sequence[str]) -> set[str]:
        """Return those of `task_ids` that are tasks."""
        with self._database.reading() as connection:
            return set(connection.execute(sa.select(TASK.c.id).where(TASK.c.id.in_(task_ids))).scalars())

    def _get(self, connection: sa.Connection, task_id: str) -> Task:
        row = connection.execute(sa.select(TASK).where(TASK.c.id == task_id)).one_or_none()
        if row is None:
            raise TaskNotFound
        return _task_of(row)

    def _known(self, connection: sa.Connection, key: str, fingerprint: str) -> Task | None:
        if not key:
            return None
        row = connection.execute(sa.select(TASK).where(TASK.c.idempotency_key == key)).one_or_none()
        if row is None:
            return None
        if row.fingerprint != fingerprint:
            raise IdempotencyConflict
        return _task_of(row)

    def _count_unfinished(self, connection: sa.Connection) -> int:
        return int(connection.execute(sa.select(sa.func.count()).select_from(TASK).where(is_unfinished())).scalar_one())


def _task_of(row: sa.Row[Any]) -> Task:
    values: dict[str, Any] = dict(row._mapping)
    fields = {name: values[name] for name in _SAME}
    for name in ("created_at", "updated_at", "started_at", "finished_at"):
        fields[name] = values[name].replace(tzinfo=timezone.utc) if values[name] else None
    return Task(order=Order.from_json(json.loads(values["ordered"])), state=TaskState(values["state"]), **fields)
