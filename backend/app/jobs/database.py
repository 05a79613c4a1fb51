"""The database of documents: its tables, transactions and time. SQLite or PostgreSQL.

Everything that asks it blocks: call it in a thread. What the database refuses arrives as DatabaseUnavailable.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import structlog
from sqlalchemy.exc import DBAPIError

from app.errors import DatabaseUnavailable
from app.jobs.task import UNFINISHED

log = structlog.get_logger()

# SQLite lets one write at a time; the others wait this long for their turn, in seconds.
_BUSY_SECONDS = 30
_CONNECT_SECONDS = 10

_tables = sa.MetaData()
TASK = sa.Table(
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
PAGE = sa.Table(
    "ocr_pages",
    _tables,
    sa.Column("task_id", sa.String(36), sa.ForeignKey("ocr_tasks.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("sequence", sa.Integer, nullable=False),
    sa.Column("failed", sa.Boolean, nullable=False),
    sa.Column("result", sa.Text, nullable=False),
    sa.Index("ocr_pages_sequence", "task_id", "sequence"),
)
REPLICA = sa.Table(
    "ocr_replicas",
    _tables,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("host", sa.String(255), nullable=False),
    sa.Column("seen_at", sa.DateTime, nullable=False),
)


class Database:
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

    @contextlib.contextmanager
    def changing(self) -> Iterator[sa.Connection]:
        """Give a connection in a transaction that writes."""
        with _unavailable(), self._engine.begin() as connection:
            if self.sqlite:  # or two that read and then write would each keep the other from it
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection

    @contextlib.contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Give a connection that only reads."""
        with _unavailable(), self._engine.connect() as connection:
            yield connection

    def clock(self, connection: sa.Connection) -> datetime:
        """Return the time of the database: replicas' clocks differ."""
        if self.sqlite:
            return now()
        told: datetime = connection.execute(sa.select(sa.func.timezone("utc", sa.func.clock_timestamp()))).scalar_one()
        return told


def days_ago(days: float) -> datetime:
    """Return the moment so many days before now, as the database writes moments."""
    return now() - timedelta(days=days)


def moment(seconds: float) -> datetime:
    """Return so many seconds after 1970 as the database writes moments."""
    return datetime.fromtimestamp(seconds, timezone.utc).replace(tzinfo=None)


def now() -> datetime:
    """Return the present as the database writes moments."""
    return datetime.now(timezone.utc).replace(tzinfo=None)


def is_task(task_id: str, run: int | None) -> sa.ColumnElement[bool]:
    """Return the condition that a row is that task, in that run where one is given."""
    same = TASK.c.id == task_id
    return same if run is None else sa.and_(same, TASK.c.run == run)


def is_unfinished() -> sa.ColumnElement[bool]:
    """Return the condition that a row is a task that is not over."""
    return TASK.c.state.in_([state.value for state in UNFINISHED])


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
