"""The steps in which a document is read; each may be done again after a crash."""

from __future__ import annotations

import contextlib

import structlog

from app.errors import InternalError, TaskNotFound, WebhookRefused
from app.jobs import ranges
from app.jobs.downloads import Downloads
from app.jobs.page_store import PageStore
from app.jobs.pages import TaskPages
from app.jobs.task import NO_PAGE_READ, Task, TaskState
from app.jobs.task_store import TaskStore
from app.jobs.threads import Threads
from app.jobs.webhooks import Webhooks

log = structlog.get_logger()


class Steps:
    """What `flow` calls, as its protocol Work has it; while the database is away, they wait for it."""

    def __init__(
        self,
        threads: Threads,
        tasks: TaskStore,
        pages: PageStore,
        reading: TaskPages,
        downloads: Downloads,
        webhooks: Webhooks,
    ) -> None:
        self._insist = threads.insist
        self._run = threads.run
        self._tasks = tasks
        self._pages = pages
        self._reading = reading
        self._downloads = downloads
        self._webhooks = webhooks

    async def plan(self, task_id: str, run: int) -> str:
        """Return the pages that a run has to read, as ranges."""
        return ranges.write(await self._insist(self._pages.left, task_id, run))

    async def left(self, task_id: str, run: int) -> set[int]:
        """Return those of them that are still to be read."""
        return set(await self._insist(self._pages.left, task_id, run))

    async def take_turn(self, task_id: str, run: int) -> bool:
        """Wait until the document may read a page; False, without a turn, where its task wants none."""
        task = await self._task(task_id)
        if task is None or not task.unfinished or task.run != run:
            return False
        await self._reading.turns.take((task_id, run), task.order.priority)
        return True

    def give_turn_back(self) -> None:
        """End a turn."""
        self._reading.turns.give_back()

    async def read_page(self, task_id: str, run: int, number: int) -> bool:
        """Read a page and write it down; say whether the task still wants any."""
        task = await self._task(task_id)
        if task is None or not task.unfinished or task.run != run:
            return False
        if task.state is TaskState.PENDING:
            await self._insist(self._tasks.start, task_id, run)
        return await self._reading.read(task, number)

    async def finish(self, task_id: str, run: int) -> bool:
        """End the task, with its results unless it was cancelled; say whether somebody is to be told.

        Raises InternalError where it has pages left: better failed, and to be retried, than whole in appearance.
        """
        task = await self._task(task_id)
        if task is None or task.run != run:
            return False
        if task.unfinished:
            if task.done < task.total:
                raise InternalError
            size = await self._downloads.finish(task) - task.bytes
            error = None
            if task.failed == task.total:
                first = (await self._insist(self._pages.failed, task_id, 1))[0].failure
                reason = first.detail if first else ""
                error = (NO_PAGE_READ, f"None of the pages could be read. The first: {reason}")
            state = TaskState.FAILED if error else TaskState.SUCCEEDED
            if await self._insist(self._tasks.end, task_id, run, state, error, size):
                log.info("task_finished", job=task_id, state=state.value, pages=task.done, failed=task.failed)
        return bool(task.order.webhook_url)

    async def fail(self, task_id: str, run: int) -> bool:
        """End the task after a fault of ours; say whether somebody is to be told."""
        error = (InternalError.code, "The service failed on this document. Try it again.")
        await self._insist(self._tasks.end, task_id, run, TaskState.FAILED, error)
        task = await self._task(task_id)
        return task is not None and bool(task.order.webhook_url)

    async def notify(self, task_id: str, run: int, attempt: int, last: bool) -> bool:
        """Send the webhook of a run; say whether that is done with."""
        task = await self._task(task_id)
        if task is None or task.unfinished or task.run != run:
            return True
        try:
            sent = await self._run(self._webhooks.send, task.order.webhook_url, _notice(task))
            refused = False
        except WebhookRefused:
            sent, refused = False, True
        done = sent or refused or last
        state = "delivered" if sent else "failed" if done else "retrying"
        await self._insist(self._tasks.set_webhook_state, task_id, run, state)
        if not sent:
            log.warning("webhook_failed", job=task_id, attempt=attempt, refused=refused, final=done)
        return done

    async def _task(self, task_id: str) -> Task | None:
        with contextlib.suppress(TaskNotFound):
            return await self._insist(self._tasks.get, task_id)
        return None


def _notice(task: Task) -> dict[str, object]:
    """Return the body of the webhook."""
    return {
        "event": "task.cancelled" if task.state is TaskState.CANCELLED else "task.finished",
        "task_id": task.id,
        "status": task.status,
        "pages_total": task.total,
        "pages_failed": task.failed,
        "error_code": task.error_code,
        "url": f"/api/tasks/{task.id}",
    }
