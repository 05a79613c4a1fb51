"""The database of tasks, their pages and the replicas that read them: SQLite or PostgreSQL.

Every method blocks: call it in a thread. What the database refuses arrives as DatabaseUnavailable.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import structlog
from sqlalchemy.exc import DBAPIError, IntegrityError

from app.errors import DatabaseUnavailable, IdempotencyConflict, TaskConflict, TaskNotFound, TooManyTasks
from app.jobs import ranges
from app.jobs.task import UNFINISHED, Order, Task, TaskState
from app.results.pages import PageResult

log = structlog.get_logger()

# SQLite lets one write at a time; the others wait this long for their turn, in seconds.
_BUSY_SECONDS = 30
_CONNECT_SECONDS = 10

_tables = sa.MetaData()
_task = sa.Table(
    "ocr_tasks",
    _tables,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("ordered", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("run", sa.Integer, nullable=False),
    sa.Column("numbers", sa.Text, nullable=False),
    sa.Column("total", sa.Integer, nullable=False),
    sa.Column("done", sa.Integer, nullable=False, default=0),
    sa.Column("failed", sa.Integer, nullable=False, default=0),
    sa.Column("sequence", sa.Integer, nullable=False, default=0),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.DateTime, nullable=False, index=True),
    sa.Column("updated_at", sa.DateTime, nullable=False),
    sa.Column("started_at", sa.DateTime),
    sa.Column("finished_at", sa.DateTime),
    sa.Column("error_code", sa.String(64)),
    sa.Column("error_detail", sa.Text),
    sa.Column("webhook_state", sa.String(16)),
    sa.Column("idempotency_key", sa.String(255), unique=True),
    sa.Column("fingerprint", sa.String(64), nullable=False),
)
_page = sa.Table(
    "ocr_pages",
    _tables,
    sa.Column("task_id", sa.String(36), sa.ForeignKey("ocr_tasks.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("sequence", sa.Integer, nullable=False),
    sa.Column("failed", sa.Boolean, nullable=False),
    sa.Column("result", sa.Text, nullable=False),
    sa.Index("ocr_pages_sequence", "task_id", "sequence"),
)
_replica = sa.Table(
    "ocr_replicas",
    _tables,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("host", sa.String(255), nullable=False),
    sa.Column("seen_at", sa.DateTime, nullable=False),
)


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


@dataclass(frozen=True)
class Replica:
    """A service that said it lived, on a host, so many seconds ago."""

    id: str
    host: str
    silent_s: float


class Store:
    """Opens the database, making the tables it lacks; `url` empty means SQLite at `file`.

    Raises DatabaseUnavailable with a sentence for the operator.
    """

    def __init__(self, url: str, file: Path) -> None:
        self.url = _database_url(url, file)
        self.sqlite = self.url.get_backend_name() == "sqlite"
        arguments = {"timeout": _BUSY_SECONDS} if self.sqlite else {"connect_timeout": _CONNECT_SECONDS}
        self._engine = sa.create_engine(self.url, connect_args=arguments, pool_pre_ping=not self.sqlite)
        if self.sqlite:
            sa.event.listen(self._engine, "connect", _prepare_sqlite)
        try:
            with self._engine.begin() as connection:
                _lock_tables(connection, self.sqlite)
                _tables.create_all(connection)
        except DBAPIError as error:
            log.debug("database_refused", kind=type(error.orig).__name__, trace=str(error.orig))
            self._engine.dispose()
            where = f"The SQLite file {file} cannot be opened for writing. Set DATA_DIR to a folder that this user may write."
            raise DatabaseUnavailable(
                where
                if self.sqlite
                else "The PostgreSQL server of DATABASE_URL does not answer or refuses the connection. Check the address, "
                "the user and the password."
            ) from None

    def close(self) -> None:
        """Let go of every connection."""
        self._engine.dispose()

    # Tasks

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
        now = _now()
        row = {
            "id": task_id,
            "ordered": json.dumps(order.to_json()),
            "state": TaskState.PENDING.value,
            "run": 1,
            "numbers": ranges.write(numbers),
            "total": len(numbers),
            "bytes": size,
            "created_at": queued.astimezone(timezone.utc).replace(tzinfo=None) if queued else now,
            "updated_at": now,
            "idempotency_key": order.idempotency_key or None,
            "fingerprint": fingerprint,
        }
        with self._changing() as connection:
            known = self._known(connection, order.idempotency_key, fingerprint)
            if known is not None:
                return known
            if self._count_unfinished(connection) >= most:
                raise TooManyTasks
            try:
                with connection.begin_nested():
                    connection.execute(sa.insert(_task).values(**row))
            except IntegrityError:  # the same key, in the same moment
                known = self._known(connection, order.idempotency_key, fingerprint)
                if known is None:
                    raise
                return known
            return self._get(connection, task_id)

    def get(self, task_id: str) -> Task:
        """Return a task; raises TaskNotFound."""
        with self._reading() as connection:
            return self._get(connection, task_id)

    def newest(self, limit: int, before: tuple[datetime, str] | None, state: TaskState | None) -> list[Task]:
        """Return tasks, newest first, those after the one that `before` names by time and id."""
        query = sa.select(_task).order_by(_task.c.created_at.desc(), _task.c.id.desc()).limit(limit)
        if before is not None:
            query = query.where(sa.tuple_(_task.c.created_at, _task.c.id) < sa.tuple_(*before))
        if state is not None:
            query = query.where(_task.c.state == state.value)
        with self._reading() as connection:
            return [_task_of(row) for row in connection.execute(query)]

    def start(self, task_id: str, run: int) -> None:
        """Note that the first page of a run is being read."""
        now = _now()
        change = sa.update(_task).where(_is(task_id, run), _task.c.state == TaskState.PENDING.value)
        with self._changing() as connection:
            connection.execute(change.values(state=TaskState.RUNNING.value, started_at=now, updated_at=now))

    def end(
        self, task_id: str, run: int | None, state: TaskState, error: tuple[str, str] | None, size: int = 0
    ) -> bool:
        """Finish an unfinished task, whatever its run where that is None; say whether it was one. `size` adds to its bytes."""
        now = _now()
        code, detail = error or (None, None)
        change = (
            sa.update(_task)
            .where(_is(task_id, run), _unfinished())
            .values(
                state=state.value,
                error_code=code,
                error_detail=detail,
                finished_at=now,
                updated_at=now,
                bytes=_task.c.bytes + size,
            )
        )
        with self._changing() as connection:
            return connection.execute(change).rowcount == 1

    def restart(self, task_id: str, most: int) -> Task:
        """Make a finished task pending again, without its failed pages, under a new run.

        Raises TaskConflict when it is unfinished or has nothing left to read.
        """
        with self._changing() as connection:
            task = self._get(connection, task_id)
            if task.unfinished:
                raise TaskConflict("The task is not finished. Wait for its end, or cancel it first.")
            if task.done == task.total and not task.failed:
                raise TaskConflict("Every page of the task was read: there is nothing to try again.")
            if self._count_unfinished(connection) >= most:
                raise TooManyTasks
            connection.execute(sa.delete(_page).where(_page.c.task_id == task_id, _page.c.failed))
            change = (
                sa.update(_task)
                .where(_is(task_id, task.run), sa.not_(_unfinished()))
                .values(
                    state=TaskState.PENDING.value,
                    run=task.run + 1,
                    done=task.done - task.failed,
                    failed=0,
                    finished_at=None,
                    error_code=None,
                    error_detail=None,
                    webhook_state=None,
                    updated_at=_now(),
                )
            )
            if connection.execute(change).rowcount != 1:
                raise TaskConflict
            return self._get(connection, task_id)

    def remove(self, task_id: str) -> None:
        """Forget a task and its pages; raises TaskNotFound."""
        with self._changing() as connection:
            connection.execute(sa.delete(_page).where(_page.c.task_id == task_id))
            if connection.execute(sa.delete(_task).where(_task.c.id == task_id)).rowcount == 0:
                raise TaskNotFound

    def set_webhook_state(self, task_id: str, state: str) -> None:
        """Note what became of a task's webhook."""
        with self._changing() as connection:
            connection.execute(sa.update(_task).where(_task.c.id == task_id).values(webhook_state=state))

    # Pages

    def pages_left(self, task_id: str, run: int) -> list[int]:
        """Return the pages that a run has to read; none where the task is finished or in another run."""
        with self._reading() as connection:
            numbers = connection.execute(sa.select(_task.c.numbers).where(_is(task_id, run), _unfinished())).scalar()
            if numbers is None:
                return []
            there = connection.execute(sa.select(_page.c.number).where(_page.c.task_id == task_id)).scalars()
            known = set(there)
            return [number for number in ranges.read(numbers) if number not in known]

    def add_page(self, task_id: str, run: int, page: PageResult) -> bool:
        """Write down a page, once; say whether the task still wants it."""
        failed = page.failure is not None
        # Escaped: PostgreSQL refuses NUL in a text, and both half a character.
        result = json.dumps(page.to_json())
        with self._changing() as connection:
            wanted = sa.select(_task.c.sequence).where(_is(task_id, run), _unfinished()).with_for_update()
            sequence = connection.execute(wanted).scalar()
            if sequence is None:
                return False
            same = sa.select(_page.c.number).where(_page.c.task_id == task_id, _page.c.number == page.number)
            if connection.execute(same).scalar() is not None:  # by a replica that was given up too early
                return True
            row = {"task_id": task_id, "number": page.number, "sequence": sequence + 1, "failed": failed}
            connection.execute(sa.insert(_page).values(**row, result=result))
            change = (
                sa.update(_task)
                .where(_task.c.id == task_id)
                .values(
                    sequence=sequence + 1,
                    done=_task.c.done + 1,
                    failed=_task.c.failed + int(failed),
                    updated_at=_now(),
                )
            )
            connection.execute(change)
            return True

    def pages(self, task_id: str) -> Iterator[PageResult]:
        """Yield the pages of a task in order, a few in memory at a time."""
        after = 0
        query = sa.select(_page.c.number, _page.c.result).where(_page.c.task_id == task_id).order_by(_page.c.number)
        while True:
            with self._reading() as connection:
                rows = connection.execute(query.where(_page.c.number > after).limit(64)).all()
            for row in rows:
                yield PageResult.from_json(json.loads(row.result))
                after = row.number
            if not rows:
                return

    def failed_pages(self, task_id: str, limit: int = 1000) -> list[PageResult]:
        """Return the first pages of a task that were not read."""
        query = sa.select(_page.c.result).where(_page.c.task_id == task_id, _page.c.failed)
        with self._reading() as connection:
            found = connection.execute(query.order_by(_page.c.number).limit(limit)).scalars()
            return [PageResult.from_json(json.loads(result)) for result in found]

    def pages_since(self, task_id: str, sequence: int, limit: int) -> list[tuple[int, PageResult]]:
        """Return the pages written down after number `sequence`, in that order, with their numbers."""
        query = (
            sa.select(_page.c.sequence, _page.c.result)
            .where(_page.c.task_id == task_id, _page.c.sequence > sequence)
            .order_by(_page.c.sequence)
            .limit(limit)
        )
        with self._reading() as connection:
            return [(row.sequence, PageResult.from_json(json.loads(row.result))) for row in connection.execute(query)]

    # All of them

    def counts(self) -> dict[str, int]:
        """Return how many tasks are in each state."""
        query = sa.select(_task.c.state, sa.func.count()).group_by(_task.c.state)
        with self._reading() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

    def total_bytes(self) -> int:
        """Return what the files of all tasks take."""
        with self._reading() as connection:
            return int(connection.execute(sa.select(sa.func.coalesce(sa.func.sum(_task.c.bytes), 0))).scalar_one())

    def unfinished(self) -> list[tuple[str, int, datetime]]:
        """Return id, run and time of the last change of every unfinished task."""
        query = sa.select(_task.c.id, _task.c.run, _task.c.updated_at).where(_unfinished())
        with self._reading() as connection:
            return [(row.id, row.run, row.updated_at) for row in connection.execute(query)]

    def finished_before(self, moment: datetime) -> list[str]:
        """Return the tasks that ended before `moment`."""
        query = sa.select(_task.c.id).where(sa.not_(_unfinished()), _task.c.finished_at < moment).limit(1000)
        with self._reading() as connection:
            return list(connection.execute(query).scalars())

    def known(self, task_ids: Sequence[str]) -> set[str]:
        """Return those of `task_ids` that are tasks."""
        with self._reading() as connection:
            return set(connection.execute(sa.select(_task.c.id).where(_task.c.id.in_(task_ids))).scalars())

    # Replicas

    def beat(self, replica_id: str, host: str) -> None:
        """Say that a replica lives."""
        with self._changing() as connection:
            now = self._clock(connection)
            change = sa.update(_replica).where(_replica.c.id == replica_id).values(seen_at=now)
            if connection.execute(change).rowcount == 0:
                connection.execute(sa.insert(_replica).values(id=replica_id, host=host, seen_at=now))

    def replicas(self) -> list[Replica]:
        """Return every replica that has not been forgotten, in the order of their ids."""
        with self._reading() as connection:
            now = self._clock(connection)
            rows = connection.execute(sa.select(_replica).order_by(_replica.c.id)).all()
        return [Replica(row.id, row.host, (now - row.seen_at).total_seconds()) for row in rows]

    def forget_replica(self, replica_id: str) -> None:
        """Take a replica off the list."""
        with self._changing() as connection:
            connection.execute(sa.delete(_replica).where(_replica.c.id == replica_id))

    # Inside

    @contextlib.contextmanager
    def _changing(self) -> Iterator[sa.Connection]:
        with _unavailable(), self._engine.begin() as connection:
            if self.sqlite:  # or two that read and then write would each keep the other from it
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with _unavailable(), self._engine.connect() as connection:
            yield connection

    def _clock(self, connection: sa.Connection) -> datetime:
        """Return the time of the database: replicas' clocks differ."""
        if self.sqlite:
            return _now()
        now: datetime = connection.execute(sa.select(sa.func.timezone("utc", sa.func.clock_timestamp()))).scalar_one()
        return now

    def _get(self, connection: sa.Connection, task_id: str) -> Task:
        row = connection.execute(sa.select(_task).where(_task.c.id == task_id)).one_or_none()
        if row is None:
            raise TaskNotFound
        return _task_of(row)

    def _known(self, connection: sa.Connection, key: str, fingerprint: str) -> Task | None:
        if not key:
            return None
        row = connection.execute(sa.select(_task).where(_task.c.idempotency_key == key)).one_or_none()
        if row is None:
            return None
        if row.fingerprint != fingerprint:
            raise IdempotencyConflict
        return _task_of(row)

    def _count_unfinished(self, connection: sa.Connection) -> int:
        return int(connection.execute(sa.select(sa.func.count()).select_from(_task).where(_unfinished())).scalar_one())


