"""The page in a real Chromium, on a real service."""

from __future__ import annotations

import io
import json
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from PIL import Image

from app.results.writers import FORMATS
from tests.ingest.pdfs import ENCRYPTED, PASSWORD
from tests.process import ROOT, Served, served
from tests.serving import png
from tests.web.engine import BREAKING, HANGING, LOADING, READABLE, book, picture

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
CHROMIUM = shutil.which("chromium")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian package chromium)"),
]

SAMPLE = ROOT / "docs/images/sample.png"
# A busy machine takes a minute to load RapidOCR and read its first page.
PATIENCE_MS = 240_000
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(scope="module")
def rapidocr(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("service")
    with served(folder / "log", inference_engine="rapidocr", decode_workers=1, data_dir=folder) as running:
        yield running


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A service whose engine costs no time and does what the page says."""
    folder = tmp_path_factory.mktemp("shelf")
    command = (sys.executable, "-m", "tests.serve_engine", "tests.web.engine", "ShelfEngine")
    path = f"{ROOT / 'backend'}:{ROOT}"
    with served(folder / "log", command=command, decode_workers=1, data_dir=folder, pythonpath=path) as running:
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
        self.page.wait_for_selector("#copy:enabled", timeout=PATIENCE_MS)

    def hand_over(self, name: str, content: bytes, kind: str = "application/pdf") -> playwright.Locator:
        """Have a document read; return its entry in the list."""
        self.page.set_input_files("#file", {"name": name, "mimeType": kind, "buffer": content})
        self.page.click("#read")
        entry = self.entry(name)
        entry.wait_for()
        return entry

    def entry(self, name: str) -> playwright.Locator:
        """The newest document of that name in the list."""
        return self.page.locator("#documents > li", has=self.page.get_by_role("button", name=name, exact=True)).first

    def forget(self, entry: playwright.Locator) -> None:
        """Delete a document, and say yes when asked."""
        self.page.once("dialog", lambda dialog: dialog.accept())
        entry.locator("button").last.click()
        entry.wait_for(state="detached")

    def text(self, words: str) -> None:
        """Wait until the text of the page shown holds these words."""
        self.page.locator("#panel-text", has_text=words).wait_for(timeout=PATIENCE_MS)

    @property
    def clean(self) -> bool:
        """Whether there was no complaint and no request to another host."""
        assert (self.complaints, self.elsewhere) == ([], [])
        return True


@pytest.fixture
def real(browser: playwright.Browser, rapidocr: Served, request: pytest.FixtureRequest) -> Iterator[Visit]:
    """The page of a service that reads, opened with the options of `parametrize("real", [...], indirect=True)`."""
    yield from visiting(browser, rapidocr, request)


@pytest.fixture
def visit(browser: playwright.Browser, shelf: Served, request: pytest.FixtureRequest) -> Iterator[Visit]:
    """The page of `shelf`, likewise."""
    yield from visiting(browser, shelf, request)


def visiting(browser: playwright.Browser, service: Served, request: pytest.FixtureRequest) -> Iterator[Visit]:
    context = browser.new_context(**{"viewport": DESKTOP, "locale": "en-GB", **getattr(request, "param", {})})
    yield open_page(context, service.url)
    context.close()


def open_page(context: playwright.BrowserContext, url: str) -> Visit:
    context.set_default_timeout(60_000)
    visit = Visit(context.new_page())
    page = visit.page
    page.on("console", lambda message: visit.complaints.append(message.text) if message.type != "log" else None)
    page.on("pageerror", lambda error: visit.complaints.append(str(error)))
    ours = (f"{url}/", "blob:", "data:")
    page.on("request", lambda asked: None if asked.url.startswith(ours) else visit.elsewhere.append(asked.url))
    page.goto(f"{url}/")
    return visit


@pytest.mark.parametrize(
    "real",
    [
        pytest.param({}, id="desktop"),
        pytest.param({"viewport": PHONE, "color_scheme": "dark", "locale": "zh-CN", "has_touch": True}, id="phone"),
    ],
    indirect=True,
)
def test_a_page_is_read_with_its_boxes(real: Visit) -> None:
    real.read(SAMPLE)
    page = real.page
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
    assert real.clean


def test_a_photo_turned_by_its_exif_tag_has_its_boxes_in_place(real: Visit) -> None:
    with Image.open(SAMPLE) as sample:
        exif = Image.Exif()
        exif[0x0112] = 6
        buffer = io.BytesIO()
        sample.convert("RGB").rotate(90, expand=True).save(buffer, "JPEG", quality=95, exif=exif)
    real.read({"name": "photo.jpg", "mimeType": "image/jpeg", "buffer": buffer.getvalue()})
    page = real.page
    assert page.inner_text("#panel-text").startswith("Harbour Paper Company\n")
    box, picture = page.locator("#boxes rect").first.bounding_box(), page.locator("#image").bounding_box()
    assert box["y"] - picture["y"] < picture["height"] / 8


def test_text_appears_while_it_is_read_without_its_tags_until_reading_is_stopped(visit: Visit, shelf: Served) -> None:
    page = visit.page
    page.set_input_files("#file", {"name": "long.png", "mimeType": "image/png", "buffer": picture(1, HANGING)})
    page.click("#read")
    visit.text("The first words")
    assert page.inner_text("#status") == "Reading…"
    page.click("#stop")
    assert page.inner_text("#status") == "Stopped."
    assert page.is_enabled("#read")
    wait_for_log(shelf, "code=client_gone")
    assert visit.clean


def test_a_box_and_its_line_light_up_together(visit: Visit) -> None:
    visit.read(SAMPLE)
    page = visit.page
    page.hover("#boxes rect >> nth=1")
    assert page.inner_text("#panel-text mark.on") == "Invoice 2026-1147"
    page.focus("#panel-text mark >> nth=0")
    assert page.locator("#boxes rect.on").get_attribute("aria-label") == "Box 1: Harbour Paper Company"
    page.keyboard.press("ArrowDown")
    assert page.locator("#boxes rect.on").get_attribute("aria-label") == "Box 2: Invoice 2026-1147"
    page.mouse.move(0, 0)
    page.click("#boxes rect >> nth=0")
    assert page.inner_text("#panel-text mark.on") == "Harbour Paper Company"


def test_a_block_lights_up_its_box_in_the_text_in_the_formatted_page_and_in_its_tables(visit: Visit) -> None:
    visit.page.select_option("#mode", "markdown")
    visit.read(SAMPLE)
    page = visit.page
    lit = page.locator("#boxes rect.on")
    assert page.locator("[role=tab][aria-selected=true]").inner_text() == "Formatted"
    page.hover("#panel-rendered td >> text=6.50")
    assert lit.get_attribute("aria-label").startswith("Box 3: <table>")
    page.hover("#panel-rendered h1")
    assert lit.get_attribute("aria-label") == "Box 1: # Harbour Paper Company"
    page.click("#tab-tables")
    assert page.locator("#panel-tables tr").all_inner_texts() == ["Delivery\t6.50", "Total\t80.30"]
    page.hover("#panel-tables td >> text=Total")
    assert lit.get_attribute("aria-label").startswith("Box 3: <table>")
    page.click("#tab-text")
    page.hover("#boxes rect >> nth=1")
    assert page.inner_text("#panel-text mark.on") == "Invoice 2026-1147"
    assert visit.clean


def test_the_tabs_work_with_the_keyboard_and_show_the_json(visit: Visit) -> None:
    visit.read(SAMPLE)
    page = visit.page
    page.focus("#tab-text")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.locator("[role=tab][aria-selected=true]").inner_text() == "JSON"
    assert json.loads(page.inner_text("#panel-json"))["metadata"]["engine"] == "scripted"
    page.keyboard.press("Home")
    assert page.is_visible("#panel-text")
    assert not page.is_visible("#panel-json")


def test_a_page_that_was_read_is_saved_as_text_markdown_or_json(visit: Visit) -> None:
    visit.read(SAMPLE)
    saved = save_all(visit.page)
    assert set(saved) == {"sample.txt", "sample.md", "sample.json"}
    assert saved["sample.txt"] == saved["sample.md"] == b"Harbour Paper Company\nInvoice 2026-1147"
    assert json.loads(saved["sample.json"])["text"] == saved["sample.txt"].decode()


def test_a_refusal_is_said_in_words_and_the_file_can_be_changed(visit: Visit) -> None:
    visit.page.set_input_files("#file", {"name": "cut.png", "mimeType": "image/png", "buffer": png(400, 400)[:60]})
    visit.page.select_option("#mode", "freeform")
    visit.page.fill("[name=prompt]", "x" * 20_000)
    visit.page.click("#read")
    visit.page.wait_for_selector("#error:not(:empty)")
    assert visit.page.inner_text("#error") == (
        "The PNG picture is damaged or cut short. It is not read in part, because text would be missing. "
        "Check that it opens whole in a viewer and send it again."
    )
    assert visit.page.is_enabled("#read")


@pytest.mark.parametrize("visit", [{"locale": "zh-CN"}], indirect=True)
def test_a_refusal_is_said_in_chinese_and_the_right_password_opens_the_document(visit: Visit) -> None:
    page = visit.page
    page.set_input_files("#file", {"name": "vault.pdf", "mimeType": "application/pdf", "buffer": ENCRYPTED})
    page.click("#read")
    page.get_by_text("PDF 已加密。请在“密码”一栏填写密码，然后再点“识别”。").wait_for()
    page.fill("[name=password]", PASSWORD)
    page.click("#read")
    visit.entry("vault.pdf").get_by_text("完成：1 页").wait_for(timeout=PATIENCE_MS)


def test_a_page_is_sent_again_when_the_model_is_loaded(visit: Visit) -> None:
    page = visit.page
    page.set_input_files("#file", {"name": "early.png", "mimeType": "image/png", "buffer": picture(1, LOADING)})
    page.click("#read")
    page.get_by_text("The model is still loading. It is sent again by itself; you need not do anything.").wait_for()
    visit.text("This is page 1.")


def test_a_lost_connection_loses_nothing(visit: Visit) -> None:
    page = visit.page
    page.set_input_files("#file", SAMPLE)
    page.context.set_offline(True)
    page.click("#read")
    page.locator("#error", has_text="Nothing is lost").wait_for()
    page.context.set_offline(False)
    page.click("#read")
    visit.text("Invoice 2026-1147")


def test_a_document_whose_answer_was_lost_is_not_taken_twice(visit: Visit) -> None:
    page = visit.page

    def lose(route: playwright.Route) -> None:
        route.fetch()
        route.abort()

    page.route("**/api/ocr/pdf", lose, times=1)
    page.set_input_files("#file", {"name": "once.pdf", "mimeType": "application/pdf", "buffer": book(READABLE)})
    page.click("#read")
    page.locator("#error", has_text="Nothing is lost").wait_for()
    page.click("#read")
    visit.entry("once.pdf").get_by_text("Done: 1 page").wait_for(timeout=PATIENCE_MS)
    assert page.locator("#documents .title", has_text="once.pdf").count() == 1


def test_reading_without_a_file_says_what_to_do(visit: Visit) -> None:
    visit.page.click("#read")
    assert visit.page.inner_text("#error") == "Choose a file first."


def test_a_file_can_be_dropped_or_pasted(visit: Visit) -> None:
    page = visit.page
    for event, carrier in (("drop", "dataTransfer"), ("paste", "clipboardData")):
        page.evaluate(
            """([event, carrier]) => {
                const data = new DataTransfer();
                data.items.add(new File(["%PDF-"], `${event}.pdf`, { type: "application/pdf" }));
                const made = event === "drop" ? new DragEvent(event, { [carrier]: data, bubbles: true })
                                              : new ClipboardEvent(event, { [carrier]: data, bubbles: true });
                document.body.dispatchEvent(made);
            }""",
            [event, carrier],
        )
        assert page.inner_text("#file-name") == f"{event}.pdf"
        assert page.is_visible("[name=pages]")


@pytest.mark.parametrize("visit", [{"viewport": PHONE, "has_touch": True}], indirect=True)
def test_a_phone_offers_its_camera(visit: Visit) -> None:
    assert visit.page.is_visible(".camera")
    assert visit.page.get_attribute("#camera", "capture") == "environment"


def test_fields_appear_with_the_mode_that_needs_them(visit: Visit) -> None:
    page = visit.page
    assert not page.is_visible("[name=find_term]")
    page.select_option("#mode", "find_ref")
    assert page.inner_text("#mode-help") == "Where a word or line stands on the page."
    assert page.is_visible("[name=find_term]")
    page.select_option("#resolution", "tiny")
    assert page.inner_text("#resolution-help") == "512 pixels, one view: slides and signs, fastest."


def test_the_theme_is_kept(visit: Visit) -> None:
    page = visit.page
    page.click("#theme")
    assert page.get_attribute("html", "data-theme") == "dark"
    page.reload()
    assert page.get_attribute("html", "data-theme") == "dark"
    page.click("#theme")
    assert page.get_attribute("html", "data-theme") == "light"


@pytest.mark.parametrize("visit", [{}, {"color_scheme": "dark", "viewport": PHONE, "locale": "zh-CN"}], indirect=True)
def test_axe_finds_nothing_serious(visit: Visit) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    page = visit.page

    def faults() -> list[tuple[str, str, list[str]]]:
        found = axe.Axe().run(page).response["violations"]
        return [(each["id"], each["impact"], [node["html"] for node in each["nodes"]]) for each in found]

    assert faults() == []
    page.select_option("#mode", "markdown")
    visit.read(SAMPLE)
    assert faults() == []
    visit.hand_over("axe.pdf", book(READABLE, READABLE, READABLE))
    visit.text("This is page 1.")
    page.click("#downloads summary")
    assert faults() == []


def test_a_document_is_looked_at_page_by_page(visit: Visit) -> None:
    page = visit.page
    visit.hand_over("walk.pdf", book(*[READABLE] * 4))
    visit.text("This is page 1.")
    page.wait_for_function("() => document.getElementById('image').naturalWidth === 402")
    page.hover("#panel-text mark")
    drawn, shown = page.locator("#boxes rect.on").bounding_box(), page.locator("#image").bounding_box()
    assert drawn["x"] - shown["x"] == pytest.approx(0.1 * shown["width"], abs=3)
    assert drawn["width"] == pytest.approx(0.8 * shown["width"], abs=6)
    page.click("#next")
    visit.text("This is page 2.")
    page.wait_for_function("() => document.getElementById('image').naturalWidth === 404")
    page.get_by_role("button", name="Page 4", exact=True).click()
    visit.text("This is page 4.")
    assert page.is_disabled("#next")
    page.keyboard.press("ArrowUp")
    visit.text("This is page 3.")
    page.fill("#page-number", "1")
    page.keyboard.press("Enter")
    visit.text("This is page 1.")
    page.wait_for_function("() => document.querySelectorAll('#thumbs img[src^=\"blob:\"]').length === 4")
    assert visit.clean


def test_only_the_thumbnails_in_sight_exist(visit: Visit) -> None:
    page = visit.page
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if request.url.endswith("width=160") else None)
    entry = visit.hand_over("thick.pdf", book(*[HANGING + 1] * 2000))
    page.wait_for_selector("#thumbs li")
    page.locator("#page-total", has_text="of 2000").wait_for()
    page.focus("#thumbs button[tabindex='0']")
    page.keyboard.press("End")
    page.get_by_role("button", name="Page 2000, not read yet", exact=True).wait_for()
    page.wait_for_function("() => document.querySelector('#thumbs li:last-child img').src")
    assert page.locator("#thumbs li").count() <= 15
    assert len(asked) <= 30
    visit.text("This page has not been read yet.")
    entry.get_by_role("button", name="Cancel").click()
    entry.get_by_text("Cancelled after 0 of 2000 pages").wait_for()
    assert visit.clean  # and not later: a thumbnail that is still under way is not found once its task is deleted
    visit.forget(entry)


def test_every_format_of_a_document_is_downloaded(visit: Visit) -> None:
    entry = visit.hand_over("files.pdf", book(READABLE, READABLE))
    entry.get_by_text("Done: 2 pages").wait_for(timeout=PATIENCE_MS)
    saved = save_all(visit.page)
    assert len(saved) == len(FORMATS)
    begin = {
        "pdf": b"%PDF-",
        "docx": b"PK",
        "zip": b"PK",
        "html": b"<!DOCTYPE html>",
        "hocr": b"<?xml",
        "md": b"<!-- Page 1 -->",
    }
    for name, content in saved.items():
        ending = name.rpartition(".")[2]
        assert name.startswith("files")
        assert content.startswith(begin.get(ending, b""))
    (text,) = (content for name, content in saved.items() if name.endswith(".txt"))
    assert "This is page 1." in text.decode()
    page = visit.page
    page.click("#downloads summary")
    page.get_by_label("Leave out headers, footers and page numbers").check()
    page.get_by_label("Join paragraphs that run over a page").check()
    with page.expect_request(lambda request: "/download/" in request.url) as asked, page.expect_download():
        page.locator("[data-format=text]").click()
    assert asked.value.url.endswith(".txt?drop_running=true&join_pages=true")
    assert visit.clean


def test_only_the_pages_asked_for_are_read(visit: Visit) -> None:
    page = visit.page
    page.set_input_files("#file", {"name": "some.pdf", "mimeType": "application/pdf", "buffer": book(*[READABLE] * 9)})
    page.fill("[name=pages]", "2-3, 8-")
    page.click("#read")
    visit.entry("some.pdf").get_by_text("Done: 4 pages").wait_for(timeout=PATIENCE_MS)
    visit.text("This is page 2.")
    page.click("#next")
    page.click("#next")
    visit.text("This is page 8.")
    page.locator("#downloads").wait_for()
    assert visit.clean


def test_a_page_that_failed_is_marked_and_read_again(visit: Visit) -> None:
    page = visit.page
    entry = visit.hand_over("torn.pdf", book(READABLE, BREAKING, READABLE))
    entry.get_by_text("Done, but 1 of 3 pages could not be read").wait_for(timeout=PATIENCE_MS)
    page.get_by_role("button", name="Page 2, could not be read", exact=True).click()
    visit.text("Page 2 could not be read: The picture and the prompt are longer than the model's context.")
    entry.get_by_role("button", name="Read what is missing").click()
    visit.text("This is page 2.")
    entry.get_by_text("Done: 3 pages").wait_for(timeout=PATIENCE_MS)
    assert visit.clean


@pytest.mark.parametrize("visit", [{"viewport": PHONE, "locale": "zh-CN", "has_touch": True}], indirect=True)
def test_a_document_is_cancelled_found_again_read_on_and_deleted(visit: Visit) -> None:
    page = visit.page
    entry = visit.hand_over("long.pdf", book(READABLE, READABLE, HANGING + 2))
    entry.get_by_text("第 3 页，共 3 页").wait_for(timeout=PATIENCE_MS)
    entry.get_by_role("button", name="取消").click()
    entry.get_by_text("已取消，读完 3 页中的 2 页").wait_for()
    page.reload()
    entry.get_by_role("button", name="long.pdf", exact=True).click()
    visit.text("This is page 1.")
    entry.get_by_role("button", name="识别缺少的页").click()
    entry.get_by_text("完成：3 页").wait_for(timeout=PATIENCE_MS)
    assert page.evaluate("document.documentElement.scrollWidth") == page.viewport_size["width"]
    visit.forget(entry)
    assert not page.is_visible("#result")
    assert visit.clean


def test_what_the_browser_cannot_show_is_shown_by_the_service(visit: Visit) -> None:
    buffer = io.BytesIO()
    Image.new("L", (600, 300), 255).save(buffer, "TIFF")
    visit.hand_over("scan.tiff", buffer.getvalue(), "image/tiff")
    visit.text("Invoice 2026-1147")
    visit.page.wait_for_function("() => document.getElementById('image').naturalWidth === 600")
    assert visit.clean


def test_several_files_become_documents(visit: Visit) -> None:
    page = visit.page
    files = [
        {"name": f"scan-{number}.png", "mimeType": "image/png", "buffer": picture(number, READABLE)}
        for number in (1, 2)
    ]
    page.set_input_files("#file", files)
    assert page.inner_text("#file-name") == "2 files"
    page.click("#read")
    for number in (1, 2):
        visit.entry(f"scan-{number}.png").get_by_text("Done: 1 page").wait_for(timeout=PATIENCE_MS)
    page.get_by_role("button", name="scan-2.png", exact=True).click()
    visit.text("This is page 2.")
    assert visit.clean


def save_all(page: playwright.Page) -> dict[str, bytes]:
    """Download everything that the menu offers; return it by file name."""
    page.locator("#downloads").wait_for()
    saved = {}
    for number in range(page.locator("#downloads li").count()):
        page.click("#downloads summary")
        with page.expect_download(timeout=PATIENCE_MS) as download:
            page.locator("#downloads li button").nth(number).click()
        saved[download.value.suggested_filename] = Path(download.value.path()).read_bytes()
    return saved


def wait_for_log(service: Served, words: str) -> None:
    """Wait until the service has logged them."""
    deadline = time.monotonic() + 30
    while words not in service.log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
