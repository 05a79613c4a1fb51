"""Pages of a PDF come out as a viewer shows them, and what is no whole PDF is refused with its reason."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from app.errors import (
    DecodeTimeout,
    PageOutOfRange,
    PasswordRequired,
    ServiceError,
    TooManyPixels,
    UnreadablePdf,
    UnsupportedMediaType,
    WrongPassword,
)
from app.ingest.choice import PageChoice
from app.ingest.decode import decode
from app.ingest.decoder import Decoder
from app.ingest.limits import IngestLimits
from app.ingest.pdf import PdfFile
from app.ingest.sandbox import address_space_limit
from app.page import Page
from app.workers import WorkerProcess
from tests.ingest.pdfs import BLUE_CORNER, ENCRYPTED, PASSWORD, Sheet, assemble, drawing, letter, pdf, stream
from tests.ingest.pictures import BLUE, LIMITS, RED, WHITE

RED_SQUARE = drawing(b"1 0 0 rg 0 0 50 50 re f", 50, 50)


def render(data: bytes, number: int = 1, dpi: float = 72, max_pixels: int = 10**6, password: str = "") -> Page:
    with PdfFile(data, password) as file:
        return file.render(number, dpi, max_pixels)


def colour(page: Page, x: float, y: float) -> tuple[int, ...]:
    """The colour at a share of the page's width and height, from the top left."""
    return tuple(page.pixels[int(y * page.height), int(x * page.width)].tolist())


def annotated(annotation: bytes, *objects: bytes, catalog: bytes = b"") -> bytes:
    """A page of 200 by 100 points with an annotation, object 4, over its middle; `objects` follow it."""
    return pdf(Sheet(more=b"/Annots[4 0 R]"), objects=[annotation, *objects], catalog=catalog)


MIDDLE = b"/Type/Annot/Rect[75 25 125 75]"


@pytest.mark.parametrize(("dpi", "size"), [(72, (200, 100)), (144, (400, 200)), (100, (278, 139)), (36, (100, 50))])
def test_a_page_has_the_pixels_of_its_size_at_the_dpi(dpi: int, size: tuple[int, int]) -> None:
    page = render(pdf(Sheet()), dpi=dpi)
    assert (page.width, page.height, page.dpi) == (*size, dpi)
    assert page.pixels.dtype == np.uint8
    assert page.pixels.flags.c_contiguous
    assert (page.source_format, page.number, page.pages) == ("PDF", 1, 1)


def test_colours_and_places_are_those_of_the_page() -> None:
    page = render(pdf(Sheet()))
    expected = np.full((100, 200, 3), 255, np.uint8)
    expected[80:, :20] = BLUE
    assert np.array_equal(page.pixels, expected)


@pytest.mark.parametrize(
    ("degrees", "size", "corner"),
    [
        (0, (200, 100), (0.05, 0.9)),
        (90, (100, 200), (0.1, 0.05)),
        (180, (200, 100), (0.95, 0.1)),
        (270, (100, 200), (0.9, 0.95)),
    ],
)
def test_a_turned_page_is_turned(degrees: int, size: tuple[int, int], corner: tuple[float, float]) -> None:
    data = pdf(Sheet(more=b"/Rotate %d" % degrees))
    page = render(data)
    assert (page.width, page.height) == size
    assert colour(page, *corner) == BLUE
    assert (page.pixels == BLUE).all(axis=2).sum() == 400
    with PdfFile(data) as file:
        assert file.page_size(1) == size


def test_a_cropped_page_shows_what_is_inside_the_crop_box() -> None:
    page = render(pdf(Sheet(more=b"/CropBox[10 10 60 40]")))
    assert (page.width, page.height) == (50, 30)
    assert (page.pixels == BLUE).all(axis=2).sum() == 100
    assert colour(page, 0, 0.99) == BLUE


@pytest.mark.parametrize("crop", [b"[10 10 10 10]", b"[0 0 50 1e39]", b"[0 0]"])
def test_a_crop_box_that_makes_no_sense_is_passed_over(crop: bytes) -> None:
    page = render(pdf(Sheet(more=b"/CropBox" + crop)))
    assert (page.width, page.height) == (200, 100)


def test_a_page_cropped_to_nothing_is_refused() -> None:
    with pytest.raises(UnreadablePdf, match="Page 1 of the PDF is damaged"):
        render(pdf(Sheet(more=b"/CropBox[500 500 600 600]")))


