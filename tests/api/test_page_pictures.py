"""Pictures of a task's pages: as they were read, so that boxes lie on them, and behind whatever is being read."""

from __future__ import annotations

import asyncio
import io
import uuid
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app import reader
from app.api.gate import hash_api_key
from app.ingest.decode import decode
from tests.documents import book, ended, keeping, send
from tests.ingest.pdfs import BLUE_CORNER, ENCRYPTED, PASSWORD, Sheet, pdf
from tests.ingest.pictures import LIMITS, corners, encode
from tests.ingest.test_decoder import stalling_jpeg
from tests.ingest.test_orientation import oriented
from tests.serving import upload

TURNED = pdf(
    Sheet(),
    Sheet(BLUE_CORNER, (0, 0, 400, 200), b"/CropBox[0 0 300 200]/Rotate 90"),
)


def stack() -> bytes:
    """A TIFF of two pages; the second has 300 x 200 pixels in squares of many greys."""
    squares = np.random.default_rng(7).integers(0, 256, (10, 15), np.uint8)
    second = Image.fromarray(squares).resize((300, 200), Image.Resampling.NEAREST)
    return encode(Image.new("L", (90, 40)), "TIFF", save_all=True, append_images=[second])


def pixels(jpeg: bytes) -> np.ndarray[Any, Any]:
    """The picture's pixels; it must be a JPEG."""
    with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as image:
        return np.asarray(image.convert("RGB")).astype(int)


@pytest.mark.parametrize(
    ("document", "number", "width", "size"),
    [
        (TURNED, 2, 2000, (200, 300)),
        (TURNED, 2, 100, (100, 150)),
        (stack(), 2, 150, (150, 100)),
        (encode(corners().resize((640, 320)), "JPEG", quality=95, exif=oriented(6)), 1, 160, (160, 320)),
    ],
)
async def test_a_page_is_shown_as_it_was_read(tmp_path, document, number, width, size):
    """Cropped and turned, and never scaled up."""
    async with keeping(tmp_path) as client:
        task = await ended(client, (await send(client, document))["task_id"])
        page = task["result"]["pages"][number - 1]
        answer = await client.get(f"/api/tasks/{task['task_id']}/pages/{number}/picture", params={"width": width})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
    shown = pixels(answer.content)
    assert shown.shape == (size[1], size[0], 3)
    assert page["image_dims"]["w"] * size[1] == page["image_dims"]["h"] * size[0]
    choice = reader.PageChoice(number, 72)
    read = Image.fromarray(decode(document, LIMITS, choice).pixels).resize(size, Image.Resampling.BOX)
    assert np.abs(shown - np.asarray(read)).mean() < 4


async def test_pictures_are_a_thousand_pixels_wide_unless_said_otherwise(tmp_path):
    """And a strip is no higher than 16,000."""
    async with keeping(tmp_path) as client:
        wide = (await send(client, pdf(Sheet(box=(0, 0, 1500, 30)))))["task_id"]
        strip = (await send(client, encode(Image.new("L", (20, 40_000)), "PNG")))["task_id"]
        assert pixels((await client.get(f"/api/tasks/{wide}/pages/1/picture")).content).shape == (20, 1000, 3)
        assert pixels((await client.get(f"/api/tasks/{strip}/pages/1/picture")).content).shape == (16_000, 8, 3)


