"""The pages of tasks in the database, each written down once. Every method blocks."""

from __future__ import annotations

import json
from collections.abc import Iterator

import sqlalchemy as sa

from app.jobs import ranges
from app.jobs.database import PAGE, TASK, Database, is_task, is_unfinished, now
from app.results.pages import PageResult


class PageStore:
    """Writes down what became of each page."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def left(self, task_id: str, run: int) -> list[int]:
        """Return the pages that a run has to read; none where the task is finished or in another run."""
        with self._database.reading() as connection:
            numbers = connection.execute(
                sa.select(TASK.c.numbers).where(is_task(task_id, run), is_unfinished())
            ).scalar()
            if numbers is None:
                return []
            there = connection.execute(sa.select(PAGE.c.number).where(PAGE.c.task_id == task_id)).scalars()
            known = set(there)
            return [number for number in ranges.read(numbers) if number not in known]

    def add(self, task_id: str, run: int, page: PageResult) -> bool:
        """Write down a page, once; say whether the task still wants it."""
        failed = page.failure is not None
        # Escaped: PostgreSQL refuses NUL in a text, and both half a character.
        result = json.dumps(page.to_json())
        with self._database.changing() as connection:
            wanted = sa.select(TASK.c.sequence).where(is_task(task_id, run), is_unfinished()).with_for_update()
            sequence = connection.execute(wanted).scalar()
            if sequence is None:
                return False
            same = sa.select(PAGE.c.number).where(PAGE.c.task_id == task_id, PAGE.c.number == page.number)
            if connection.execute(same).scalar() is not None:  # by a replica that was given up too early
                return True
            row = {"task_id": task_id, "number": page.number, "sequence": sequence + 1, "failed": failed}
            connection.execute(sa.insert(PAGE).values(**row, result=result))
            change = (
                sa.update(TASK)
                .where(TASK.c.id == task_id)
                .values(
                    sequence=sequence + 1,
                    done=TASK.c.done + 1,
                    failed=TASK.c.failed + int(failed),
                    updated_at=now(),
                )
            )
            connection.execute(change)
            return True

    def all(self, task_id: str) -> Iterator[PageResult]:
        """Yield the pages of a task in order, a few in memory at a time."""
        after = 0
        query = sa.select(PAGE.c.number, PAGE.c.result).where(PAGE.c.task_id == task_id).order_by(PAGE.c.number)
        while True:
            with self._database.reading() as connection:
                rows = connection.execute(query.where(PAGE.c.number > after).limit(64)).all()
            for row in rows:
                yield PageResult.from_json(json.loads(row.result))
                after = row.number
            if not rows:
                return

    def get(self, task_id: str, number: int) -> PageResult | None:
        """Return one page of a task, None where it has not been written down."""
        query = sa.select(PAGE.c.result).where(PAGE.c.task_id == task_id, PAGE.c.number == number)
        with self._database.reading() as connection:
            found = connection.execute(query).scalar()
        return PageResult.from_json(json.loads(found)) if found else None

    def failed(self, task_id: str, limit: int = 1000) -> list[PageResult]:
        """Return the first pages of a task that were not read."""
        query = sa.select(PAGE.c.result).where(PAGE.c.task_id == task_id, PAGE.c.failed)
        with self._database.reading() as connection:
            found = connection.execute(query.order_by(PAGE.c.number).limit(limit)).scalars()
            return [PageResult.from_json(json.loads(result)) for result in found]

    def since(self, task_id: str, sequence: int, limit: int) -> list[tuple[int, PageResult]]:
        """Return the pages written down after number `sequence`, in that order, with their numbers."""
        query = (
            sa.select(PAGE.c.sequence, PAGE.c.result)
            .where(PAGE.c.task_id == task_id, PAGE.c.sequence > sequence)
            .order_by(PAGE.c.sequence)
            .limit(limit)
        )
        with self._database.reading() as connection:
            return [(row.sequence, PageResult.from_json(json.loads(row.result))) for row in connection.execute(query)]