def test_annotations_are_drawn_and_hidden_ones_are_not() -> None:
    stamp = b"<<" + MIDDLE + b"/Subtype/Stamp%s/AP<</N 5 0 R>>>>"
    assert colour(render(annotated(stamp % b"", RED_SQUARE)), 0.5, 0.5) == RED
    assert colour(render(annotated(stamp % b"/F 2", RED_SQUARE)), 0.5, 0.5) == WHITE


def test_a_highlight_without_a_drawing_of_its_own_is_drawn() -> None:
    highlight = b"<<" + MIDDLE + b"/Subtype/Highlight/C[1 1 0]/QuadPoints[75 75 125 75 75 25 125 25]>>"
    assert colour(render(annotated(highlight)), 0.5, 0.5) == (255, 255, 0)


def test_form_fields_are_drawn() -> None:
    form = b"/AcroForm<</Fields[4 0 R]/DR<</Font<</Helv 3 0 R>>>>>>"
    drawn = b"<<" + MIDDLE + b"/Subtype/Widget/FT/Tx/T(a)/V(text)/AP<</N 5 0 R>>>>"
    assert colour(render(annotated(drawn, RED_SQUARE, catalog=form)), 0.5, 0.5) == RED
    ticked = b"<<" + MIDDLE + b"/Subtype/Widget/FT/Btn/T(a)/V/Yes/AS/Yes/AP<</N<</Yes 5 0 R>>>>>>"
    assert colour(render(annotated(ticked, RED_SQUARE, catalog=form)), 0.5, 0.5) == RED
    only_text = b"<<" + MIDDLE + b"/Subtype/Widget/FT/Tx/T(a)/V(text)/DA(/Helv 18 Tf 0 g)>>"
    page = render(annotated(only_text, catalog=form))
    assert (page.pixels[25:75, 75:125].min(axis=2) < 100).any()
    assert page.pixels[:20].min() == 255


def test_each_page_is_found_by_its_number_from_a_path_too(tmp_path: Path) -> None:
    sheets = [Sheet(BLUE_CORNER, (0, 0, 100 + number, 100)) for number in range(1, 8)]
    path = tmp_path / "seven.pdf"
    path.write_bytes(pdf(*sheets))
    with PdfFile(path) as file:
        assert file.page_count == 7
        for number in (7, 1, 4):
            assert file.page_size(number) == (100 + number, 100)
            page = file.render(number, 72, 10**6)
            assert (page.width, page.number, page.pages) == (100 + number, number, 7)


@pytest.mark.parametrize("number", [0, -1, 3, 10**30])
def test_a_page_that_is_not_there_is_refused(number: int) -> None:
    with pytest.raises(PageOutOfRange) as refusal:
        render(pdf(Sheet(), Sheet()), number)
    assert refusal.value.detail == (
        f"Field 'page' asks for page {number:,}, and the file has 2 pages. The first is page 1."
    )


def test_a_file_without_pages_is_refused() -> None:
    with pytest.raises(UnreadablePdf, match="has no pages"):
        render(pdf())


def test_a_page_that_the_file_only_claims_to_have_is_damaged() -> None:
    data = pdf(Sheet(), count=5)
    assert render(data).width == 200
    with pytest.raises(UnreadablePdf) as refusal:
        render(data, 4)
    assert refusal.value.detail == (
        "Page 4 of the PDF is damaged or missing. Check that it opens in a viewer; other pages may be readable."
    )


@pytest.mark.parametrize(
    ("box", "max_pixels", "size", "dpi"),
    [
        ((0, 0, 720, 720), 1440 * 1440, (1440, 1440), 144),
        ((0, 0, 720, 720), 1440 * 1440 - 1, (1439, 1439), 143.89),
        ((0, 0, 14400, 14400), 100_000_000, (9998, 9998), 49.99),
        ((0, 0, 1, 14400), 28_800, (1, 14398), 71.99),
    ],
)
def test_a_page_with_too_many_pixels_gets_fewer_dots_per_inch(
    box: tuple[int, int, int, int], max_pixels: int, size: tuple[int, int], dpi: float
) -> None:
    page = render(pdf(Sheet(box=box)), dpi=144, max_pixels=max_pixels)
    assert page.width * page.height <= max_pixels
    assert (page.width, page.height, page.dpi) == (*size, dpi)


