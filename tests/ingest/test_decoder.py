"""The decoder pool: a file that stalls, crashes or bursts a worker costs its own request and no other."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import pickle
import signal
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import structlog
from PIL import Image

from app.errors import DecodeTimeout, ShuttingDown, TooManyPixels, UnreadableImage, UnsupportedMediaType
from app.exchange import Exchange
from app.ingest.choice import FIRST_PAGE
from app.ingest.decode import decode
from app.ingest.decoder import Decoder
from app.ingest.limits import IngestLimits
from app.ingest.sandbox import address_space_limit, memory_allowance
from app.page import Page
from app.vllm_models.views import ViewOptions, prepare_views
from app.workers import WorkerProcess
from tests.ingest.pictures import LIMITS, RED, WHITE, corners, encode, png

PATIENT = replace(LIMITS, max_pixels=50_000_000, decode_timeout=120)


@contextlib.asynccontextmanager
async def decoding(limits: IngestLimits = LIMITS, workers: int = 1) -> AsyncIterator[Decoder]:
    decoder = Decoder(limits, workers)
    try:
        yield decoder
    finally:
        await decoder.stop()


@cache
def stalling_jpeg() -> bytes:
    """A progressive JPEG of 25 megapixels whose last scan, a few bytes, is repeated: minutes to decode."""
    data = encode(Image.new("L", (5000, 5000), 128), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : data.rindex(b"\xff\xd9")]
    return data[:-2] + scan * 2000 + b"\xff\xd9"


def decoder_workers() -> list[int]:
    """Return the ids of this process's decoder workers: children of its fork server that hold a page file."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            opened = [str(fd.readlink()) for fd in (process / "fd").iterdir()]
            grandparent = parent_of(parent_of(int(process.name)))
            if grandparent == os.getpid() and any("deepseek-ocr-exchange" in name for name in opened):
                found.append(int(process.name))
    return found


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


async def test_a_page_comes_out_as_the_decoder_made_it() -> None:
    data = encode(corners(), "PNG")
    async with decoding() as decoder:
        await decoder.start()
        page = await decoder.decode(data)
    assert isinstance(page, Page)
    assert page.source_format == "PNG"
    assert page.pixels.flags.c_contiguous
    assert np.array_equal(page.pixels, np.asarray(corners()))


@pytest.mark.parametrize("options", [ViewOptions(128, 64, True), ViewOptions(64, 64, False)])
async def test_views_come_out_as_they_are_cut_of_the_page(options: ViewOptions) -> None:
    """A file turned by EXIF, with tiles and without any: pixels, grid and the page's own size."""
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encode(Image.effect_noise((200, 150), 80).convert("RGB"), "PNG", exif=exif)
    whole = decode(turned, LIMITS)
    wanted = prepare_views(whole.pixels, options)
    async with decoding() as decoder:
        page = await decoder.cut(turned, FIRST_PAGE, options)
    assert (page.width, page.height, page.source_format, page.number, page.pages) == (150, 200, "PNG", 1, 1)
    assert page.views.grid == wanted.grid
    assert np.array_equal(page.views.global_view, wanted.global_view)
    assert np.array_equal(page.views.tiles, wanted.tiles)


async def test_parts_of_a_page_come_out_as_jpeg() -> None:
    """Each as large as its box, with what is there."""
    async with decoding() as decoder:
        pictures = await decoder.crop(encode(corners(), "PNG"), FIRST_PAGE, [(0, 0, 8, 4), (40, 2, 41, 3)])
    found = [Image.open(BytesIO(picture)) for picture in pictures]
    assert [(picture.format, picture.size) for picture in found] == [("JPEG", (8, 4)), ("JPEG", (1, 1))]
    assert np.allclose(found[0], RED, atol=3)
    assert np.allclose(found[1], WHITE, atol=3)


async def test_pages_stay_whole_when_later_pages_take_their_way() -> None:
    shades = [10, 20, 30, 40, 50, 60]
    sizes = [(400, 300), (10, 10), (300, 400), (1, 1), (640, 480), (64, 32)]
    files = [encode(Image.new("L", size, shade), "PNG") for size, shade in zip(sizes, shades, strict=True)]
    async with decoding(workers=2) as decoder:
        pages = await asyncio.gather(*(decoder.decode(data) for data in files))
    for page, shade, (width, height) in zip(pages, shades, sizes, strict=True):
        assert page.pixels.shape == (height, width, 3)
        assert (page.pixels == shade).all()
        page.pixels[0, 0] = 0  # the page is the caller's own, and writable