async def test_what_is_not_there_is_not_shown(tmp_path):
    """Of tasks that there are, pages that they have, in widths that are offered."""
    async with keeping(tmp_path) as client:
        task_id = (await send(client, book(9), pages="2,4-5"))["task_id"]
        await ended(client, task_id)
        nobody = uuid.UUID(int=0)
        for address, status, code in (
            (f"{task_id}/pages/1/picture", 404, "task_page_not_found"),
            (f"{task_id}/pages/3/picture", 404, "task_page_not_found"),
            (f"{task_id}/pages/0/picture", 404, "task_page_not_found"),
            (f"{task_id}/pages/-4/picture", 404, "task_page_not_found"),
            (f"{task_id}/pages/{10**30}/picture", 404, "task_page_not_found"),
            (f"{task_id}/pages/first/picture", 422, "invalid_parameter"),
            (f"{task_id}/pages/4/picture?width=15", 422, "invalid_parameter"),
            (f"{task_id}/pages/4/picture?width=2001", 422, "invalid_parameter"),
            (f"{nobody}/pages/4/picture", 404, "task_not_found"),
            ("..%2Ftasks.sqlite/pages/4/picture", 404, "not_found"),
        ):
            answer = await client.get(f"/api/tasks/{address}")
            assert (answer.status_code, answer.json()["code"]) == (status, code), address
        assert (await client.get(f"/api/tasks/{task_id}/pages/4/picture")).status_code == 200
        (tmp_path / task_id / "source").unlink()
        gone = await client.get(f"/api/tasks/{task_id}/pages/4/picture")
        assert (gone.status_code, gone.json()["code"]) == (404, "task_file_not_found")


async def test_a_page_is_shown_before_it_is_read_and_needs_no_engine(tmp_path):
    """It may be looked at while it waits."""
    from tests.engines import LoadingEngine

    async with keeping(tmp_path, LoadingEngine(), wait_ready=False) as client:
        task_id = (await send(client, book(3)))["task_id"]
        answer = await client.get(f"/api/tasks/{task_id}/pages/3/picture")
    assert pixels(answer.content).shape == (100, 203, 3)


async def test_an_encrypted_document_is_shown_without_asking_for_its_password_again(tmp_path):
    """It is the task's."""
    async with keeping(tmp_path) as client:
        task_id = (await send(client, ENCRYPTED, password=PASSWORD))["task_id"]
        await ended(client, task_id)
        answer = await client.get(f"/api/tasks/{task_id}/pages/1/picture")
    assert pixels(answer.content).shape == (792, 612, 3)


async def test_browsers_keep_pictures(tmp_path):
    """For themselves, and each of its width."""
    key = "key"
    async with keeping(tmp_path, api_key_hashes=(hash_api_key(key),)) as client:
        client.headers["X-API-Key"] = key
        address = f"/api/tasks/{(await send(client, book(2)))['task_id']}/pages/2/picture"
        first = await client.get(address)
        assert first.headers["cache-control"] == "private, max-age=3600"
        again = await client.get(address, headers={"If-None-Match": f'"x", W/{first.headers["etag"]}'})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
        other = await client.get(f"{address}?width=50", headers={"If-None-Match": first.headers["etag"]})
        assert (other.status_code, pixels(other.content).shape) == (200, (25, 50, 3))
        del client.headers["X-API-Key"]
        assert (await client.get(address, headers={"If-None-Match": first.headers["etag"]})).status_code == 401


async def test_pictures_wait_for_pages_that_someone_waits_for(tmp_path, monkeypatch):
    """However early they came; and past a number of them they are refused."""
    monkeypatch.setattr(reader, "MOST_PICTURES", 3)
    done: list[str] = []
    async with keeping(tmp_path, decode_timeout_seconds=6) as client:
        task_id = (await send(client, book(3)))["task_id"]
        await ended(client, task_id)

        async def post(name: str, file: bytes | None = None) -> None:
            await client.post("/api/ocr", files=upload(file))
            done.append(name)

        async def look(number: int) -> None:
            answer = await client.get(f"/api/tasks/{task_id}/pages/{number}/picture")
            done.append(f"picture {number} {answer.status_code}")

        # One file stalls the only decoder until it is killed; the others queue behind it, in this order.
        calls = [post("stalled", stalling_jpeg()), look(1), look(2), look(3), look(2), post("page"), post("page")]
        running = []
        for call in calls:
            running.append(asyncio.ensure_future(call))
            await asyncio.sleep(0.3)
        await asyncio.gather(*running)
    assert done == ["picture 2 429", "stalled", "page", "page", "picture 1 200", "picture 2 200", "picture 3 200"]
