"""The Python client on a real service: pages read, streamed, refused, waited for."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from deepseek_ocr import AsyncClient, Box, Client, Delta, OcrError, Page, Restart, ServiceUnreachable
from tests.engines import RetryingEngine
from tests.process import served
from tests.serving import png, serving_on_port

TEXT = "The fake engine.\nThis picture of 40 by 20 pixels was not read."


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("service")
    with served(folder / "log", inference_engine="fake", decode_workers=1, data_dir=folder) as service:
        yield service.url


def test_a_page_is_read_from_bytes_a_path_and_an_open_file(url: str, tmp_path: Path) -> None:
    path = tmp_path / "page.png"
    path.write_bytes(png())
    with Client(url) as ocr:
        for source in (png(), path, str(path), io.BytesIO(png())):
            page = ocr.read(source)
            assert (page.text, page.width, page.height) == (TEXT, 40, 20)
            assert (page.number, page.pages, page.finish_reason, page.truncated) == (1, 1, "stop", False)


def test_options_are_the_fields_of_the_api(url: str) -> None:
    with Client(url) as ocr:
        found = ocr.read(png(1000, 1000), mode="find_ref", find_term="Sum", resolution="tiny", max_tokens=None)
        filled = ocr.read(png(), mode="kv_json", schema={"total": ""})
    assert found.boxes == (Box("Sum", 100, 100, 400, 150),)
    assert found.json["metadata"]["resolution"] == "tiny"
    assert filled.json["metadata"]["mode"] == "kv_json"


def test_a_stream_ends_with_the_page_its_pieces_make(url: str) -> None:
    with Client(url) as ocr:
        *pieces, page = ocr.stream(png())
    assert isinstance(page, Page)
    assert all(isinstance(piece, Delta) for piece in pieces)
    assert len(pieces) > 5
    assert "".join(piece.text for piece in pieces) == page.raw_text == TEXT


async def test_the_asynchronous_client_does_the_same(url: str) -> None:
    async with AsyncClient(url) as ocr:
        page = await ocr.read(png())
        parts = [part async for part in ocr.stream(png())]
        modes = await ocr.modes()
    assert page.text == TEXT
    assert "".join(part.text for part in parts if isinstance(part, Delta)) == TEXT
    assert isinstance(parts[-1], Page)
    assert modes["engine"] == "fake"


def test_a_refusal_has_the_service_s_code_and_sentence(url: str) -> None:
    with Client(url) as ocr:
        with pytest.raises(OcrError, match="The PNG picture is damaged or cut short") as refused:
            ocr.read(png(400, 400)[:60])
        assert (refused.value.status, refused.value.code) == (422, "unreadable_image")
        with pytest.raises(OcrError, match="Unknown mode 'poem'"):
            list(ocr.stream(png(), mode="poem"))


def test_a_service_that_is_not_there_is_said_at_once() -> None:
    with (
        Client("http://127.0.0.1:9") as ocr,
        pytest.raises(ServiceUnreachable, match=r"http://127\.0\.0\.1:9 cannot be reached"),
    ):
        ocr.read(png())


def test_an_answer_of_something_else_is_said_to_be_that() -> None:
    page = httpx.MockTransport(lambda request: httpx.Response(502, text="<html>Bad gateway"))
    with Client("http://proxy", transport=page) as ocr, pytest.raises(OcrError) as refused:
        ocr.read(png())
    assert (refused.value.status, refused.value.code) == (502, "unexpected_answer")
    assert str(refused.value) == "http://proxy/api/ocr answered 502, and not as an OCR service."


async def test_a_restart_is_told() -> None:
    engine = RetryingEngine(["The same sentence comes again. " * 400, "A page that ends."])
    async with serving_on_port(engine) as service, AsyncClient(str(service.base_url)) as ocr:
        parts = [part async for part in ocr.stream(png())]
    restart = next(place for place, part in enumerate(parts) if isinstance(part, Restart))
    assert parts[restart] == Restart(2)
    said = [part.text for part in parts[restart + 1 : -1] if isinstance(part, Delta)]
    assert "".join(said) == parts[-1].text == "A page that ends."


async def test_a_busy_service_is_asked_again_when_it_says_so() -> None:
    """One place only; the second page waits the seconds that Retry-After names, and is read."""

    async with serving_on_port(None, max_queue=1) as service:
        busy = asyncio.Event()

        async def slowly() -> AsyncIterator[bytes]:
            yield b"--x\r\n"
            busy.set()
            await asyncio.sleep(0.5)

        slow = {"Content-Type": "multipart/form-data; boundary=x", "Content-Length": "400"}
        holder = asyncio.create_task(service.post("/api/ocr", headers=slow, content=slowly()))
        await busy.wait()
        await asyncio.sleep(0.1)
        async with AsyncClient(str(service.base_url), patience=0) as impatient:
            with pytest.raises(OcrError) as refused:
                await impatient.read(png())
        assert (refused.value.code, refused.value.retry_after) == ("queue_full", 5)
        async with AsyncClient(str(service.base_url)) as patient:
            page = await patient.read(png())
        await asyncio.gather(holder, return_exceptions=True)
    assert page.text == TEXT


def test_a_key_is_sent(tmp_path: Path) -> None:
    from app.api.gate import hash_api_key

    settings = {"inference_engine": "fake", "api_key_hashes": hash_api_key("open sesame"), "data_dir": tmp_path}
    with served(tmp_path / "log", **settings) as service:
        with Client(service.url) as stranger, pytest.raises(OcrError) as refused:
            stranger.read(png())
        with Client(service.url, api_key="open sesame") as friend:
            assert friend.read(png()).text == TEXT
    assert refused.value.code == "unauthorized"