async def test_what_is_wrong_with_a_file_arrives_in_full() -> None:
    async with decoding() as decoder:
        with pytest.raises(UnsupportedMediaType) as refusal:
            await decoder.decode(b"hello")
        assert refusal.value.detail == (
            "The file looks like plain text. Send a picture as JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF, JPEG 2000 or HEIC, or a PDF."
        )
        with pytest.raises(TooManyPixels, match=r"at most 1\.0 are accepted"):
            await decoder.decode(encode(Image.new("1", (1001, 1000)), "PNG"))


async def test_a_file_that_stalls_its_decoder_is_given_up_in_time() -> None:
    async with decoding(replace(PATIENT, decode_timeout=0.5)) as decoder:
        await decoder.start()
        began = time.monotonic()
        with structlog.testing.capture_logs() as logs, pytest.raises(DecodeTimeout) as refusal:
            await decoder.decode(stalling_jpeg())
        assert time.monotonic() - began < 5
        assert refusal.value.detail == (
            "Decoding the picture took longer than 0.5 s and was given up. Save it again as JPEG or PNG, or smaller."
        )
        assert logs == [
            {
                "event": "decoder_killed",
                "log_level": "warning",
                "reason": "timeout",
                "seconds": 0.5,
                "bytes": len(stalling_jpeg()),
            }
        ]
        assert (await decoder.decode(encode(corners(), "PNG"))).width == 64


@pytest.mark.skipif(sys.platform != "linux", reason="finds the worker through /proc")
async def test_a_killed_worker_costs_one_request() -> None:
    async with decoding(PATIENT) as decoder:
        await decoder.start()
        doomed = asyncio.ensure_future(decoder.decode(stalling_jpeg()))
        waiting = asyncio.ensure_future(decoder.decode(encode(corners(), "PNG")))
        await asyncio.sleep(0.2)
        (worker,) = decoder_workers()
        with structlog.testing.capture_logs() as logs:
            os.kill(worker, signal.SIGKILL)
            with pytest.raises(UnreadableImage) as refusal:
                await doomed
        assert refusal.value.detail == "The picture crashed its decoder. Save it again as JPEG or PNG and send that."
        assert [(log["event"], log["reason"], log["exitcode"]) for log in logs] == [("decoder_killed", "crash", -9)]
        assert (await waiting).width == 64


async def test_a_cancelled_request_frees_its_worker_at_once() -> None:
    async with decoding(PATIENT) as decoder:
        await decoder.start()
        for _ in range(3):
            gone = asyncio.ensure_future(decoder.decode(stalling_jpeg()))
            await asyncio.sleep(0.05)
            gone.cancel()
            with pytest.raises(asyncio.CancelledError):
                await gone
            page = await asyncio.wait_for(decoder.decode(encode(corners(), "PNG")), 10)
            assert np.array_equal(page.pixels, np.asarray(corners()))


async def test_requests_cancelled_at_any_moment_never_harm_the_next_page() -> None:
    large = encode(Image.new("L", (1000, 1000), 7), "PNG")
    async with decoding() as decoder:
        await decoder.start()
        for step in range(12):
            gone = asyncio.ensure_future(decoder.decode(large))
            await asyncio.sleep(0.002 * step)
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)
            page = await decoder.decode(encode(corners(), "PNG"))
            assert np.array_equal(page.pixels, np.asarray(corners()))


async def test_stop_ends_what_runs_and_what_waits() -> None:
    decoder = Decoder(PATIENT, 1)
    await decoder.start()
    calls = [asyncio.ensure_future(decoder.decode(stalling_jpeg())) for _ in range(2)]
    await asyncio.sleep(0.05)
    await decoder.stop()
    await decoder.stop()
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(outcome, ShuttingDown)


async def test_a_damaged_file_leaves_its_worker_alive() -> None:
    damaged = encode(corners(), "PNG")[:-40]
    async with decoding() as decoder:
        await decoder.start()
        before = decoder_workers()
        for _ in range(3):
            with pytest.raises(UnreadableImage):
                await decoder.decode(damaged)
        assert decoder_workers() == before


def decode_in(allowance: int, data: bytes) -> tuple[int, ...]:
    """Job: decode under a memory limit of `allowance` bytes."""
    with address_space_limit(allowance):
        return decode(data, PATIENT).pixels.shape