def days_ago(days: float) -> datetime:
    """Return the moment so many days before now, as the database writes moments."""
    return _now() - timedelta(days=days)


def moment(seconds: float) -> datetime:
    """Return so many seconds after 1970 as the database writes moments."""
    return datetime.fromtimestamp(seconds, timezone.utc).replace(tzinfo=None)


def _now() -> datetime:
    return datetime.now(timezone.utc).replace(tzinfo=None)


def _is(task_id: str, run: int | None) -> sa.ColumnElement[bool]:
    same = _task.c.id == task_id
    return same if run is None else sa.and_(same, _task.c.run == run)


def _unfinished() -> sa.ColumnElement[bool]:
    return _task.c.state.in_([state.value for state in UNFINISHED])


def _task_of(row: sa.Row[Any]) -> Task:
    values: dict[str, Any] = dict(row._mapping)
    fields = {name: values[name] for name in _SAME}
    for name in ("created_at", "updated_at", "started_at", "finished_at"):
        fields[name] = values[name].replace(tzinfo=timezone.utc) if values[name] else None
    return Task(order=Order.from_json(json.loads(values["ordered"])), state=TaskState(values["state"]), **fields)


def _database_url(url: str, file: Path) -> sa.URL:
    if not url:
        return sa.URL.create("sqlite", database=str(file))
    try:
        made = sa.make_url(url)
    except sa.exc.ArgumentError:
        made = None
    if made is None or made.get_backend_name() not in ("postgresql", "postgres"):
        raise DatabaseUnavailable("DATABASE_URL must look like postgresql://user:password@host:5432/name, or be empty.")
    return made.set(drivername="postgresql+psycopg")


def _prepare_sqlite(connection: Any, record: Any) -> None:
    # Transactions begin where this module says so: the driver's own begin comes too late, at the first write.
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA foreign_keys=ON")


def _lock_tables(connection: sa.Connection, sqlite: bool) -> None:
    """Let only one replica at a time look for tables and make them."""
    connection.exec_driver_sql("BEGIN IMMEDIATE" if sqlite else "SELECT pg_advisory_xact_lock(7201960)")


@contextlib.contextmanager
def _unavailable() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        log.error("database_failed", kind=type(error.orig).__name__, trace=str(error.orig))
        raise DatabaseUnavailable from None
