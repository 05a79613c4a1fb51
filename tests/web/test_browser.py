"""The page in a real Chromium, on a real service."""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from PIL import Image

from tests.ingest.pdfs import letter, pdf
from tests.process import ROOT, Served, served
from tests.serving import png

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
CHROMIUM = shutil.which("chromium")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian package chromium)"),
]

SAMPLE = ROOT / "docs/images/sample.png"
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("service")
    with served(folder / "log", inference_engine="rapidocr", decode_workers=1, data_dir=folder) as running:
        yield running


@dataclass
class Visit:
    """A visit to the page: every complaint of the console and every request to another host is kept."""

    page: playwright.Page
    complaints: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)

    def read(self, file: Path | dict[str, object]) -> None:
        """Choose a file and have it read to the end."""
        self.page.set_input_files("#file", file)
        self.page.click("#read")
        self.page.wait_for_selector("#copy:enabled", timeout=60_000)


@pytest.fixture
def visit(browser: playwright.Browser, service: Served, request: pytest.FixtureRequest) -> Iterator[Visit]:
    """The page, opened with the options of `@pytest.mark.parametrize("visit", [...], indirect=True)`."""
    context = browser.new_context(**{"viewport": DESKTOP, "locale": "en-GB", **getattr(request, "param", {})})
    yield open_page(context, service.url)
    context.close()


def open_page(context: playwright.BrowserContext, url: str) -> Visit:
    visit = Visit(context.new_page())
    page = visit.page
    page.on("console", lambda message: visit.complaints.append(message.text) if message.type != "log" else None)
    page.on("pageerror", lambda error: visit.complaints.append(str(error)))
    ours = (f"{url}/", "blob:", "data:")
    page.on("request", lambda asked: None if asked.url.startswith(ours) else visit.elsewhere.append(asked.url))
    page.goto(f"{url}/")
    return visit


@pytest.mark.parametrize(
    "visit",
    [
        pytest.param({}, id="desktop"),
        pytest.param({"viewport": PHONE, "color_scheme": "dark", "locale": "zh-CN", "has_touch": True}, id="phone"),
    ],
    indirect=True,
)
def test_a_page_is_read_with_its_boxes(visit: Visit) -> None:
    visit.read(SAMPLE)
    page = visit.page
    text = page.inner_text("#panel-text")
    assert "Harbour Paper Company\n海港纸业有限公司\nInvoice 2026-1147" in text
    assert page.locator("#boxes rect").count() == page.locator("#panel-text mark").count() == 20
    drawn, picture = page.locator("#boxes rect").first.bounding_box(), page.locator("#image").bounding_box()
    body = json.loads(page.text_content("#panel-json"))
    left, top, right, bottom = (edge * picture["width"] / body["image_dims"]["w"] for edge in body["boxes"][0]["box"])
    assert drawn["x"] - picture["x"] == pytest.approx(left, abs=2)
    assert drawn["y"] - picture["y"] == pytest.approx(top, abs=2)
    assert (drawn["width"], drawn["height"]) == pytest.approx((right - left, bottom - top), abs=4)
    assert page.evaluate("document.documentElement.scrollWidth") == page.viewport_size["width"]
    assert (visit.complaints, visit.elsewhere) == ([], [])


def test_a_box_and_its_text_light_up_together(visit: Visit) -> None:
    visit.read(SAMPLE)
    page = visit.page
    page.hover("#boxes rect >> nth=2")
    assert page.inner_text("#panel-text mark.on") == "Invoice 2026-1147"
    page.mouse.move(0, 0)
    page.focus("#panel-text mark >> nth=0")
    assert page.locator("#boxes rect.on").get_attribute("aria-label") == "Box 1: Harbour Paper Company"


def test_the_tabs_work_with_the_keyboard_and_show_the_json(visit: Visit) -> None:
    visit.read(SAMPLE)
    page = visit.page
    page.focus("#tab-text")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.locator("[role=tab][aria-selected=true]").inner_text() == "JSON"
    assert json.loads(page.inner_text("#panel-json"))["metadata"]["engine"] == "rapidocr"
    page.keyboard.press("Home")
    assert page.is_visible("#panel-text")
    assert not page.is_visible("#panel-json")


def test_markdown_is_shown_as_it_is_meant_and_its_tables_alone(visit: Visit) -> None:
    visit.page.select_option("#mode", "markdown")
    visit.read(SAMPLE)
    page = visit.page
    page.click("#tab-rendered")
    assert page.locator("#panel-rendered table tr").count() >= 4
    page.click("#tab-tables")
    rows = page.locator("#panel-tables table tr").all_inner_texts()
    assert any("Delivery" in row and "6.50" in row for row in rows)
    assert (visit.complaints, visit.elsewhere) == ([], [])


def test_what_was_read_can_be_saved(visit: Visit) -> None:
    visit.read(SAMPLE)
    with visit.page.expect_download() as download:
        visit.page.click("#save")
    assert download.value.suggested_filename == "sample.txt"
    assert Path(download.value.path()).read_text("utf-8").startswith("Harbour Paper Company\n")