def test_a_page_too_large_for_36_dpi_is_refused_with_its_size() -> None:
    with pytest.raises(TooManyPixels) as refusal:
        render(pdf(Sheet(box=(0, 0, 7200, 3600))), max_pixels=1_000_000)
    assert refusal.value.detail == (
        "The page measures 100 x 50 inches: even at 36 dpi more than the 1 megapixels that are accepted. "
        "Print it to a smaller paper size as a new PDF."
    )


@pytest.mark.parametrize("side", [1e9, 1e30, 1e38])
def test_a_page_of_absurd_size_is_refused_before_it_takes_memory(side: float) -> None:
    with pytest.raises(ServiceError) as refusal:
        render(pdf(Sheet(box=(0, 0, side, side))))
    assert refusal.value.status in (413, 422)


def test_an_encrypted_file_opens_with_its_password_alone() -> None:
    with pytest.raises(PasswordRequired):
        render(ENCRYPTED)
    with pytest.raises(WrongPassword):
        render(ENCRYPTED, password="tur")
    assert np.array_equal(render(ENCRYPTED, password=PASSWORD).pixels, render(pdf(letter("Vault number 4711"))).pixels)


def test_a_password_that_is_not_needed_does_not_matter() -> None:
    assert render(pdf(Sheet()), password="anything").width == 200


def test_a_password_is_not_in_what_is_logged_of_a_choice() -> None:
    assert "secret" not in repr(PageChoice(password="secret"))


WHOLE = pdf(Sheet(), letter("Every word of this page matters"))


@pytest.mark.parametrize("kept", [9, 100, len(WHOLE) // 2, WHOLE.rindex(b"xref\n0"), WHOLE.rindex(b"startxref")])
def test_a_file_cut_short_is_not_read_in_part(kept: int, tmp_path: Path) -> None:
    path = tmp_path / "half.pdf"
    path.write_bytes(WHOLE[:kept])
    for source in (WHOLE[:kept], path):
        with pytest.raises(UnreadablePdf):
            PdfFile(source)


def test_a_changed_file_cut_short_says_so() -> None:
    change = b"9 0 obj\n<<>>\nendobj\n"
    with pytest.raises(UnreadablePdf) as refusal:
        render(WHOLE + change)
    assert refusal.value.detail == (
        "The PDF is cut short: its end is missing. It is not read in part, because text would be missing. "
        "Send the whole file."
    )


def test_a_file_that_was_changed_and_saved_is_read_as_it_is_now() -> None:
    before = pdf(Sheet())
    changed = b"5 0 obj\n%s\nendobj\n" % stream(b"1 0 0 rg 0 0 200 100 re f")
    index = len(before) + len(changed)
    after = before + changed
    after += b"xref\n5 1\n%010d 00000 n \n" % len(before)
    after += b"trailer<</Size 6/Root 1 0 R/Prev %d>>\n" % before.rindex(b"xref\n0")
    after += b"startxref\n%d\n%%%%EOF\n" % index
    assert colour(render(before), 0.5, 0.5) == WHITE
    assert colour(render(after), 0.5, 0.5) == RED


@pytest.mark.parametrize("garbage", [b"\0" * 5000, b"<!-- added by a proxy -->" * 100, b"1 2 ob", b"9" * 100_000])
def test_garbage_behind_a_file_does_not_matter(garbage: bytes) -> None:
    assert np.array_equal(render(WHOLE + garbage, 2).pixels, render(WHOLE, 2).pixels)


def test_garbage_before_a_file_does_not_matter() -> None:
    assert np.array_equal(decode(b"\r\n junk\n" + WHOLE, LIMITS).pixels, decode(WHOLE, LIMITS).pixels)


@pytest.mark.parametrize(
    "data",
    [b"%PDF-1.7\n", b"%PDF-1.7\nhello", b"<html>Save as %PDF-1.7</html>", b"%PDF-" + bytes(range(256)) * 40],
)
def test_what_only_begins_as_a_pdf_is_refused(data: bytes) -> None:
    with pytest.raises(UnreadablePdf) as refusal:
        decode(data, LIMITS)
    assert refusal.value.detail == (
        "The file begins as a PDF does, but it is damaged, cut short, has no pages or is no PDF after all. "
        "Check that it opens in a viewer, save it again, and send that."
    )


def test_the_chosen_page_comes_through_the_decoders(tmp_path: Path) -> None:
    data = pdf(Sheet(), Sheet(box=(0, 0, 300, 100)))
    path = tmp_path / "a file"
    path.write_bytes(data)
    for source in (data, path):
        page = decode(source, LIMITS, PageChoice(2, 72))
        assert (page.width, page.number, page.pages, page.dpi) == (300, 2, 2, 72)
    path.write_bytes(b"hello")
    with pytest.raises(UnsupportedMediaType):
        decode(path, LIMITS)


async def test_a_worker_renders_from_bytes_and_from_a_path(tmp_path: Path) -> None:
    data = pdf(Sheet(), Sheet(box=(0, 0, 300, 100)))
    path = tmp_path / "document.pdf"
    path.write_bytes(data)
    decoder = Decoder(LIMITS, 1)
    try:
        for source in (data, path):
            page = await decoder.decode(source, PageChoice(2, 72))
            assert (page.width, page.number, page.pages, page.dpi) == (300, 2, 2, 72)
            with pytest.raises(PageOutOfRange):
                await decoder.decode(source, PageChoice(3))
    finally:
        await decoder.stop()


def render_within(allowance: int, path: Path, number: int) -> tuple[int, ...]:
    """Job: render a page under a memory limit of `allowance` bytes, after one that loads fonts."""
    render(pdf(letter("warm")))
    with address_space_limit(allowance), PdfFile(path) as file:
        return file.render(number, 144, 10**7).pixels.shape


@pytest.mark.skipif(sys.platform != "linux", reason="the memory limit is Linux's")
async def test_a_page_of_ten_thousand_takes_no_more_memory_than_one(tmp_path: Path) -> None:
    path = tmp_path / "long.pdf"
    path.write_bytes(pdf(*(letter(f"Page {number}") for number in range(1, 10_001))))
    worker = WorkerProcess("little-memory")
    try:
        # A page takes 5.8 MB, and PDFium's picture of the file's index some more: 10,000 pages would take 58 GB.
        assert await worker.call(render_within, 40_000_000, path, 10_000, timeout=60) == (1584, 1224, 3)
    finally:
        await worker.stop()


def bomb(decoded: bytes, repeated: int) -> bytes:
    """A page whose content inflates to `decoded` times `repeated`."""
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(decoded) for _ in range(repeated)) + packer.flush()
    content = stream(packed, b"/Filter/FlateDecode")
    return assemble(
        [
            b"<</Type/Catalog/Pages 2 0 R>>",
            b"<</Type/Pages/Count 1/Kids[3 0 R]>>",
            b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 100]/Contents 4 0 R>>",
            content,
        ]
    )


