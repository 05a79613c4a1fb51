"""The command `deepseek-ocr read`: its arguments and its exit code."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from typing import Any

from app.batch.arguments import TIDY
from app.batch.documents import Document, Records, find_documents
from app.batch.reports import JsonReport, ProgressReport, QuietReport, tell_summary
from app.batch.run import Batch, Job, Outcome, explain
from app.errors import ServiceError
from app.logs import configure_logs
from app.settings import Settings
from deepseek_ocr import AsyncClient, OcrError

ALL_READ, SOME_FAILED, UNUSABLE, INTERRUPTED = 0, 1, 2, 130


def read(arguments: argparse.Namespace, settings: Settings) -> int:
    """Read what the arguments name; returns the exit code."""
    documents, missing = find_documents(arguments.paths, arguments.out)
    for path in missing:
        sys.stderr.write(f"deepseek-ocr: {path}: there is no such file, or no picture or PDF in it.\n")
    if missing:
        return UNUSABLE
    report: QuietReport = QuietReport()
    if arguments.json:
        report = JsonReport()
    elif not arguments.quiet:
        report = ProgressReport(len(documents))
    try:
        with report:
            outcomes = _read(documents, arguments, settings, report)
    except KeyboardInterrupt:
        sys.stderr.write("deepseek-ocr: stopped. The same command goes on from here.\n")
        return INTERRUPTED
    except (OcrError, ServiceError) as error:
        sys.stderr.write(f"deepseek-ocr: {error}\n")
        return UNUSABLE
    tell_summary(outcomes, report)
    return ALL_READ if all(outcome.good for outcome in outcomes) else SOME_FAILED


def _read(
    documents: list[Document], arguments: argparse.Namespace, settings: Settings, report: QuietReport
) -> list[Outcome]:
    """Read the documents that are not done; where all are, no service is started or asked."""
    formats = tuple(dict.fromkeys("markdown" if name == "md" else name for name in arguments.format or ("md",)))
    tidy = {name: True for name in TIDY if getattr(arguments, name)}
    options = _options(arguments)
    jobs, outcomes = [], []
    for document in documents:
        try:
            job = Job.of(document, arguments.out, formats, options, tidy)
        except OSError as error:
            outcome = Outcome(document, error=explain(error))
        else:
            if job.missing(Records(arguments.out)):
                jobs.append(job)
                continue
            outcome = Outcome(document, tuple(job.files.values()), skipped=True)
        outcomes.append(outcome)
        report.ended(outcome)

    async def run() -> list[Outcome]:
        async with _service(arguments, settings) as client:
            return await Batch(client, arguments.out, options, tidy, report).read(jobs, max(1, arguments.at_once))

    return [*outcomes, *asyncio.run(run())] if jobs else outcomes


@contextlib.asynccontextmanager
async def _service(arguments: argparse.Namespace, settings: Settings) -> AsyncIterator[AsyncClient]:
    if arguments.server:
        async with AsyncClient(arguments.server, api_key=settings.deepseek_ocr_api_key) as client:
            await client.modes()  # whether it is there at all, and the key is right
            yield client
        return
    from app.batch.service import own_service

    # What an interrupted run has read is found by the next one in the same output folder.
    own = settings.model_copy(update={"data_dir": str(arguments.out / ".deepseek-ocr" / "service"), "database_url": ""})
    configure_logs("error", settings.log_format)
    async with own_service(own) as client:
        yield client


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of the form that were given."""
    names = "mode pages resolution dpi password prompt find_term schema max_tokens".split()  # noqa: SIM905
    given = {name: getattr(arguments, name) for name in names}
    return {name: value for name, value in given.items() if value is not None} | {"grounding": arguments.grounding}
