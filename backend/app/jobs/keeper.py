"""Keeps tasks going: launches the flow, takes over what dead replicas left, and clears away what is old."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from async_timeout import timeout

from app.errors import DatabaseUnavailable, ShuttingDown, TaskNotFound
from app.jobs.database import Database, days_ago, moment
from app.jobs.downloads import Downloads
from app.jobs.files import TaskFolder
from app.jobs.pages import TaskPages
from app.jobs.replica_store import ReplicaStore
from app.jobs.replicas import Replicas
from app.jobs.steps import Steps
from app.jobs.task import Run, Task, is_id
from app.jobs.task_store import TaskStore
from app.jobs.threads import Threads

if TYPE_CHECKING:
    from app.jobs.flow import Flow

log = structlog.get_logger()

SPOOL = "spool"
"""The folder in the data directory for uploads that stream in, and for what is read while its client waits."""

_BEAT_SECONDS = 1.0
# A request that comes before DBOS is loaded waits for it this long.
_LAUNCH_SECONDS = 30.0
# A task without a workflow is one whose service died between writing down the one and the other.
_LOST_SECONDS = 15.0
_END_POLLS, _END_POLL_SECONDS = 20, 0.1
_TIDY_SECONDS = 600.0
_STRAY_SECONDS = 24 * 3600.0


class Keeper:
    """One replica's. Finished tasks are kept for `days`, 0 for ever; `count` gets the number of tasks by state."""

    def __init__(
        self,
        threads: Threads,
        database: Database,
        tasks: TaskStore,
        reading: TaskPages,
        downloads: Downloads,
        steps: Steps,
        data: Path,
        days: float,
        count: Callable[[dict[str, int]], None],
    ) -> None:
        self._run = threads.run
        self._database = database
        self._tasks = tasks
        self._reading = reading
        self._downloads = downloads
        self._steps = steps
        self._data = data
        self._days = days
        self._count = count
        self._replicas = Replicas(ReplicaStore(database), data)
        self._flow: Flow | None = None
        self._launched = asyncio.Event()
        self._beating: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Join the replicas and begin. Returns before DBOS is loaded."""
        await self._run(self._replicas.join)
        self._beating = asyncio.create_task(self._keep(), name="documents")

    async def stop(self) -> None:
        """Leave what is under way to the next start or to another replica. Idempotent."""
        if self._beating is not None:
            self._beating.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._beating
            self._beating = None
        if self._flow is not None:
            await asyncio.to_thread(self._flow.destroy)
            self._flow = None
        with contextlib.suppress(DatabaseUnavailable):
            await self._run(self._replicas.leave)

    async def enqueue(self, task: Task) -> None:
        """Have the present run of a task read, which is in the database: if not now, it is found there later."""
        with contextlib.suppress(DatabaseUnavailable, ShuttingDown):
            flow = await self._launched_flow()
            await self._run(flow.enqueue, task.id, task.run)

    def stop_reading(self, task: Task) -> None:
        """Abort the pages of a task that are being read here; other replicas see at their next beat that it is over."""
        self._reading.stop((task.id, task.run))

    async def forget(self, task: Task) -> None:
        """Delete a finished task, its pages and its files; raises TaskNotFound."""
        flow = await self._launched_flow()
        await self._downloads.forget(task.id)
        await self._run(self._tasks.remove, task.id)
        await self._let_end(flow, task)
        await self._run(flow.delete, task.id, task.run)
        await self._run(TaskFolder(self._data, task.id).remove)
        log.info("task_deleted", job=task.id)

    async def _let_end(self, flow: Flow, task: Task) -> None:
        """Wait a moment for a run that is under way to see that it is over: it cannot write down its steps when it is deleted."""
        run = (task.id, task.run)
        for _ in range(_END_POLLS):
            if (await self._run(flow.states, [run])).get(run) != "PENDING":
                return
            await asyncio.sleep(_END_POLL_SECONDS)

    async def _keep(self) -> None:
        beats = 0
        while True:
            try:
                flow = self._flow or await self._launch()
                await self._beat(flow, beats)
                beats += 1
            except DatabaseUnavailable:
                pass  # it was logged; the next beat tries again
            except Exception:
                log.exception("documents_failed")
            await asyncio.sleep(_BEAT_SECONDS)

    async def _launch(self) -> Flow:
        flow = await asyncio.to_thread(_load_flow, self._database, self._replicas.id)
        launching = asyncio.ensure_future(asyncio.to_thread(flow.launch, self._steps, asyncio.get_running_loop()))
        try:
            await asyncio.shield(launching)
        except BaseException:
            # What is still being launched cannot be taken down: threads would be left over.
            await asyncio.wait({launching})
            try:
                await asyncio.to_thread(flow.destroy)
            except Exception:  # in place of a cancellation, the service would wait for this for ever
                log.exception("documents_failed")
            raise
        self._flow = flow
        self._launched.set()
        return flow

    async def _launched_flow(self) -> Flow:
        try:
            async with timeout(_LAUNCH_SECONDS):
                await self._launched.wait()
        except asyncio.TimeoutError:
            raise DatabaseUnavailable from None
        if self._flow is None:
            raise ShuttingDown
        return self._flow

    async def _beat(self, flow: Flow, beats: int) -> None:
        living = await self._run(self._replicas.living)
        for run in await self._run(self._stopped_elsewhere):
            self._reading.stop(run)
        # One takes over for all, the one with the lowest id. Should two do it at once, pages are read twice and written once.
        if self._replicas.id == min(living):
            for task_id in await self._run(flow.adopt, living):
                log.warning("task_taken_over", job=task_id)
            if beats % 10 == 0:
                await self._find_lost(flow)
            if beats % int(_TIDY_SECONDS / _BEAT_SECONDS) == 0:
                await self._tidy()
        if beats % 5 == 0:
            self._count(await self._run(self._tasks.counts))

    def _stopped_elsewhere(self) -> list[Run]:
        """Return the runs that are being read here although they were ended, by another replica say."""
        active = self._reading.active
        wanted = {(task_id, run) for task_id, run, _ in self._tasks.unfinished()} if active else set()
        return [run for run in active if run not in wanted]

    async def _find_lost(self, flow: Flow) -> None:
        """Start tasks that have no workflow, and end those whose workflow ended without them."""
        old = days_ago(_LOST_SECONDS / 86_400)
        waiting = [(task_id, run) for task_id, run, changed in await self._run(self._tasks.unfinished) if changed < old]
        states = await self._run(flow.states, waiting)
        for task_id, run in waiting:
            state = states.get((task_id, run))
            if state is None:
                log.warning("task_found", job=task_id)
                await self._run(flow.enqueue, task_id, run)
            elif state not in ("ENQUEUED", "PENDING", "DELAYED"):
                log.error("task_lost", job=task_id, state=state)
                await self._steps.fail(task_id, run)

    async def _tidy(self) -> None:
        """Delete tasks that are older than they are kept, and folders that belong to none."""
        if self._days:
            for task_id in await self._run(self._tasks.finished_before, days_ago(self._days)):
                with contextlib.suppress(TaskNotFound):
                    await self.forget(await self._run(self._tasks.get, task_id))
        for folder in await self._run(self._strays):
            await self._run(shutil.rmtree, folder, True)

    def _strays(self) -> list[Path]:
        """Return folders without a task that are no uploads under way either, and what killed services left in the spool."""
        tasks = [path for path in _old_folders(self._data) if is_id(path.name)]
        known = self._tasks.known([path.name for path in tasks])
        return [path for path in tasks if path.name not in known] + _old_folders(self._data / SPOOL)


def _old_folders(where: Path) -> list[Path]:
    old = days_ago(_STRAY_SECONDS / 86_400)
    found = []
    for entry in os.scandir(where):
        with contextlib.suppress(FileNotFoundError):  # it was deleted meanwhile
            if entry.is_dir() and moment(entry.stat().st_mtime) < old:
                found.append(Path(entry))
    return found


def _load_flow(database: Database, replica_id: str) -> Flow:
    from app.jobs.flow import Flow

    return Flow(database.url, replica_id)
