"""Kill -9 under a document, again and again, and see that every page comes out once and right.

`python -m benchmarks.jobs` reads 300 pages with RapidOCR and kills five times, on SQLite and on PostgreSQL with two
replicas; it prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from benchmarks.postgres import find_binaries, postgres
from benchmarks.service import BACKEND, SERVE

WORDS = ("harbour", "paper", "lantern", "meadow", "copper", "orchard", "signal", "window", "garden", "thunder")


@dataclass(frozen=True)
class Outcome:
    """What became of a document under which services were killed."""

    pages: int
    kills: int
    seconds: float
    resumed_s: list[float]
    wrong: list[int]
    read_again: int


class Replica:
    """A service as a process that can be killed and started again on its port; its log grows over all its lives."""

    def __init__(self, folder: Path, command: Sequence[str], settings: dict[str, object]) -> None:
        folder.mkdir(exist_ok=True)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.log = folder / "log"
        self._folder = folder
        self._command = command
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/tmp"),
            "PYTHONPATH": f"{BACKEND}:{BACKEND.parent}",
            "API_HOST": "127.0.0.1",
            "API_PORT": str(port),
            "LOG_FORMAT": "json",
            **{name.upper(): str(value) for name, value in settings.items()},
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and return at once."""
        with self.log.open("ab") as sink:
            self.process = subprocess.Popen(
                self._command, cwd=self._folder, env=self._environment, stdout=sink, stderr=sink
            )

    def kill(self) -> None:
        """Kill -9. Idempotent."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def get(self, path: str) -> dict[str, Any] | None:
        """Return the JSON at `path`, None while nobody answers."""
        try:
            answer = httpx.get(f"{self.url}{path}", timeout=30, trust_env=False)
        except httpx.TransportError:
            return None
        return answer.json() if answer.status_code == 200 else None

    def events(self) -> list[dict[str, Any]]:
        """Return the log's events."""
        lines = self.log.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]


def read_under_fire(
    replicas: Sequence[Replica],
    document: bytes,
    fields: dict[str, str],
    is_right: Callable[[int, str], bool],
    pages: int,
    kills: int,
    seed: int,
    patience: float = 120.0,
) -> Outcome:
    """Have `document` read while a replica is killed at `kills` random moments and started again.

    `is_right` judges the text of page 1, 2, ...; `patience` is for how long, in seconds, nothing may happen.
    """
    chance = random.Random(seed)
    for replica in replicas:
        replica.start()
    try:
        for replica in replicas:
            _wait(partial(replica.get, "/readyz"), patience)
        answer = httpx.post(
            f"{replicas[0].url}/api/ocr/pdf",
            files={"pdf": ("book.pdf", document)},
            data=fields,
            timeout=60,
            trust_env=False,
        )
        assert answer.status_code == 202, answer.text
        started = time.monotonic()
        path = f"/api/tasks/{answer.json()['task_id']}"
        moments = sorted(chance.sample(range(pages), kills))
        resumed = []
        for moment in moments:
            _progress(replicas, path, moment, patience)
            time.sleep(chance.uniform(0, 0.2))
            chance.choice(replicas).kill()
            killed = time.monotonic()
            for replica in replicas:
                if replica.process is None:
                    replica.start()
            before = _progress(replicas, path, 0, patience)
            if before < pages:
                _progress(replicas, path, before + 1, patience)
                resumed.append(round(time.monotonic() - killed, 2))
        _wait(lambda: any(_status(replica, path) in ("succeeded", "failed") for replica in replicas), patience)
        seconds = time.monotonic() - started
        task = next(filter(None, (replica.get(path) for replica in replicas)))
        found = task["result"]["pages"] if task["result"] else []
        assert [page["index"] for page in found] == list(range(pages)), task["error_message"]
        wrong = [page["index"] + 1 for page in found if not is_right(page["index"] + 1, page["markdown"])]
        events = [event for replica in replicas for event in replica.events()]
        read = Counter(event["page"] for event in events if event.get("event") == "page_recognised")
        return Outcome(pages, kills, round(seconds, 1), resumed, wrong, sum(read.values()) - len(read))
    finally:
        for replica in replicas:
            replica.kill()


def _status(replica: Replica, path: str) -> str | None:
    task = replica.get(f"{path}?pages=false")
    return task["status"] if task else None


def _progress(replicas: Sequence[Replica], path: str, least: int, patience: float) -> int:
    """Wait until so many pages are done, and return how many are."""
    done = 0

    def reached() -> bool:
        nonlocal done
        for replica in replicas:
            if task := replica.get(f"{path}?pages=false"):
                done = task["progress"]["pages_completed"]
                return done >= least or task["status"] not in ("pending", "running")
        return False

    _wait(reached, patience)
    return done


def _wait(happened: Callable[[], object], patience: float) -> None:
    deadline = time.monotonic() + patience
    while not happened():
        if time.monotonic() > deadline:
            raise RuntimeError(f"nothing happened for {patience} s")
        time.sleep(0.05)


def make_book(pages: int) -> tuple[bytes, list[str]]:
    """Return a PDF of small pages with a sentence each, and the sentences."""
    from tests.ingest.pdfs import Sheet, lines, pdf

    chance = random.Random(pages)
    texts = [f"Page {number} {chance.choice(WORDS)} {chance.choice(WORDS)}" for number in range(1, pages + 1)]
    return pdf(*[Sheet(lines(text, at=(20, 40)), (0, 0, 420, 90)) for text in texts]), texts


def same_text(expected: str, found: str) -> bool:
    """Say whether two texts have the same letters and digits; spaces and headings are layout."""
    return re.sub(r"[\W_]+", "", expected).lower() == re.sub(r"[\W_]+", "", found).lower()


def main() -> None:
    """Print what became of the document on each database."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pages", type=int, default=300)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--engine", default="rapidocr")
    asked = parser.parse_args()
    document, texts = make_book(asked.pages)
    report: dict[str, object] = {}

    def run(name: str, folder: Path, count: int, **settings: object) -> None:
        settings = {"inference_engine": asked.engine, "data_dir": folder / "data", **settings}
        replicas = [Replica(folder / f"replica-{number}", SERVE, settings) for number in range(count)]
        outcome = read_under_fire(
            replicas,
            document,
            {},
            lambda number, text: same_text(texts[number - 1], text),
            asked.pages,
            asked.kills,
            asked.seed,
        )
        report[name] = asdict(outcome)
        sys.stderr.write(f"{name}: {outcome}\n")

    with tempfile.TemporaryDirectory() as made:
        (Path(made) / "sqlite").mkdir()
        run("sqlite", Path(made) / "sqlite", 1)
        if find_binaries() is None:
            report["postgresql"] = "not installed"
        else:
            (Path(made) / "postgresql").mkdir()
            with postgres() as url:
                run("postgresql", Path(made) / "postgresql", 2, database_url=url)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
