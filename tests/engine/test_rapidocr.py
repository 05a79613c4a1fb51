"""The RapidOCR engine on real pages, with its real models, and with its process failing."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from PIL import Image, ImageDraw, ImageFont

from app.engine.base import Capabilities, Chunk, EngineState, Finish, GenerationRequest, Resolution, Usage
from app.engine.rapidocr import worker
from app.engine.rapidocr.engine import RapidOcrEngine
from app.engine.supervisor import EngineSupervisor
from app.errors import EngineFailed, EngineNotReady, EngineStartError, OutOfMemory
from app.exchange import Exchange
from app.page import Page
from benchmarks.pages import FONT_ROOT, Sheet, character_error_rate, render_page

pytestmark = pytest.mark.asyncio(loop_scope="module")

LATIN = str(FONT_ROOT / "dejavu/DejaVuSans.ttf")
CHINESE = str(FONT_ROOT / "wqy/wqy-microhei.ttc")
BACKEND = Path(worker.__file__).resolve().parents[3]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[RapidOcrEngine]:
    async with running(RapidOcrEngine()) as ready:
        yield ready


@asynccontextmanager
async def running(engine: RapidOcrEngine) -> AsyncIterator[RapidOcrEngine]:
    supervisor = EngineSupervisor(engine)
    await supervisor.start()
    try:
        await until_ready(engine)
        yield engine
    finally:
        await supervisor.stop()


def drawn(*lines: str, font: str = LATIN, size: int = 32, side: tuple[int, int] = (720, 720)) -> Image.Image:
    """Draw lines from (80, 60) downwards, black on white."""
    image = Image.new("RGB", side, "white")
    for number, text in enumerate(lines):
        at = (80, 60 + round(1.6 * size * number))
        ImageDraw.Draw(image).text(at, text, font=ImageFont.truetype(font, size), fill="black")
    return image


def request(
    image: Image.Image, mode: str = "plain_ocr", grounding: bool = False, term: str | None = None
) -> GenerationRequest:
    page = Page(np.ascontiguousarray(image.convert("RGB")), "PNG")
    return GenerationRequest("test", page, mode, "", grounding, Resolution(1024, 640, True), term)


async def chunks(engine: RapidOcrEngine, asked: GenerationRequest) -> list[Chunk]:
    return [chunk async for chunk in engine.generate(asked)]


async def read(
    engine: RapidOcrEngine,
    image: Image.Image,
    mode: str = "plain_ocr",
    grounding: bool = False,
    term: str | None = None,
) -> str:
    return "".join(chunk.text for chunk in await chunks(engine, request(image, mode, grounding, term)))


async def until_ready(engine: RapidOcrEngine) -> None:
    deadline = time.monotonic() + 60
    while engine.health().state is not EngineState.READY:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


def pid_of(engine: RapidOcrEngine) -> int:
    """Return the worker's process id, to do to it what the system may do."""
    assert engine._worker is not None
    assert engine._worker.pid is not None
    return engine._worker.pid


def is_empty(folder: Path) -> bool:
    return not any(folder.iterdir())


