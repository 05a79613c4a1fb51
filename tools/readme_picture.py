"""Draw docs/images: the sample page, and the picture of the service at work on it.

    python -m tools.readme_picture http://localhost:8001

The page is sent to the service at that address; what it answers is what the picture shows. Fonts are
those of the Debian packages fonts-liberation, fonts-dejavu-core and fonts-wqy-microhei.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import httpx
from PIL import Image, ImageDraw, ImageFont

IMAGES = Path(__file__).parents[1] / "docs/images"
FONTS = Path("/usr/share/fonts/truetype")
SANS, BOLD = "liberation/LiberationSans-Regular.ttf", "liberation/LiberationSans-Bold.ttf"
MONO, CHINESE = "dejavu/DejaVuSansMono.ttf", "wqy/wqy-microhei.ttc"

PAGE_SIZE = (900, 800)
INK, RULE, FAINT = "#1b1b1b", "#9a9a9a", "#5c5c5c"
COLUMNS = (60, 480, 640)
ROWS = (
    ("Item 品名", "Qty 数量", "Amount 金额"),
    ("Copy paper, A4, 80 g", "12", "46.80"),
    ("Drawing paper 绘图纸", "3", "27.00"),
    ("Delivery 运费", "1", "6.50"),
    ("Total 合计", "", "EUR 80.30"),
)

COMMAND = """\
$ curl -X POST http://localhost:8001/api/ocr \\
    -F "image=@docs/images/sample.png" -F "mode=plain_ocr\""""
COMMAND_WITH_BOXES = '$ curl (the same) -F "grounding=true"'
BOXES_SHOWN = 2

SHOWN_PAGE, PANEL_WIDTH, MARGIN, PADDING = (720, 640), 830, 28, 28
CONSOLE_SIZE, CONSOLE_STEP, TAB_STOP = 22, 29, 22
BACKGROUND, BORDER, PANEL, ANSWER, PROMPT, BOX = "#eceff3", "#c9cfd8", "#1e2430", "#e4e8ef", "#7fd1a2", "#d1341f"


def draw_sample() -> Image.Image:
    """Return an invoice of a company that does not exist, in English and Chinese."""
    page = Image.new("RGB", PAGE_SIZE, "white")
    draw = ImageDraw.Draw(page)
    draw.text((60, 56), "Harbour Paper Company", font=font(BOLD, 40), fill=INK)
    draw.text((60, 122), "海港纸业有限公司", font=font(CHINESE, 32), fill=INK)
    draw.text((60, 204), "Invoice 2026-1147", font=font(BOLD, 28), fill=INK)
    draw.text((480, 204), "20 November 2026", font=font(SANS, 28), fill=INK)
    draw.line((60, 262, 840, 262), fill=RULE, width=2)
    for number, row in enumerate(ROWS):
        top = 286 + 60 * number
        for left, cell in zip(COLUMNS, row, strict=True):
            draw_mixed(draw, (left, top), cell, 28, bold=number in (0, len(ROWS) - 1))
    draw.line((60, 334, 840, 334), fill=RULE, width=1)
    draw.line((60, 512, 840, 512), fill=RULE, width=1)
    draw_mixed(draw, (60, 628), "Payment is due within 30 days.", 26, fill=FAINT)
    draw_mixed(draw, (60, 682), "请在三十天内付款。谢谢！", 26, fill=FAINT)
    return page


def draw_mixed(
    draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, size: int, *, bold: bool = False, fill: str = INK
) -> None:
    """Draw text of Latin and Chinese characters on one baseline."""
    left, baseline = float(at[0]), at[1] + size
    for character in text:
        face = font(CHINESE if ord(character) > 0x2E80 else BOLD if bold else SANS, size)
        draw.text((left, baseline), character, font=face, fill=fill, anchor="ls")
        left += face.getlength(character)


def ask(service: str, sample: Path, **form: str) -> dict[str, Any]:
    """Send the sample page as the curl line does and return the answer."""
    with sample.open("rb") as file:
        answer = httpx.post(
            f"{service}/api/ocr", files={"image": (sample.name, file)}, data={"mode": "plain_ocr", **form}, timeout=120
        )
    answer.raise_for_status()
    body: dict[str, Any] = answer.json()
    return body


def draw_at_work(page: Image.Image, text: str, boxes: list[dict[str, Any]]) -> Image.Image:
    """Return the page with its boxes on the left, the commands and what they gave on the right."""
    shown = draw_boxes(page, boxes).resize(SHOWN_PAGE, Image.Resampling.LANCZOS)
    left, bottom = 2 * MARGIN + shown.width, MARGIN + shown.height
    picture = Image.new("RGB", (left + PANEL_WIDTH + MARGIN, bottom + MARGIN), BACKGROUND)
    picture.paste(shown, (MARGIN, MARGIN))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((MARGIN - 1, MARGIN - 1, MARGIN + shown.width, bottom), outline=BORDER)
    draw.rounded_rectangle((left, MARGIN, left + PANEL_WIDTH, bottom), 12, fill=PANEL)
    first = [json.dumps(box, ensure_ascii=False, separators=(",", ":")) for box in boxes[:BOXES_SHOWN]]
    top = MARGIN + 14
    for lines, colour in (
        (COMMAND, PROMPT),
        (text, ANSWER),
        (COMMAND_WITH_BOXES, PROMPT),
        ("\n".join([*first, f"... and {len(boxes) - BOXES_SHOWN} more boxes"]), ANSWER),
    ):
        top = draw_console(draw, (left + PADDING, top), lines, colour) + CONSOLE_STEP // 2
    return picture


def draw_boxes(page: Image.Image, boxes: list[dict[str, Any]]) -> Image.Image:
    """Return the page with each box outlined."""
    boxed = page.copy()
    draw = ImageDraw.Draw(boxed)
    for entry in boxes:
        x1, y1, x2, y2 = entry["box"]
        draw.rounded_rectangle((x1 - 3, y1 - 2, x2 + 3, y2 + 2), 5, outline=BOX, width=3)
    return boxed


def draw_console(draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, fill: str) -> int:
    """Draw lines of fixed width, a Chinese character as wide as two others; return where they end."""
    latin, chinese = font(MONO, CONSOLE_SIZE), font(CHINESE, CONSOLE_SIZE + 2)
    cell = latin.getlength("0")
    left, top = at
    for line in text.split("\n"):
        column = 0
        for character in line:
            if character == "\t":
                column = (column // TAB_STOP + 1) * TAB_STOP
                continue
            wide = ord(character) > 0x2E80
            face = chinese if wide else latin
            draw.text((left + column * cell, top + CONSOLE_SIZE), character, font=face, fill=fill, anchor="ls")
            column += 2 if wide else 1
        top += CONSOLE_STEP
    return top


def font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """Return a font of the given size in pixels."""
    return ImageFont.truetype(FONTS / name, size)


def main(service: str) -> None:
    """Write both pictures."""
    sample = IMAGES / "sample.png"
    page = draw_sample()
    page.convert("L").quantize(16).save(sample, optimize=True)
    text = ask(service, sample)["text"]
    boxes = ask(service, sample, grounding="true")["boxes"]
    draw_at_work(page, text, boxes).quantize(64).save(IMAGES / "at-work.png", optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
