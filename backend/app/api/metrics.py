"""What Prometheus reads at /metrics; one registry per application."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from app.jobs.task import TaskState
from app.ocr.service import Recognition
from app.reader import ReadPage

# From a thumbnail on a GPU to a dense page on a small CPU, in seconds.
LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """The service's own metrics; `queue_depth` and `engine_ready` are read when scraped."""

    def __init__(self, queue_depth: Callable[[], int], engine_ready: Callable[[], bool]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "ocr_http_requests",
            "HTTP requests by route and status.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self.errors = Counter("ocr_errors", "Error answers by code.", ["code"], registry=self.registry)
        self.latency = Histogram(
            "ocr_http_request_seconds",
            "Time from a request's first byte to its answer's last.",
            ["route"],
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.stages = Histogram(
            "ocr_stage_seconds",
            "Time a page spends in each stage.",
            ["stage"],
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.tokens = Counter(
            "ocr_tokens", "Tokens by kind, where the engine has them.", ["kind"], registry=self.registry
        )
        self.pages = Counter(
            "ocr_pages", "Pages read, by mode and finish reason.", ["mode", "finish"], registry=self.registry
        )
        self.loops = Counter("ocr_loops", "Pages whose text repeats itself without end.", registry=self.registry)
        self.retries = Counter("ocr_retries", "Further readings of pages whose text looped.", registry=self.registry)
        self.tasks = Gauge("ocr_tasks", "Documents in the database, by state.", ["state"], registry=self.registry)
        self.task_pages = Counter(
            "ocr_task_pages", "Pages of documents, read or failed.", ["outcome"], registry=self.registry
        )
        Gauge("ocr_queue_depth", "Requests accepted and not yet answered.", registry=self.registry).set_function(
            queue_depth
        )
        Gauge("ocr_engine_ready", "1 while the engine serves requests.", registry=self.registry).set_function(
            lambda: float(engine_ready())
        )

    def observe_task_page(self, page: ReadPage | None) -> None:
        """Count a page of a document; None is one that failed."""
        self.task_pages.labels("failed" if page is None else "read").inc()
        if page is not None:
            self.observe_page(page.recognition, page.timing_ms)

    def observe_tasks(self, counts: dict[str, int]) -> None:
        """Take over how many documents there are in each state."""
        for state in TaskState:
            self.tasks.labels(state.value).set(counts.get(state.value, 0))

    def observe_page(self, recognition: Recognition, timing_ms: dict[str, float]) -> None:
        """Count one page read, with its time in each stage."""
        self.pages.labels(recognition.mode, recognition.finish.reason).inc()
        for stage, milliseconds in timing_ms.items():
            self.stages.labels(stage).observe(milliseconds / 1000)
        for kind in ("prompt", "image", "output"):
            count = getattr(recognition.usage, f"{kind}_tokens")
            if count is not None:
                self.tokens.labels(kind).inc(count)
        self.retries.inc(recognition.attempts - 1)
        if recognition.looped:
            self.loops.inc()
