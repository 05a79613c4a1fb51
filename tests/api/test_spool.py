"""Uploads on their way: on the disk that documents are kept on, not in memory and not in the machine's /tmp."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import AsyncIterator
from pathlib import Path

from tests.documents import book, keeping
from tests.serving import png, serving

BOUNDARY = "frontier"
HEAD = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="p.png"\r\n\r\n'.encode()
TAIL = f"\r\n--{BOUNDARY}--\r\n".encode()
FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
# Past the megabyte that is kept in memory; a PNG may have anything behind its end.
PADDING = bytes(3_000_000)


def open_files(folder: Path) -> list[Path]:
    """The files of this process in a folder, nameless ones too."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(entry.readlink())
    return [path for path in found if path.is_relative_to(folder)]


async def test_an_upload_streams_onto_the_disk_of_the_documents(tmp_path):
    """Without a name, so that nothing is left of one that breaks off."""
    seen: list[Path] = []

    async def body() -> AsyncIterator[bytes]:
        yield HEAD + png()
        yield PADDING
        yield bytes(10)
        seen.extend(open_files(tmp_path / "spool"))
        yield TAIL

    async with keeping(tmp_path) as client:
        answer = await client.post("/api/ocr", content=body(), headers=FORM)
        assert (answer.status_code, len(seen)) == (200, 1)
        assert (open_files(tmp_path / "spool"), list((tmp_path / "spool").iterdir())) == ([], [])


async def test_an_upload_that_breaks_off_is_closed(tmp_path):
    """Of a body that ends too early the file is missing; what is no form at all is malformed."""
    async with keeping(tmp_path) as client:
        cut = await client.post("/api/ocr", content=HEAD + png() + PADDING, headers=FORM)
        odd = await client.post("/api/ocr", content=b"no form", headers=FORM)
        assert open_files(tmp_path / "spool") == []
    assert (cut.status_code, cut.json()["code"]) == (422, "invalid_parameter")
    assert (odd.status_code, odd.json()["code"]) == (400, "malformed_request")


async def test_without_documents_uploads_go_where_the_machine_wants_them(tmp_path):
    """DATA_DIR is not touched."""
    async with serving(data_dir=str(tmp_path)) as client:
        answer = await client.post("/api/ocr", content=HEAD + png() + PADDING + TAIL, headers=FORM)
    assert (answer.status_code, list(tmp_path.iterdir())) == (200, [])


async def test_a_disk_without_room_for_an_upload_is_named(tmp_path):
    """And nothing is left of it; here a limit on the size of files stands for the disk."""
    async with keeping(tmp_path) as client:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8_000_000, hard))
        try:
            answer = await client.post("/api/ocr/pdf", files={"pdf": ("book.pdf", book(1) + bytes(9_000_000))})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert (answer.status_code, answer.json()["code"]) == (507, "storage_full")
        assert open_files(tmp_path / "spool") == []
    assert {entry.name for entry in tmp_path.iterdir() if entry.is_dir()} == {"spool", "replicas"}
