"""Which replicas live: each holds a lock on a file of its own and says so in the database."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import uuid
from pathlib import Path

from app.jobs.replica_store import ReplicaStore

# A replica on another machine, whose lock cannot be asked for, counts as dead after this silence.
SILENCE_SECONDS = 15.0


class Replicas:
    """This replica among those that share a database and a data directory. Every method blocks.

    The kernel lets go of a lock when its process dies, however it dies: a replica that is killed is known to be dead at
    once on its own machine, and after SILENCE_SECONDS on others.
    """

    def __init__(self, store: ReplicaStore, data: Path) -> None:
        self.id = str(uuid.uuid4())
        self._store = store
        self._folder = data / "replicas"
        self._host = socket.gethostname()
        self._lock: int | None = None

    def join(self) -> None:
        """Become a replica."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._lock = os.open(self._file(self.id), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._store.beat(self.id, self._host)

    def leave(self) -> None:
        """Be one no longer. Idempotent."""
        if self._lock is None:
            return
        lock, self._lock = self._lock, None
        with contextlib.suppress(OSError):
            self._file(self.id).unlink(missing_ok=True)
        os.close(lock)
        self._store.forget(self.id)

    def living(self) -> set[str]:
        """Say that this one lives, forget those that do not, and return the others' ids and this one's."""
        self._store.beat(self.id, self._host)
        living = set()
        for replica in self._store.all():
            # SQLite works on one machine only, whatever its containers call themselves.
            near = self._store.sqlite or replica.host == self._host
            if replica.id == self.id or (self._is_locked(replica.id) if near else replica.silent_s < SILENCE_SECONDS):
                living.add(replica.id)
            else:
                self._store.forget(replica.id)
                with contextlib.suppress(OSError):
                    self._file(replica.id).unlink(missing_ok=True)
        return living

    def _file(self, replica_id: str) -> Path:
        return self._folder / replica_id

    def _is_locked(self, replica_id: str) -> bool:
        try:
            file = os.open(self._file(replica_id), os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(file)
        return False