@pytest.mark.skipif(sys.platform != "linux", reason="the memory limit is Linux's")
async def test_a_file_that_wants_more_memory_than_allowed_is_refused() -> None:
    data = encode(Image.new("RGB", (4000, 4000)), "PNG", compress_level=1)
    worker = WorkerProcess("little-memory")
    try:
        with pytest.raises(TooManyPixels) as refusal:
            await worker.call(decode_in, 40_000_000, data, timeout=60)
        assert refusal.value.detail == (
            "Decoding this PNG picture takes more memory than the service allows. "
            "Scale it down, or save it again as JPEG or PNG."
        )
        first = worker.pid
        assert await worker.call(decode_in, 200_000_000, data, timeout=60) == (4000, 4000, 3)
        assert worker.pid == first
    finally:
        await worker.stop()


def test_the_memory_allowance_grows_with_the_limit_and_the_upload() -> None:
    assert memory_allowance(0, replace(LIMITS, max_pixels=1)) == 256 * 2**20 + 32
    assert memory_allowance(1000, replace(LIMITS, max_pixels=100_000_000)) == 256 * 2**20 + 3_200_000_000 + 3000


async def test_a_jpeg_2000_that_lies_about_its_size_does_not_take_the_memory_for_it() -> None:
    data = encode(corners(), "JPEG2000")
    size = data.index(b"\xff\x51") + 6
    huge = (60_000).to_bytes(4, "big")
    async with decoding() as decoder:
        with pytest.raises(UnreadableImage):
            await decoder.decode(data[:size] + huge * 2 + data[size + 8 : size + 16] + huge * 2 + data[size + 24 :])
        assert (await decoder.decode(encode(corners(), "PNG"))).width == 64


async def test_the_event_loop_stays_free_while_a_large_page_passes() -> None:
    size = (5000, 4000)
    data = png(size, 8, 0, (b"\0" + bytes(size[0])) * size[1])
    longest = 0.0
    done = asyncio.Event()

    async def watch() -> None:
        nonlocal longest
        while not done.is_set():
            began = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - began)

    async with decoding(PATIENT) as decoder:
        await decoder.start()
        watching = asyncio.ensure_future(watch())
        page = await decoder.decode(data)
        done.set()
        await watching
    assert page.pixels.nbytes == 60_000_000
    assert longest < 0.01  # of the loop's own processor time, so that a busy machine does not matter


def test_what_is_shipped_arrives_as_it_was() -> None:
    exchange = Exchange()
    pixels = np.random.default_rng(0).integers(0, 256, (12000, 1024, 3), np.uint8)
    for cargo in (pixels, pixels[:3], pixels[:1, :1]):
        arrived = pickle.loads(pickle.dumps(exchange.ship(cargo)))
        assert np.array_equal(arrived, cargo)
        assert arrived.flags.c_contiguous
    for upload in (b"", b"a", bytes(range(256)) * 2**18):
        assert pickle.loads(pickle.dumps(exchange.ship(upload))) == upload


def test_a_large_page_is_nowhere_twice() -> None:
    """What is written is given up by its writer, and what is read by the file; it arrives whole, at odd sizes too."""
    exchange = Exchange()
    for size in (33 * 2**20, 48 * 2**20 + 4097):
        pixels = np.arange(size, dtype=np.uint32).astype(np.uint8).reshape(1, -1, 1)
        expected = hashlib.sha256(pixels).digest()
        pickled = pickle.dumps(exchange.ship_away(pixels))
        left = np.count_nonzero(pixels)
        assert left <= 4096 * (size // 2**24 + 2)  # a page of memory at each end of a piece
        arrived = pickle.loads(pickled)
        assert hashlib.sha256(arrived).digest() == expected
        assert os.fstat(exchange._fd).st_blocks * 512 <= 32 * 2**20
    small = np.ones((10, 10, 3), np.uint8)
    assert pickle.loads(pickle.dumps(exchange.ship_away(small))).all()
    assert small.all()


def test_an_exchange_that_holds_less_than_announced_says_so() -> None:
    exchange = Exchange()
    with pytest.raises(EOFError):
        exchange.read(memoryview(bytearray(33 * 2**20)))
    with pytest.raises(EOFError):
        exchange.read(memoryview(bytearray(1)))