def test_a_photo_turned_by_its_exif_tag_has_its_boxes_in_place(visit: Visit) -> None:
    with Image.open(SAMPLE) as sample:
        exif = Image.Exif()
        exif[0x0112] = 6
        buffer = io.BytesIO()
        sample.convert("RGB").rotate(90, expand=True).save(buffer, "JPEG", quality=95, exif=exif)
    visit.read({"name": "photo.jpg", "mimeType": "image/jpeg", "buffer": buffer.getvalue()})
    page = visit.page
    assert page.inner_text("#panel-text").startswith("Harbour Paper Company\n")
    box, picture = page.locator("#boxes rect").first.bounding_box(), page.locator("#image").bounding_box()
    assert box["y"] - picture["y"] < picture["height"] / 8


def test_a_refusal_is_said_in_the_service_s_words(visit: Visit) -> None:
    visit.page.set_input_files("#file", {"name": "cut.png", "mimeType": "image/png", "buffer": png(400, 400)[:60]})
    visit.page.click("#read")
    visit.page.wait_for_selector("#error:not(:empty)")
    assert visit.page.inner_text("#error") == (
        "The PNG picture is damaged or cut short. It is not read in part, because text would be missing. "
        "Check that it opens whole in a viewer and send it again."
    )
    assert visit.page.is_enabled("#read")


def test_reading_without_a_file_says_what_to_do(visit: Visit) -> None:
    visit.page.click("#read")
    assert visit.page.inner_text("#error") == "Choose a file first."


def test_fields_appear_with_the_mode_that_needs_them(visit: Visit) -> None:
    page = visit.page
    assert not page.is_visible("[name=find_term]")
    page.select_option("#mode", "find_ref")
    assert page.inner_text("#mode-help") == "Where a word or line stands on the page."
    page.fill("[name=find_term]", "Delivery")
    visit.read(SAMPLE)
    assert page.locator("#boxes rect").count() == 1


def test_the_theme_is_kept(visit: Visit) -> None:
    page = visit.page
    page.click("#theme")
    assert page.get_attribute("html", "data-theme") == "dark"
    page.reload()
    assert page.get_attribute("html", "data-theme") == "dark"
    page.click("#theme")
    assert page.get_attribute("html", "data-theme") == "light"


@pytest.mark.parametrize("visit", [{}, {"color_scheme": "dark", "viewport": PHONE}], indirect=True)
def test_axe_finds_nothing_serious(visit: Visit) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    for look in ("empty", "read"):
        if look == "read":
            visit.read(SAMPLE)
        found = axe.Axe().run(visit.page).response["violations"]
        assert [(each["id"], each["impact"]) for each in found] == []


def test_a_whole_document_is_read_shown_downloaded_and_deleted(visit: Visit) -> None:
    page = visit.page
    book = pdf(letter("The first page"), letter("The second page"), letter("The last page"))
    page.set_input_files("#file", {"name": "book.pdf", "mimeType": "application/pdf", "buffer": book})
    page.click("#whole")
    entry = page.locator("#documents > li").first
    entry.get_by_text("Done: 3 pages").wait_for(timeout=60_000)
    entry.get_by_role("button", name="Show").click()
    assert entry.locator(".pages > li").all_inner_texts() == [
        f"Page {number}\nThe {name} page" for number, name in enumerate(("first", "second", "last"), 1)
    ]
    with page.expect_download() as download:
        entry.get_by_role("button", name="All files (zip)").click()
    assert download.value.suggested_filename == "book_PDF_OCR_Result.zip"
    page.reload()
    page.locator("#documents h3", has_text="book.pdf").wait_for()
    page.locator("#documents > li").first.get_by_role("button", name="Delete").click()
    page.locator("#documents h3", has_text="book.pdf").wait_for(state="detached")
    assert (visit.complaints, visit.elsewhere) == ([], [])


def test_a_document_is_cancelled_and_read_on(visit: Visit) -> None:
    page = visit.page
    book = pdf(*(letter(f"Page {number}") for number in range(1, 13)))
    page.set_input_files("#file", {"name": "long.pdf", "mimeType": "application/pdf", "buffer": book})
    page.click("#whole")
    entry = page.locator("#documents > li").first
    entry.get_by_text(re.compile(r"Page \d+ of 12")).wait_for(timeout=60_000)
    entry.get_by_role("button", name="Cancel").click()
    entry.get_by_text("Cancelled after").wait_for()
    entry.get_by_role("button", name="Read again what is missing").click()
    entry.get_by_text("Done: 12 pages").wait_for(timeout=120_000)
    assert (visit.complaints, visit.elsewhere) == ([], [])


def test_stopping_aborts_the_reading(browser: playwright.Browser, tmp_path: Path) -> None:
    engine = ("tests.engines", "SlowEngine", json.dumps({"pause": 0.1, "words": 1000}))
    command = (sys.executable, "-m", "tests.serve_engine", *engine)
    path = {"pythonpath": f"{ROOT / 'backend'}:{ROOT}", "data_dir": tmp_path}
    with served(tmp_path / "log", command=command, decode_workers=1, **path) as service:
        context = browser.new_context()
        page = open_page(context, service.url).page
        page.set_input_files("#file", SAMPLE)
        page.click("#read")
        page.wait_for_function("() => document.getElementById('panel-text').textContent.length > 5")
        page.click("#stop")
        assert page.inner_text("#status") == "Stopped."
        assert page.is_enabled("#read")
        context.close()
        log = service.log
    assert "code=client_gone" in log.read_text()
