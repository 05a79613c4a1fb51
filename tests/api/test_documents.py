"""`POST /api/ocr` with PDFs and TIFFs of several pages: the fake engine for the answers, RapidOCR for the text."""

from __future__ import annotations

import httpx
import pytest
from PIL import Image, ImageDraw, ImageFont

from benchmarks.pages import FONT_ROOT
from tests.ingest.pdfs import ENCRYPTED, PASSWORD, Sheet, drawing, letter, lines, pdf
from tests.ingest.pictures import encode
from tests.process import served
from tests.serving import png, serving, upload

SHEETS = pdf(Sheet(), Sheet(box=(0, 0, 300, 100)), Sheet(box=(0, 0, 144000, 144000)))


def tiff(*texts: str) -> bytes:
    pages = []
    for text in texts:
        page = Image.new("L", (700, 300), "white")
        font = ImageFont.truetype(str(FONT_ROOT / "dejavu/DejaVuSans.ttf"), 40)
        ImageDraw.Draw(page).text((60, 100), text, font=font, fill="black")
        pages.append(page)
    return encode(pages[0], "TIFF", save_all=True, append_images=pages[1:], compression="tiff_lzw")


@pytest.mark.parametrize(
    ("data", "form", "page", "pages", "dpi", "size"),
    [
        (SHEETS, {}, 1, 3, 144, (400, 200)),
        (SHEETS, {"page": "2", "dpi": "72"}, 2, 3, 72, (300, 100)),
        (SHEETS, {"page": "", "dpi": "", "password": ""}, 1, 3, 144, (400, 200)),
        (tiff("a", "b"), {"page": "2", "dpi": "72"}, 2, 2, None, (700, 300)),
        (png(), {"dpi": "72", "password": "unused"}, 1, 1, None, (40, 20)),
    ],
)
async def test_the_answer_says_which_page_of_how_many_it_is(data, form, page, pages, dpi, size):
    """Also with fields left empty, as front ends send them."""
    async with serving() as client:
        answer = await client.post("/api/ocr", files=upload(data, "x"), data=form)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert {name: body["metadata"][name] for name in ("page", "pages", "dpi")} == {
        "page": page, "pages": pages, "dpi": dpi,
    }  # fmt: skip
    assert (body["image_dims"]["w"], body["image_dims"]["h"]) == size


async def test_a_streamed_page_is_the_chosen_one():
    """The last event has the same metadata."""
    async with serving() as client:
        answer = await client.post("/api/ocr", files=upload(SHEETS), data={"page": "2", "stream": "true"})
    result = answer.text.partition("event: result")[2]
    assert '"page":2,"pages":3,"dpi":144.0' in result


@pytest.mark.parametrize(
    ("data", "form", "status", "code", "says"),
    [
        (SHEETS, {"page": "4"}, 422, "page_out_of_range", "the file has 3 pages"),
        (png(), {"page": "2"}, 422, "page_out_of_range", "the file has 1 page."),
        (SHEETS, {"page": "0"}, 422, "invalid_parameter", "Field 'page' must be at least 1."),
        (SHEETS, {"page": "two"}, 422, "invalid_parameter", "Field 'page' must be a whole number."),
        (SHEETS, {"dpi": "35"}, 422, "invalid_parameter", "Field 'dpi' must be at least 36."),
        (SHEETS, {"dpi": "601"}, 422, "invalid_parameter", "Field 'dpi' must be at most 600."),
        (SHEETS, {"page": "3"}, 413, "too_many_pixels", "measures 2,000 x 2,000 inches"),
        (ENCRYPTED, {}, 422, "password_required", "The PDF is encrypted."),
        (ENCRYPTED, {"password": "Tür"}, 422, "wrong_password", "does not open the PDF."),
        (SHEETS[:-40], {}, 422, "unreadable_pdf", "damaged, cut short"),
        (SHEETS.replace(b"startxref", b"xxxxxxxxx"), {}, 422, "unreadable_pdf", "its end is missing"),
        (b"%PDF-1.4 and no more", {}, 422, "unreadable_pdf", "no PDF after all"),
        (pdf(), {}, 422, "unreadable_pdf", "has no pages"),
    ],
)
async def test_what_is_wrong_with_a_document_has_a_code_of_its_own(data, form, status, code, says):
    """And a sentence that says what to do."""
    async with serving() as client:
        answer = await client.post("/api/ocr", files=upload(data), data=form)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert says in answer.json()["detail"]


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    log = tmp_path_factory.mktemp("documents") / "service.log"
    with served(log, inference_engine="rapidocr") as service, httpx.Client(base_url=service.url, timeout=60) as client:
        yield client
    assert "Traceback" not in log.read_text()