def looping_tree() -> bytes:
    """A page tree whose branch holds itself."""
    return assemble(
        [b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Count 9/Kids[3 0 R]>>", b"<</Type/Pages/Kids[2 0 R 3 0 R]>>"]
    )


def deep_forms() -> bytes:
    """A page that draws a form that draws itself twice."""
    form = stream(b"/X Do /X Do", b"/Type/XObject/Subtype/Form/BBox[0 0 9 9]/Resources<</XObject<</X 4 0 R>>>>")
    return pdf(Sheet(b"/X Do", more=b"/Resources<</XObject<</X 4 0 R>>>>"), objects=[form])


def huge_picture() -> bytes:
    """A page with a picture of ten gigapixels in a few bytes."""
    entries = b"/Type/XObject/Subtype/Image/Width 100000/Height 100000/BitsPerComponent 8/ColorSpace/DeviceRGB"
    picture = stream(zlib.compress(bytes(10**6), 9), entries + b"/Filter/FlateDecode")
    return pdf(Sheet(b"200 0 0 100 0 0 cm /X Do", more=b"/Resources<</XObject<</X 4 0 R>>>>"), objects=[picture])


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda: bomb(b"0 0 1 1 re f " * 100_000, 400),
        lambda: bomb(bytes(10**6), 2000),
        looping_tree,
        deep_forms,
        huge_picture,
    ],
    ids=["drawing without end", "zeros without end", "looping tree", "form in itself", "huge picture"],
)
async def test_a_hostile_file_costs_its_own_request_alone(make: Callable[[], bytes]) -> None:
    data = make()
    decoder = Decoder(IngestLimits(max_pixels=1_000_000, max_frames=10, decode_timeout=5), 1)
    try:
        try:
            page = await decoder.decode(data, PageChoice(1, 72))
        except (UnreadablePdf, DecodeTimeout):
            pass
        else:
            assert (page.width, page.height) == (200, 100)
        assert (await decoder.decode(pdf(Sheet()), PageChoice(1, 72))).width == 200
    finally:
        await decoder.stop()
