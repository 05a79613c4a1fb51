"""Kill -9: no accepted document is lost, every page is there once, and at most the pages in flight are read again."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks.jobs import Replica, read_under_fire
from benchmarks.postgres import find_binaries, postgres
from tests.documents import EXACT, book, text_of

PAGES, KILLS, SEED = 10, 3, 20261123
SIDE_BY_SIDE = 2
PAGES_IN_FLIGHT = SIDE_BY_SIDE + 1  # one more is rendered ahead
COMMAND = (
    *(sys.executable, "-m", "tests.serve_engine", "tests.documents", "SizedEngine"),
    json.dumps({"pause": 0.3, "concurrency": SIDE_BY_SIDE}),
)


def read_on(folder, replicas, **settings):
    settings = {"data_dir": folder / "data", "decode_workers": 1, **settings}
    made = [Replica(folder / f"replica-{number}", COMMAND, settings) for number in range(replicas)]
    outcome = read_under_fire(
        made, book(PAGES), EXACT, lambda number, text: text == text_of(number), PAGES, KILLS, SEED, patience=40
    )
    assert outcome.wrong == []
    assert outcome.read_again <= KILLS * PAGES_IN_FLIGHT
    return outcome


@pytest.mark.slow
def test_a_document_survives_the_service_that_reads_it_on_sqlite(tmp_path):
    """One service, started again each time."""
    read_on(tmp_path, replicas=1)


@pytest.mark.slow
@pytest.mark.skipif(find_binaries() is None, reason="PostgreSQL is not installed")
def test_a_document_survives_either_of_two_services_on_postgresql(tmp_path):
    """The other one takes over."""
    with postgres() as url:
        read_on(tmp_path, replicas=2, database_url=url)
