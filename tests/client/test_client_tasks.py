"""The Python client and documents: handed over, followed, fetched, cancelled, deleted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.results.writers import FORMATS
from deepseek_ocr import AsyncClient, Client, OcrError, Progress, Task, TaskPage
from deepseek_ocr.calls import FILES
from tests.ingest.pdfs import letter, pdf
from tests.process import served

PAGES = 3


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("service")
    with served(folder / "log", inference_engine="fake", decode_workers=1, data_dir=folder / "data") as service:
        yield service.url


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "three pages.pdf"
    path.write_bytes(pdf(*(letter(f"page {number}") for number in range(1, PAGES + 1))))
    return path


def test_a_document_is_handed_over_followed_and_fetched(url: str, document: Path, tmp_path: Path) -> None:
    with Client(url) as ocr:
        task = ocr.submit(document, mode="markdown")
        *pages, ended = ocr.follow(task)
        again = ocr.task(task)
        ocr.download(task, "result.md", tmp_path / "result.md")
        ocr.delete(task)
        with pytest.raises(OcrError) as gone:
            ocr.task(task)
    assert task.name == "three pages.pdf"
    assert sorted(page.number for page in pages if isinstance(page, TaskPage)) == [1, 2, 3]
    assert isinstance(ended, Task)
    assert (ended.status, ended.progress, ended.failed_pages) == ("succeeded", Progress(3, 3), ())
    assert [page.number for page in again.pages] == [1, 2, 3]
    assert all("# The fake engine" in page.text and page.error is None for page in again.pages)
    assert (tmp_path / "result.md").read_text("utf-8").count("# The fake engine") == 3
    assert gone.value.status == 404


def test_the_same_key_is_the_same_task(url: str, document: Path) -> None:
    with Client(url) as ocr:
        first = ocr.submit(document, idempotency_key="k1")
        second = ocr.submit(document, idempotency_key="k1")
        third = ocr.submit(document, idempotency_key="k2")
        assert first.id == second.id != third.id
        assert {task.id for task in ocr.tasks()} >= {first.id, third.id}


def test_a_task_is_fetched_in_every_format(url: str, document: Path, tmp_path: Path) -> None:
    begins = {"docx": b"PK", "csv": b"PK", "archive": b"PK", "zip": b"PK", "pdf": b"%PDF", "hocr": b"<?xml"}
    with Client(url) as ocr:
        task = ocr.submit(document, mode="markdown")
        *_, ended = ocr.follow(task)
        for name in FILES:
            ocr.download(ended, name, tmp_path / name)
        ocr.download(ended, "images/page-2-img-1.jpg", tmp_path / "figure")
        ocr.download(ended, "html", tmp_path / "german", language="de", join_pages=True)
        with pytest.raises(OcrError) as refused:
            ocr.download(ended, "odt", tmp_path / "odt")
    assert set(FILES) == set(FORMATS) == set(ended.json["result"]["files"])
    assert {name: FORMATS[name].file_name for name in FILES} == FILES
    assert {name: (tmp_path / name).read_bytes()[: len(start)] for name, start in begins.items()} == begins
    assert (tmp_path / "figure").read_bytes()[:2] == b"\xff\xd8"
    assert 'lang="de"' in (tmp_path / "german").read_text("utf-8")
    assert (refused.value.code, list(tmp_path.glob("odt*"))) == ("task_file_not_found", [])


async def test_the_asynchronous_client_does_the_same(url: str, document: Path, tmp_path: Path) -> None:
    async with AsyncClient(url) as ocr:
        task = await ocr.submit(document, pages="2-")
        parts = [part async for part in ocr.follow(task)]
        await ocr.download(task, "json", tmp_path / "raw.json")
        await ocr.download(task, "text", tmp_path / "joined", join_hyphens=True)
        listed = [each.id async for each in ocr.tasks()]
        cancelled = await ocr.cancel(task)
        await ocr.delete(task)
    assert sorted(part.number for part in parts[:-1]) == [2, 3]
    assert parts[-1].status == cancelled.status == "succeeded"
    assert task.id in listed
    assert (tmp_path / "raw.json").stat().st_size > 100
    assert (tmp_path / "joined").read_text("utf-8").count("\f") == 1


def test_a_page_that_is_not_there_is_refused(url: str, document: Path) -> None:
    with Client(url) as ocr, pytest.raises(OcrError) as refused:
        ocr.submit(document, pages="9")
    assert (refused.value.status, refused.value.code) == (422, "page_out_of_range")