def read(client, data, **form):
    answer = client.post("/api/ocr", files={"image": ("file", data)}, data=form)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.slow
def test_the_text_is_that_of_the_chosen_page(client):
    """Of a PDF, with boxes in pixels of the rendered page."""
    document = pdf(letter("The first page"), letter("Invoice 2026-1147", "Total 318.40"), letter("The last page"))
    assert read(client, document)["text"] == "The first page"
    answer = read(client, document, page=2, grounding="true")
    assert answer["text"] == "Invoice 2026-1147\nTotal 318.40"
    assert answer["image_dims"] == {"w": 1224, "h": 1584}
    left, top, right, bottom = answer["boxes"][1]["box"]
    # The second line begins at 72 points, its foot 660 points above the page's: 144 and 264 pixels.
    assert abs(left - 144) < 24
    assert top < 2 * (792 - 670) < bottom
    assert right < 480


@pytest.mark.slow
def test_the_third_page_of_a_tiff_is_read(client):
    """Its other pages are not."""
    answer = read(client, tiff("Nothing here", "Not this one", "Delivery note 88", "Too late"), page=3)
    assert answer["text"] == "Delivery note 88"
    assert (answer["metadata"]["page"], answer["metadata"]["pages"]) == (3, 4)


@pytest.mark.slow
def test_an_encrypted_page_is_read_with_its_password(client):
    """A password that is not ASCII."""
    assert read(client, ENCRYPTED, password=PASSWORD)["text"] == "Vault number 4711"


@pytest.mark.slow
def test_a_page_that_is_shown_turned_is_read_as_shown(client):
    """The text runs up the sheet, and /Rotate turns it upright."""
    sheet = Sheet(lines("Turned by the viewer", at=(200, 100), turn=b"0 1 -1 0"), (0, 0, 612, 792), b"/Rotate 90")
    answer = read(client, pdf(sheet))
    assert answer["text"] == "Turned by the viewer"
    assert answer["image_dims"] == {"w": 1584, "h": 1224}


@pytest.mark.slow
def test_only_what_is_inside_the_crop_box_is_read(client):
    """Printer's marks and notes outside it are not part of the page."""
    content = lines("Inside the crop") + lines("Outside of it", at=(72, 100))
    answer = read(client, pdf(Sheet(content, (0, 0, 612, 792), b"/CropBox[0 600 612 792]")))
    assert answer["text"] == "Inside the crop"
    assert answer["image_dims"] == {"w": 1224, "h": 384}


@pytest.mark.slow
def test_annotations_and_form_fields_are_read(client):
    """A comment in a box, a filled field with a drawing of its own and one without."""
    shown = drawing(lines("Approved in May", at=(5, 10)), 400, 40)
    filled = drawing(lines("Jane Example", at=(5, 10)), 400, 40)
    objects = [
        b"<</Type/Annot/Subtype/FreeText/Rect[72 500 472 540]/AP<</N 7 0 R>>>>",
        b"<</Type/Annot/Subtype/Widget/FT/Tx/T(name)/V(Jane)/Rect[72 400 472 440]/AP<</N 8 0 R>>>>",
        b"<</Type/Annot/Subtype/Widget/FT/Tx/T(town)/V(Copenhagen)/DA(/F 24 Tf 0 g)/Rect[72 300 472 340]>>",
        shown,
        filled,
    ]
    sheet = Sheet(lines("Printed"), (0, 0, 612, 792), b"/Annots[4 0 R 5 0 R 6 0 R]")
    form = b"/AcroForm<</Fields[5 0 R 6 0 R]/DR<</Font<</F 3 0 R>>>>>>"
    answer = read(client, pdf(sheet, objects=objects, catalog=form))
    assert [line for line in answer["text"].split("\n") if line] == [
        "Printed",
        "Approved in May",
        "Jane Example",
        "Copenhagen",
    ]
