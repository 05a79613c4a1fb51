"""`deepseek-ocr read`: files and folders in, results out; what was interrupted goes on, what is done is skipped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.api.gate import hash_api_key
from app.batch.arguments import FORMATS
from app.batch.documents import find_documents
from tests.ingest.pdfs import letter, pdf
from tests.process import ROOT, Served, served
from tests.serving import png

FAKE = "# The fake engine"


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """A folder with a picture, a document below, and what is not to be read."""
    folder = tmp_path / "scans"
    (folder / "2026").mkdir(parents=True)
    (folder / "a.png").write_bytes(png())
    (folder / "2026/b.pdf").write_bytes(pdf(letter("one"), letter("two"), letter("three")))
    (folder / "notes.docx").write_bytes(b"nothing to see")
    return folder


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("service")
    with served(folder / "log", inference_engine="fake", decode_workers=1, data_dir=folder / "data") as running:
        yield running


def environment(**settings: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    path = f"{ROOT / 'backend'}:{ROOT}"
    return kept | {"PYTHONPATH": path, "INFERENCE_ENGINE": "fake", "DECODE_WORKERS": "1", **settings}


def read(folder: Path, *arguments: str | Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder without a `.env`."""
    command = [sys.executable, "-m", "app", "read", *map(str, arguments)]
    return subprocess.run(
        command, cwd=folder, env=environment(**settings), capture_output=True, text=True, timeout=300, check=False
    )


def events(run: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.stdout.splitlines()]


def test_a_folder_is_read_by_an_engine_of_the_command_s_own(scans: Path, tmp_path: Path) -> None:
    run = read(tmp_path, scans, "--out", "out", "--format", "md", "--format", "json", "--json")
    assert (run.returncode, run.stderr) == (0, "")
    *_, summary = events(run)
    assert summary == {
        **{"event": "summary", "documents": 2, "read": 2, "skipped": 0, "failed": 0, "pages": 4, "failed_pages": 0}
    }
    out = tmp_path / "out"
    assert (out / "a.md").read_text("utf-8").count(FAKE) == 1
    assert (out / "2026/b.md").read_text("utf-8").count(FAKE) == 3
    assert "](b/images/page-2-img-1.jpg)" in (out / "2026/b.md").read_text("utf-8")
    assert (out / "2026/b/images/page-2-img-1.jpg").read_bytes()[:2] == b"\xff\xd8"
    assert json.loads((out / "2026/b.json").read_text("utf-8"))


def test_what_is_done_is_skipped_until_it_changes(scans: Path, tmp_path: Path, service: Served) -> None:
    def outcome(*more: str) -> tuple[int, int]:
        run = read(tmp_path, scans, "--out", "out", "--json", "--server", service.url, *more)
        assert run.returncode == 0
        return events(run)[-1]["read"], events(run)[-1]["skipped"]

    assert outcome() == (2, 0)
    assert outcome() == (0, 2)
    (scans / "a.png").write_bytes(png(60, 60))
    assert outcome() == (1, 1)
    (tmp_path / "out/2026/b.md").unlink()
    assert outcome() == (1, 1)
    assert outcome("--mode", "plain_ocr") == (2, 0)


ZIPPED = {"result.md", "result.txt", "result.html", "raw.json", "result.docx", "searchable.pdf", "result.hocr"}


def test_a_document_is_written_in_several_formats_beside_each_other(
    scans: Path, tmp_path: Path, service: Served
) -> None:
    formats = [argument for name in FORMATS for argument in ("--format", name)]
    arguments = (scans / "2026", "--out", "out", "--json", "--server", service.url)
    run = read(tmp_path, *arguments, *formats)
    assert (run.returncode, run.stderr) == (0, "")
    out = tmp_path / "out"
    told = next(event for event in events(run) if event["event"] == "document")
    assert told["files"] == [f"out/b.{suffix}" for suffix in FORMATS.values()]
    assert {path.name for path in out.iterdir() if path.is_file()} == {f"b.{suffix}" for suffix in FORMATS.values()}
    assert (out / "b.searchable.pdf").read_bytes()[:5] == b"%PDF-"
    assert (out / "b.txt").read_text("utf-8").count("\f") == 2
    with zipfile.ZipFile(out / "b.zip") as packed:
        assert {name for name in packed.namelist() if "/" not in name} == ZIPPED
    assert events(read(tmp_path, *arguments, "--format", "docx"))[-1]["skipped"] == 1
    assert events(read(tmp_path, *arguments, "--format", "docx", "--join-pages"))[-1]["read"] == 1
    assert events(read(tmp_path, *arguments, "--format", "docx"))[-1]["read"] == 1


def test_only_the_formats_that_are_missing_are_written(scans: Path, tmp_path: Path, service: Served) -> None:
    """The others stay as they are, to the minute."""
    arguments = (scans / "a.png", "--out", "out", "--json", "--server", service.url)
    assert read(tmp_path, *arguments, "--format", "md", "--format", "text").returncode == 0
    (tmp_path / "out/a.md").write_text("corrected by hand")
    run = read(tmp_path, *arguments, "--format", "md", "--format", "text", "--format", "html")
    assert events(run)[-1]["read"] == 1
    assert (tmp_path / "out/a.md").read_text() == "corrected by hand"
    assert "<html" in (tmp_path / "out/a.html").read_text()


