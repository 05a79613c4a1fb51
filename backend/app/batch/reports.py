"""How a batch goes, told to a person, to a program, or to nobody."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from app.batch.documents import Document
from app.batch.run import Outcome
from deepseek_ocr import TaskPage


class QuietReport:
    """Tells what went wrong, on stderr, and nothing else."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)

    def __enter__(self) -> QuietReport:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def begun(self, document: Document, done: int, total: int) -> None:
        """Say nothing."""

    def page(self, document: Document, page: TaskPage) -> None:
        """Say nothing."""

    def ended(self, outcome: Outcome) -> None:
        """Name the pages that were not read."""
        for failure in outcome.failed:
            self.console.print(f"{outcome.document.path}: page {failure.page}: {failure.detail}", markup=False)
        if outcome.error:
            self.console.print(f"{outcome.document.path}: {outcome.error}", markup=False)


class ProgressReport(QuietReport):
    """Shows bars on stderr: documents, and pages of all documents that are begun, with the time left."""

    def __init__(self, documents: int) -> None:
        super().__init__()
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        self._bars = Progress(*columns, console=self.console)
        self._documents = self._bars.add_task("documents", total=documents)
        self._begun: dict[Document, TaskID] = {}

    def __enter__(self) -> ProgressReport:
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    def begun(self, document: Document, done: int, total: int) -> None:
        """Give the document a bar."""
        self._begun[document] = self._bars.add_task(document.path.name, completed=done, total=total)

    def page(self, document: Document, page: TaskPage) -> None:
        """Move its bar."""
        self._bars.advance(self._begun[document])

    def ended(self, outcome: Outcome) -> None:
        """Take its bar away."""
        if (bar := self._begun.pop(outcome.document, None)) is not None:
            self._bars.remove_task(bar)
        self._bars.advance(self._documents)
        super().ended(outcome)


class JsonReport(QuietReport):
    """Writes one JSON object a line on stdout: `page` for each page, `document` for each document, `summary` last."""

    def page(self, document: Document, page: TaskPage) -> None:
        """Write a page's number and, if it was not read, why."""
        error = page.error and {"code": page.error.code, "detail": page.error.detail}
        _write({"event": "page", "document": str(document.path), "page": page.number, "error": error})

    def ended(self, outcome: Outcome) -> None:
        """Write what became of a document."""
        failed = [{"page": it.page, "code": it.code, "detail": it.detail} for it in outcome.failed]
        _write(
            {
                "event": "document",
                "document": str(outcome.document.path),
                "files": [str(file) for file in outcome.files],
                "pages": outcome.pages,
                "skipped": outcome.skipped,
                "failed_pages": failed,
                "error": outcome.error or None,
            }
        )


def summarise(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """Count what became of the documents."""
    return {
        "documents": len(outcomes),
        "read": sum(outcome.good and not outcome.skipped for outcome in outcomes),
        "skipped": sum(outcome.skipped for outcome in outcomes),
        "failed": sum(not outcome.good for outcome in outcomes),
        "pages": sum(outcome.pages for outcome in outcomes),
        "failed_pages": sum(len(outcome.failed) for outcome in outcomes),
    }


def _write(event: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(event, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def tell_summary(outcomes: Sequence[Outcome], report: QuietReport) -> None:
    """End the report with the counts."""
    counts = summarise(outcomes)
    if isinstance(report, JsonReport):
        _write({"event": "summary", **counts})
    elif isinstance(report, ProgressReport):
        report.console.print(
            f"{counts['read']} read, {counts['skipped']} done before, {counts['failed']} with errors; "
            f"{counts['pages']} pages.",
            markup=False,
        )
