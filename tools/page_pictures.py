"""Draw docs/images of the web page: a page that was read, and a document.

    python -m tools.page_pictures http://localhost:8001

The service at that address reads docs/images/sample.png and a document made of it; Playwright drives Debian's Chromium. The
document is deleted again.
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, ViewportSize, sync_playwright

IMAGES = Path(__file__).parents[1] / "docs/images"
SAMPLE = IMAGES / "sample.png"
VIEW: ViewportSize = {"width": 1280, "height": 800}
COLOURS = 96
PAGES = 5
PATIENCE_MS = 120_000


def main(service: str) -> None:
    """Write the pictures."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport=VIEW, locale="en-GB", reduced_motion="reduce")
        page.goto(service)
        page.select_option("#mode", "plain_ocr")
        page.set_input_files("#file", SAMPLE)
        page.click("#read")
        page.wait_for_selector("#copy:enabled", timeout=PATIENCE_MS)
        page.hover("#panel-text mark >> nth=4")
        shoot(page, "page.png")
        page = browser.new_page(viewport=VIEW, locale="zh-CN", color_scheme="dark", reduced_motion="reduce")
        page.goto(service)
        read_document(page)
        shoot(page, "document.png")
        page.on("dialog", lambda dialog: dialog.accept())
        entry = page.locator("#documents > li").first.element_handle()
        page.locator("#documents > li").first.locator("button").last.click()
        entry.wait_for_element_state("hidden")
        browser.close()


def read_document(page: Page) -> None:
    """Have a document of PAGES pages read, and look at its second."""
    buffer = io.BytesIO()
    with Image.open(SAMPLE) as sheet:
        sheets = [sheet.convert("RGB")] * PAGES
    sheets[0].save(buffer, "PDF", save_all=True, append_images=sheets[1:], resolution=100)
    page.set_input_files("#file", {"name": "invoices.pdf", "mimeType": "application/pdf", "buffer": buffer.getvalue()})
    page.select_option("#mode", "markdown")
    page.click("#read")
    page.wait_for_selector("#downloads:visible", timeout=PATIENCE_MS)
    page.click("#next")
    page.wait_for_selector("#panel-rendered table")
    page.wait_for_function("() => [...document.querySelectorAll('#thumbs img')].every((image) => image.naturalWidth)")
    page.hover("#panel-rendered td >> nth=4")


def shoot(page: Page, name: str) -> None:
    """Save what is seen, in few colours."""
    with Image.open(io.BytesIO(page.screenshot())) as seen:
        seen.convert("RGB").quantize(COLOURS).save(IMAGES / name, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