def test_results_among_the_scans_are_not_read_as_scans(scans: Path, tmp_path: Path, service: Served) -> None:
    """Nor is a scan written over."""
    before = (scans / "2026/b.pdf").read_bytes()
    for out in (scans, scans / "texts"):
        arguments = (scans, "--out", out, "--json", "--server", service.url, "--format", "pdf", "--format", "md")
        assert events(read(tmp_path, *arguments))[-1]["documents"] == 2
    again = events(read(tmp_path, scans, "--out", scans, "--json", "--server", service.url))[-1]
    assert (again["documents"], again["skipped"]) == (2, 2)
    assert (scans / "2026/b.pdf").read_bytes() == before


def test_two_copies_of_a_file_are_both_read(tmp_path: Path, service: Served) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(png())
    run = read(tmp_path, "a.png", "b.png", "--out", "out", "--json", "--server", service.url)
    assert events(run)[-1]["read"] == 2


def test_a_document_that_cannot_be_read_is_named_and_the_others_are_read(
    scans: Path, tmp_path: Path, service: Served
) -> None:
    (scans / "cut.png").write_bytes(png(400, 400)[:60])
    run = read(tmp_path, scans, "--out", "out", "--quiet", "--server", service.url)
    assert run.returncode == 1
    assert run.stdout == ""
    assert run.stderr.startswith(f"{scans / 'cut.png'}: page 1: The PNG picture is damaged or cut short.")
    assert (tmp_path / "out/a.md").exists()


def test_a_path_that_is_not_there_is_said_before_anything_is_read(tmp_path: Path) -> None:
    run = read(tmp_path, "nothing.pdf", "--out", "out")
    assert run.returncode == 2
    assert run.stderr == "deepseek-ocr: nothing.pdf: there is no such file, or no picture or PDF in it.\n"
    assert not (tmp_path / "out").exists()


def test_the_key_of_a_service_is_a_setting(scans: Path, tmp_path: Path) -> None:
    settings = {
        "inference_engine": "fake",
        "api_key_hashes": hash_api_key("open sesame"),
        "data_dir": tmp_path / "data",
    }
    with served(tmp_path / "log", **settings) as service:
        arguments = (scans, "--out", "out", "--quiet", "--server", service.url)
        refused = read(tmp_path, *arguments)
        taken = read(tmp_path, *arguments, DEEPSEEK_OCR_API_KEY="open sesame")
    assert refused.returncode == 2
    assert refused.stderr.startswith("deepseek-ocr: ")
    assert (taken.returncode, taken.stderr) == (0, "")


def test_a_service_that_is_not_there_is_said(scans: Path, tmp_path: Path) -> None:
    run = read(tmp_path, scans, "--out", "out", "--quiet", "--server", "http://127.0.0.1:9")
    assert run.returncode == 2
    assert "http://127.0.0.1:9 cannot be reached" in run.stderr


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    """RapidOCR reads a page in a good part of a second: the kill finds the document half read."""
    sheets = [letter(f"This is page {number} of the book") for number in range(1, 13)]
    (tmp_path / "book.pdf").write_bytes(pdf(*sheets))
    command = [sys.executable, "-m", "app", "read", "book.pdf", "--out", "out", "--json", "--mode", "plain_ocr"]
    settings = environment(INFERENCE_ENGINE="rapidocr")
    before = set()
    with subprocess.Popen(
        command, cwd=tmp_path, env=settings, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as run:
        assert run.stdout is not None
        for line in run.stdout:
            before.add(json.loads(line)["page"])
            if len(before) == 3:
                os.killpg(run.pid, signal.SIGKILL)
                break
    again = subprocess.run(command, cwd=tmp_path, env=settings, capture_output=True, text=True, timeout=300, check=True)
    told = [json.loads(line) for line in again.stdout.splitlines()]
    assert told[-1]["pages"] == 12
    text = (tmp_path / "out/book.md").read_text("utf-8")
    assert [text.count(f"This is page {number} of the book") for number in range(1, 13)] == [1] * 12


def test_an_interrupt_ends_it_with_a_word_and_no_process_left(tmp_path: Path) -> None:
    (tmp_path / "book.pdf").write_bytes(pdf(*(letter("x") for _ in range(30))))
    command = [sys.executable, "-m", "app", "read", "book.pdf", "--out", "out", "--json", "--mode", "plain_ocr"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment(INFERENCE_ENGINE="rapidocr"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Who runs the tests in the background of a script has interrupts ignored, by all that is started.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        run.stdout.readline()
        run.send_signal(signal.SIGINT)
        run.stdout.read()
        assert run.stderr.read() == "deepseek-ocr: stopped. The same command goes on from here.\n"
    assert run.returncode == 130
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.killpg(run.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise AssertionError("a process of the command is still there")


def test_files_folders_and_patterns_name_documents_each_once(scans: Path) -> None:
    (scans / "a.jpg").write_bytes(b"")
    given = [str(scans), str(scans / "a.png"), str(scans / "**/*.pdf"), str(scans / "*.gif")]
    found, missing = find_documents(given, scans.parent / "out")
    named = {document.path.relative_to(scans).as_posix(): document.name.as_posix() for document in found}
    assert named == {"2026/b.pdf": "2026/b", "a.jpg": "a", "a.png": "a.png"}
    assert missing == [str(scans / "*.gif")]