def address_space(pid: int) -> int:
    """Return the bytes of virtual memory a process uses."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(
        command, cwd=BACKEND, env=os.environ | environment, capture_output=True, text=True, check=False, timeout=60
    )


async def test_it_says_what_it_can_do_before_it_is_started() -> None:
    fresh = RapidOcrEngine()
    modes = {"plain_ocr", "multilingual", "markdown", "find_ref", "layout_map", "pii_redact"}
    assert fresh.capabilities() == Capabilities(modes=frozenset(modes), prompted=False, concurrency=1)
    assert fresh.health().state is EngineState.STARTING
    assert re.fullmatch(r"PP-OCRv6 small \(rapidocr \d+\.\d+\.\d+, openvino\)", fresh.model)
    with pytest.raises(EngineNotReady):
        await read(fresh, drawn("too early"))
    await fresh.stop()
    assert fresh.health().state is EngineState.STARTING


async def test_text_streams_while_the_page_is_read(engine: RapidOcrEngine) -> None:
    """Every row is a chunk of its own, and only the last chunk says how it ended."""
    received = await chunks(engine, request(drawn("First line of text", "second line of text")))
    assert [chunk.text for chunk in received] == ["First line of text", "\nsecond line of text", ""]
    assert [chunk.finish for chunk in received[:-1]] == [None, None]
    finish = received[-1].finish
    assert finish is not None
    assert finish.timing_ms.keys() == {"detect", "orient", "recognise"}
    assert finish == Finish("stop", Usage(), "native", finish.timing_ms)


@pytest.mark.parametrize("script", ["latin", "chinese"])
async def test_a_dense_page_is_read_nearly_without_error(engine: RapidOcrEngine, script: str) -> None:
    page = render_page(script, 77)
    assert character_error_rate(await read(engine, page.image), page.text) <= 0.01


@pytest.mark.parametrize(("script", "degrees"), [("latin", 90), ("latin", 180), ("chinese", 180), ("chinese", 270)])
async def test_a_turned_page_reads_as_well_as_upright(engine: RapidOcrEngine, script: str, degrees: int) -> None:
    page = render_page(script, 78, Sheet(fill=0.4))
    assert character_error_rate(await read(engine, page.image.rotate(degrees, expand=True)), page.text) <= 0.01


SPARSE = [
    (("harbour", "winter station"), LATIN),
    (("RAILWAY OFFICE",), LATIN),
    (("1961",), LATIN),
    (("3356.23", "3226.49", "890.10"), LATIN),
    (("今天天气很好",), CHINESE),
    (("火车站",), CHINESE),
]


@pytest.mark.parametrize("degrees", [3, 90, 177, 270])
@pytest.mark.parametrize(("lines", "font"), SPARSE)
async def test_few_words_are_read_whichever_way_up(
    engine: RapidOcrEngine, lines: tuple[str, ...], font: str, degrees: int
) -> None:
    """Pages of one to three lines, of digits, of capitals, and slightly skewed."""
    turned = drawn(*lines, font=font).rotate(degrees, expand=True, fillcolor="white", resample=Image.Resampling.BICUBIC)
    assert (await read(engine, turned)).split() == " ".join(lines).split()


@pytest.mark.parametrize("side", [(1, 1), (2, 3000), (3000, 2), (64, 64), (600, 800)])
async def test_a_picture_without_text_gives_an_empty_text(engine: RapidOcrEngine, side: tuple[int, int]) -> None:
    assert await read(engine, Image.new("RGB", side, "white")) == ""


async def test_a_single_small_word_fills_its_picture(engine: RapidOcrEngine) -> None:
    """The picture is the word: 20 pixels high."""
    word = drawn("Receipt", size=18, side=(170, 120)).crop((76, 60, 160, 80))
    assert await read(engine, word) == "Receipt"


async def test_a_large_page_is_read_scaled_down(engine: RapidOcrEngine) -> None:
    page = drawn("A large page", "of few words", size=140, side=(3000, 4500))
    received = await chunks(engine, request(page))
    assert "".join(chunk.text for chunk in received) == "A large page\nof few words"
    assert received[-1].finish is not None
    assert received[-1].finish.resolution == "1344x1984"


async def test_a_large_page_without_text_is_not_said_to_be_read_in_its_own_size(engine: RapidOcrEngine) -> None:
    received = await chunks(engine, request(Image.new("RGB", (3000, 4500), "white")))
    assert received[-1].finish is not None
    assert received[-1].finish.resolution == "1344x1984"


async def test_a_long_receipt_stays_legible(engine: RapidOcrEngine) -> None:
    """RapidOCR alone would scale it to a third, and lose every line."""
    lines = [f"article {number} of the winter list" for number in range(100, 190)]
    assert (await read(engine, drawn(*lines, size=22, side=(560, 3400)))).split() == " ".join(lines).split()


async def test_boxes_lie_on_the_page_as_given(engine: RapidOcrEngine) -> None:
    """A page on its side is read upright, and its box is where the word is on the page on its side."""
    upright = await read(engine, drawn("harbour"), grounding=True)
    sideways = await read(engine, drawn("harbour").rotate(90, expand=True), grounding=True)
    boxes = [[int(n) for n in re.findall(r"\d+", text.split("<|det|>")[1])] for text in (upright, sideways)]
    assert upright.startswith("<|ref|>harbour<|/ref|><|det|>[[")
    assert boxes[0] == pytest.approx([106, 86, 306, 141], abs=15)
    left, top, right, bottom = boxes[0]
    assert boxes[1] == pytest.approx([top, 999 - right, bottom, 999 - left], abs=8)


@pytest.mark.parametrize("mode", ["markdown", "layout_map"])
async def test_blocks_carry_their_kind_and_markdown(engine: RapidOcrEngine, mode: str) -> None:
    page = drawn("The first line of a paragraph", "and the second one of it", size=30)
    heading = ImageFont.truetype(LATIN, 64)
    page = Image.fromarray(np.concatenate([np.full((140, 720, 3), 255, np.uint8), np.asarray(page)]))
    ImageDraw.Draw(page).text((80, 40), "Heading", font=heading, fill="black")
    text = re.sub(r"\[\[.*?\]\]", "[[]]", await read(engine, page, mode))
    assert text == (
        "<|ref|>title<|/ref|><|det|>[[]]<|/det|>\n# Heading\n\n"
        "<|ref|>text<|/ref|><|det|>[[]]<|/det|>\nThe first line of a paragraph and the second one of it"
    )


async def test_a_found_term_is_boxed_within_its_line(engine: RapidOcrEngine) -> None:
    page = drawn("Subtotal 3.50 and", "Total 13.50")
    font = ImageFont.truetype(LATIN, 32)
    text = await read(engine, page, "find_ref", term="total")
    found = [[int(n) for n in box] for box in re.findall(r"\[(\d+),(\d+),(\d+),(\d+)\]", text)]
    left = (80 + font.getlength("Sub")) / 720 * 999
    right = (80 + font.getlength("Subtotal")) / 720 * 999
    assert [box[0::2] for box in found] == [
        pytest.approx([left, right], abs=10),
        pytest.approx([80 / 720 * 999, (80 + font.getlength("Total")) / 720 * 999], abs=14),
    ]
    assert await read(engine, page, "find_ref", term="absent") == ""


async def test_a_term_is_found_on_a_page_that_is_illegible_upside_down(engine: RapidOcrEngine) -> None:
    """Characters are located in lines of which no character was read."""
    page = drawn("象所民则加香", "看行义五林反", font=CHINESE).rotate(180)
    text = await read(engine, page, "find_ref", term="民则")
    assert re.sub(r"\d+", "0", text) == "<|ref|>民则<|/ref|><|det|>[[0,0,0,0]]<|/det|>"


async def test_personal_data_is_replaced_by_its_box(engine: RapidOcrEngine) -> None:
    text = await read(engine, drawn("Write to jo@example.org soon"), "pii_redact")
    assert re.sub(r"\[\[.*?\]\]", "[[]]", text) == "Write to [<|ref|>email<|/ref|><|det|>[[]]<|/det|>] soon"


async def test_a_cancelled_page_frees_the_engine(engine: RapidOcrEngine) -> None:
    """The process lives on and reads the next page."""
    pid = pid_of(engine)
    async with aclosing(engine.generate(request(render_page("latin", 5).image))) as pieces:  # type: ignore[type-var]
        async for _ in pieces:
            break
    assert await read(engine, drawn("the next page")) == "the next page"
    assert pid_of(engine) == pid


@pytest.mark.parametrize(
    ("megabytes", "error"),
    [(0, OutOfMemory), *((some, (OutOfMemory, EngineFailed)) for some in (20, 180))],  # OpenVINO may not name the cause
)
async def test_a_page_too_big_for_memory_costs_only_itself(engine: RapidOcrEngine, megabytes: int, error: Any) -> None:
    """The process is refused more memory, says so, and a new one reads on: what failed halfway is not used again."""
    pid = pid_of(engine)
    _, most = resource.prlimit(pid, resource.RLIMIT_AS)
    resource.prlimit(pid, resource.RLIMIT_AS, (address_space(pid) + megabytes * 10**6, most))
    with pytest.raises(error):
        await read(engine, Image.effect_noise((4000, 4000), 100).convert("RGB"))  # of a blank page little is looked at
    await until_ready(engine)
    assert await read(engine, drawn("there is room again")) == "there is room again"
    assert pid_of(engine) != pid


async def test_a_crash_costs_one_page_and_the_engine_comes_back(engine: RapidOcrEngine) -> None:
    """The page fails, requests that follow are told to wait, and then pages are read again."""
    pieces = engine.generate(request(render_page("latin", 6).image))
    await anext(pieces)
    os.kill(pid_of(engine), signal.SIGKILL)
    with pytest.raises(EngineFailed):
        async for _ in pieces:
            pass
    assert engine.health().state in (EngineState.FAILED, EngineState.STARTING)
    with pytest.raises(EngineNotReady) as refused:
        await read(engine, drawn("too early"))
    assert refused.value.retry_after == 5
    await until_ready(engine)
    assert await read(engine, drawn("back again")) == "back again"


async def test_a_process_that_dies_between_pages_is_replaced(engine: RapidOcrEngine) -> None:
    pid = pid_of(engine)
    os.kill(pid, signal.SIGKILL)
    while engine.health().state is EngineState.READY:
        await asyncio.sleep(0.05)
    await until_ready(engine)
    assert pid_of(engine) != pid


async def test_a_hung_process_is_killed() -> None:
    async with running(RapidOcrEngine(stall_timeout=1.0)) as engine:
        os.kill(pid_of(engine), signal.SIGSTOP)
        with pytest.raises(EngineFailed):
            await read(engine, drawn("never read"))
        assert engine.health().state in (EngineState.FAILED, EngineState.STARTING)


async def test_missing_libraries_are_named_with_their_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    with pytest.raises(EngineStartError, match=re.escape("`pip install '.[cpu]'`")):
        worker.load(0, Exchange())


async def test_the_service_process_never_imports_rapidocr() -> None:
    """Its import takes a second, which would delay listening."""
    code = """
        import sys, app.engine.rapidocr.engine
        print([name for name in ("rapidocr", "openvino", "cv2") if name in sys.modules])
    """
    assert run_python(code).stdout == "[]\n"


async def test_loading_and_reading_leave_no_trace(tmp_path: Path) -> None:
    """Nothing is written to the home directory or standard output, and nothing goes to the network."""
    code = """
        import socket, sys
        import numpy as np
        def refuse(*_): raise AssertionError("the network was tried")
        socket.socket.connect = refuse
        socket.getaddrinfo = refuse
        from app.engine.rapidocr import worker
        worker.load(1, None)
        blank = np.full((200, 400, 3), 255, np.uint8)
        job = worker.Job("plain_ocr", False, "")
        assert [item for item in worker.read_page(blank, job)][-1].reason == "stop"
        import threading
        assert [thread.name for thread in threading.enumerate()] == ["MainThread"]
    """
    done = run_python(code, HOME=str(tmp_path), TMPDIR=str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert is_empty(tmp_path)
