"""The replicas in the database, with when each last said that it lives. Every method blocks."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from app.jobs.database import REPLICA, Database


@dataclass(frozen=True)
class Replica:
    """A service that said it lived, on a host, so many seconds ago."""

    id: str
    host: str
    silent_s: float


class ReplicaStore:
    """Writes down which replicas there are."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.sqlite = database.sqlite

    def beat(self, replica_id: str, host: str) -> None:
        """Say that a replica lives."""
        with self._database.changing() as connection:
            at = self._database.clock(connection)
            change = sa.update(REPLICA).where(REPLICA.c.id == replica_id).values(seen_at=at)
            if connection.execute(change).rowcount == 0:
                connection.execute(sa.insert(REPLICA).values(id=replica_id, host=host, seen_at=at))

    def all(self) -> list[Replica]:
        """Return every replica that has not been forgotten, in the order of their ids."""
        with self._database.reading() as connection:
            at = self._database.clock(connection)
            rows = connection.execute(sa.select(REPLICA).order_by(REPLICA.c.id)).all()
        return [Replica(row.id, row.host, (at - row.seen_at).total_seconds()) for row in rows]

    def forget(self, replica_id: str) -> None:
        """Take a replica off the list."""
        with self._database.changing() as connection:
            connection.execute(sa.delete(REPLICA).where(REPLICA.c.id == replica_id))
