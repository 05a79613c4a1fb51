"""Searchable PDFs, asked with poppler and PDFium: words are found where they are printed.

Needs Debian's poppler-utils.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pypdfium2
import pytest
from PIL import Image

from app.errors import PasswordRequired, WrongPassword
from app.ingest.pdf import PdfFile
from app.results.document import Document, Options, StoredPages
from app.results.pages import PageResult
from app.results.writers import write
from app.workers import WorkerProcess
from tests.ingest.pdfs import ENCRYPTED, PASSWORD, Sheet, letter, pdf
from tests.results.documents import FAILED, page, pdf_words, printed, tag

# As a unit of the model's is a pixel in them.
SIDE = 999


def scan(*lines: tuple[str, int, int]) -> Image.Image:
    return printed(*lines, size=(SIDE, SIDE))


def saved(path: Path, image: Image.Image, **how: object) -> Path:
    image.save(path, **how)
    return path


def searchable(
    folder: Path, source: Path, *pages: PageResult, password: str = "", options: Options | None = None
) -> Path:
    path = folder / "searchable.pdf"
    write(Document("Ships", pages, source, password), "pdf", path, None, options)
    return path


def result(raw: str, number: int = 1, mode: str = "plain_ocr", **values: object) -> PageResult:
    return page(raw, number, mode, **{"width": SIDE, "height": SIDE, **values})


def test_words_of_a_line_are_moved_to_the_gaps_in_the_picture(tmp_path: Path) -> None:
    """Of letters far narrower and far wider than they usually are."""
    image = scan(("illicit WWWWW lilt Willi", 100, 100))
    raw = tag("illicit WWWWW lilt Willi", 98, 98, 350, 124)
    path = searchable(tmp_path, saved(tmp_path / "a.png", image), result(raw))
    columns = np.flatnonzero(np.asarray(image.convert("L")).min(axis=0) < 128)
    wide = np.flatnonzero(np.diff(columns) > 5)
    starts = [int(columns[0]), *columns[wide + 1].tolist()]
    ends = [*columns[wide].tolist(), int(columns[-1])]
    (words,) = pdf_words(path)
    scale = 96 / 72
    assert [word for word, _ in words] == ["illicit", "WWWWW", "lilt", "Willi"]
    assert [box[0] * scale for _, box in words] == pytest.approx(starts, abs=1)
    assert [box[2] * scale for _, box in words] == pytest.approx([end + 1 for end in ends], abs=1)
    assert [round(side * scale) for side in (words[0][1][1], words[0][1][3])] == [98, 124]


def test_a_viewer_finds_phrases_in_both_languages(tmp_path: Path) -> None:
    raw = f"{tag('Port of Kiel', 100, 100, 500, 120)}\n{tag('港口公司的发票𠀀𠮷', 100, 140, 500, 160)}"
    path = searchable(tmp_path, saved(tmp_path / "a.png", scan()), result(raw))
    with pypdfium2.PdfDocument(path) as found:
        text = found[0].get_textpage()
        assert text.search("of Kiel").get_next() is not None
        assert text.search("公司的发票").get_next() is not None
        assert text.search("absent").get_next() is None
    ((*_, last),) = pdf_words(path)
    assert last[0] == "港口公司的发票𠀀𠮷"


def test_text_from_right_to_left_is_found_as_it_is_written(tmp_path: Path) -> None:
    raw = f"{tag('שלום עולם טוב', 100, 100, 500, 120)}\n{tag('مرحبا بالعالم', 100, 140, 500, 160)}"
    path = searchable(tmp_path, saved(tmp_path / "a.png", scan()), result(raw))
    with pypdfium2.PdfDocument(path) as found:
        assert found[0].get_textpage().search("שלום").get_next() is not None
    said = subprocess.run(["pdftotext", path, "-"], capture_output=True, check=True, text=True).stdout
    assert [word.strip("\u202a\u202b\u202c\f") for word in said.split()] == ["שלום", "עולם", "טוב", "مرحبا", "بالعالم"]
    # Words with their boxes are given as they are seen, from the left.
    boxes = {word[::-1]: box for word, box in pdf_words(path)[0]}
    assert boxes["שלום"][2] == pytest.approx(500 * 0.75, abs=0.5)
    assert boxes["טוב"][0] == pytest.approx(100 * 0.75, abs=0.5)


def test_the_text_is_invisible(tmp_path: Path) -> None:
    source = tmp_path / "a.pdf"
    source.write_bytes(pdf(Sheet(b"1 0 0 rg 0 0 50 50 re f", (0, 0, 72, 72))))
    path = searchable(tmp_path, source, result(tag("Red", 0, 0, 999, 999), width=144, height=144, dpi=144.0))
    with PdfFile(source) as before, PdfFile(path) as after:
        assert np.array_equal(before.render(1, 72, 10**6).pixels, after.render(1, 72, 10**6).pixels)
    assert [word for word, _ in pdf_words(path)[0]] == ["Red"]


def test_a_jpeg_is_kept_byte_for_byte_at_its_dpi(tmp_path: Path) -> None:
    source = saved(tmp_path / "a.jpg", scan(("Kiel", 100, 100)), dpi=(300, 300))
    path = searchable(tmp_path, source, result(tag("Kiel", 100, 100, 150, 120)))
    assert source.read_bytes() in path.read_bytes()
    with pypdfium2.PdfDocument(path) as found:
        assert found[0].get_size() == pytest.approx((SIDE * 72 / 300, SIDE * 72 / 300), abs=0.01)


def test_a_jpeg_turned_by_exif_is_turned(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = printed(("Kiel", 20, 10), size=(SIDE, 500))
    source = saved(tmp_path / "a.jpg", upright.transpose(Image.Transpose.ROTATE_90), exif=exif.tobytes(), dpi=(72, 72))
    path = searchable(tmp_path, source, result(tag("Kiel", 20, 26, 62, 60), height=500))
    assert source.read_bytes() not in path.read_bytes()
    with PdfFile(path) as found:
        pixels = found.render(1, 72, 10**6).pixels
        assert pixels.shape == (500, SIDE, 3)
        assert pixels[10:35, 15:70].min() < 100
        assert pixels[100:].min() > 200


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_text_lands_where_it_is_shown_on_turned_and_cropped_pages(tmp_path: Path, turn: int) -> None:
    """Drawn with the crop and turn that the page asks for, then found in the same place of the drawing."""
    source = tmp_path / "a.pdf"
    with pypdfium2.PdfDocument.new() as made:
        sheet = made.new_page(400, 600)
        sheet.set_cropbox(50, 100, 350, 500)
        sheet.set_rotation(turn)
        made.save(source)
    width, height = (600, 800) if turn in (0, 180) else (800, 600)
    raw = tag("Kiel", 250, 500, 500, 550)
    path = searchable(tmp_path, source, result(raw, width=width, height=height, dpi=144.0))
    (((word, found),),) = pdf_words(path)
    expected = [n * side / 999 / 2 for n, side in ((250, width), (500, height), (500, width), (550, height))]
    assert word == "Kiel"
    assert found == pytest.approx(expected, abs=1)


@pytest.mark.parametrize(("turn", "letters"), [(90, "downwards"), (270, "upwards"), (180, "backwards")])
def test_turned_scans_are_known_by_the_order_of_their_lines(tmp_path: Path, turn: int, letters: str) -> None:
    lines = {
        90: [("one two", 700, 100, 720, 400), ("three four", 600, 100, 620, 500), ("five six", 500, 100, 520, 400)],
        270: [("one two", 500, 500, 520, 900), ("three four", 600, 500, 620, 900), ("five six", 700, 500, 720, 900)],
        180: [("one two", 500, 800, 900, 820), ("three four", 500, 700, 900, 720), ("five six", 500, 600, 900, 620)],
    }[turn]
    raw = "\n".join(tag(text, *box) for text, *box in lines)
    path = searchable(tmp_path, saved(tmp_path / "a.png", scan()), result(raw))
    found = dict(pdf_words(path)[0])
    middle = {word: ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2) for word, box in found.items()}
    ahead = {90: (0, 1), 270: (0, -1), 180: (-1, 0)}[turn]
    step = [b - a for a, b in zip(middle["three"], middle["four"], strict=True)]
    assert [round(side / max(map(abs, step))) for side in step] == list(ahead), letters


def test_a_block_is_laid_over_the_lines_in_the_picture(tmp_path: Path) -> None:
    image = scan(("Twelve ships called", 100, 100), ("in May and", 100, 150), ("one in June.", 100, 200))
    raw = f"{tag('text', 95, 95, 310, 230)}\nTwelve ships called in May and one in June."
    path = searchable(tmp_path, saved(tmp_path / "a.png", image), result(raw, mode="markdown"))
    tops: dict[int, list[str]] = {}
    for word, box in pdf_words(path)[0]:
        tops.setdefault(round((box[1] + box[3]) / 2 * 96 / 72 / 50), []).append(word)
    assert tops == {2: ["Twelve", "ships", "called"], 3: ["in", "May", "and"], 4: ["one", "in", "June."]}


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_blocks_of_a_turned_scan_are_laid_over_its_lines(tmp_path: Path, turn: int) -> None:
    """Three blocks at least, whose order tells how the page lies."""
    said = [(f"{a} ships came in", f"and {b} went out") for a, b in ("ab", "cd", "ef", "gh")]
    image = scan(*((text, 100, 100 + 200 * n + 40 * m) for n, two in enumerate(said) for m, text in enumerate(two)))
    raw = ""
    for n, two in enumerate(said):
        x1, y1, x2, y2 = 95, 95 + 200 * n, 290, 170 + 200 * n
        box = {
            90: (SIDE - y2, x1, SIDE - y1, x2),
            180: (SIDE - x2, SIDE - y2, SIDE - x1, SIDE - y1),
            270: (y1, SIDE - x2, y2, SIDE - x1),
        }[turn]
        raw += f"{tag('text', *box)}\n{' '.join(two)}\n\n"
    turned = image.rotate(-turn)
    path = searchable(tmp_path, saved(tmp_path / "a.png", turned), result(raw, mode="markdown"))
    (words,) = pdf_words(path)
    found = {word: [side * 96 / 72 for side in box] for word, box in words}
    for n, first in enumerate("aceg"):
        x1, y1, x2, y2 = found[first]
        middle = {
            90: (y1 + y2, 2 * SIDE - x1 - x2),
            180: (2 * SIDE - x1 - x2, 2 * SIDE - y1 - y2),
            270: (2 * SIDE - y1 - y2, x1 + x2),
        }[turn]
        assert middle == pytest.approx((2 * 106, 2 * (114 + 200 * n)), abs=12)


def test_text_that_the_page_has_already_is_not_added_again(tmp_path: Path) -> None:
    source = tmp_path / "a.pdf"
    source.write_bytes(pdf(letter("Vault number 4711")))
    (words,) = pdf_words(source)
    left, top = (min(box[n] for _, box in words) for n in (0, 1))
    right, bottom = (max(box[n] for _, box in words) for n in (2, 3))
    box = [round(value / side * 999) for value, side in zip((left, top, right, bottom), (612, 792) * 2, strict=True)]
    raw = f"{tag('Vault number 4711', *box)}\n{tag('A stamp', 600, 600, 800, 620)}"
    read = result(raw, width=1224, height=1584, dpi=144.0)
    once = searchable(tmp_path, source, read)
    assert sorted(word for word, _ in pdf_words(once)[0]) == ["4711", "A", "Vault", "number", "stamp"]
    twice = searchable(tmp_path, source, read, options=Options(add_to_existing_text=True))
    with pypdfium2.PdfDocument(twice) as found:
        assert found[0].get_textpage().get_text_bounded().count("Vault") == 2


def test_a_page_whose_drawing_never_gives_its_state_back_keeps_text_in_place(tmp_path: Path) -> None:
    source = tmp_path / "a.pdf"
    source.write_bytes(pdf(Sheet(b"3 0 0 3 100 100 cm q 0 1 -1 0 7 7 cm", (0, 0, 300, 300))))
    path = searchable(tmp_path, source, result(tag("Kiel", 100, 100, 500, 200), width=600, height=600, dpi=144.0))
    (((word, box),),) = pdf_words(path)
    assert (word, box) == ("Kiel", pytest.approx((30, 30, 150, 60), abs=0.6))


def test_pages_that_were_not_read_stay_and_failed_ones_have_a_note(tmp_path: Path) -> None:
    source = tmp_path / "a.pdf"
    source.write_bytes(pdf(letter("One"), letter("Two"), letter("Three")))
    path = searchable(tmp_path, source, PageResult(2, failure=FAILED))
    assert [[word for word, _ in words] for words in pdf_words(path)] == [["One"], ["Two"], ["Three"]]
    note = "Page 2 could not be read: Reading took too long. -- <b>".encode("utf-16-be")
    assert b"/Subtype/Text" in path.read_bytes()
    assert note in path.read_bytes() or b"Page 2 could not be read: Reading took too long. -- <b>" in path.read_bytes()


def test_a_page_that_failed_because_it_is_damaged_stays_as_it_is(tmp_path: Path) -> None:
    source = tmp_path / "a.pdf"
    source.write_bytes(pdf(letter("One"), count=2))
    path = searchable(tmp_path, source, PageResult(2, failure=FAILED), PageResult(9, failure=FAILED))
    assert [word for word, _ in pdf_words(path)[0]] == ["One"]


def test_a_picture_that_failed_is_a_blank_page_when_it_cannot_be_decoded(tmp_path: Path) -> None:
    source = tmp_path / "a.png"
    source.write_bytes(b"\x89PNG\r\n\x1a\ncut")
    path = searchable(tmp_path, source, PageResult(1, failure=FAILED))
    assert pdf_words(path) == [[]]


def test_each_frame_of_a_tiff_becomes_a_page(tmp_path: Path) -> None:
    frames = [scan(("one", 100, 100)), scan(("two", 100, 100))]
    source = saved(tmp_path / "a.tif", frames[0], save_all=True, append_images=frames[1:], dpi=(100, 100))
    box = (98, 98, 145, 124)
    path = searchable(tmp_path, source, result(tag("one", *box)), result(tag("two", *box), 2))
    assert [[word for word, _ in words] for words in pdf_words(path)] == [["one"], ["two"]]


def test_an_encrypted_pdf_wants_its_password_and_stays_encrypted(tmp_path: Path) -> None:
    source = tmp_path / "a.pdf"
    source.write_bytes(ENCRYPTED)
    read = result(tag("Stamp", 600, 600, 800, 620), width=1224, height=1584, dpi=144.0)
    with pytest.raises(PasswordRequired):
        searchable(tmp_path, source, read)
    with pytest.raises(WrongPassword):
        searchable(tmp_path, source, read, password="wrong")
    path = searchable(tmp_path, source, read, password=PASSWORD)
    with pytest.raises(PasswordRequired):
        PdfFile(path)
    with pypdfium2.PdfDocument(path, password=PASSWORD) as found:
        assert found[0].get_textpage().get_text_bounded().split() == ["Vault", "number", "4711", "Stamp"]


def test_a_file_that_could_not_be_finished_is_removed(tmp_path: Path) -> None:
    source = tmp_path / "a.png"
    source.write_bytes(b"\x89PNG\r\n\x1a\ncut")
    with pytest.raises(Exception, match="PNG"):
        searchable(tmp_path, source, result("x"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


async def test_it_is_written_in_a_worker_process_from_stored_pages(tmp_path: Path) -> None:
    source = saved(tmp_path / "a.png", scan(("Kiel", 100, 100)))
    pages = StoredPages.store(tmp_path / "pages.jsonl", [result(tag("Kiel", 98, 98, 150, 124))])
    worker = WorkerProcess("results")
    try:
        await worker.call(write, Document("Ships", pages, source), "pdf", tmp_path / "b.pdf", timeout=60)
    finally:
        await worker.stop()
    assert [word for word, _ in pdf_words(tmp_path / "b.pdf")[0]] == ["Kiel"]


def test_pictures_are_read_when_the_file_is_saved(tmp_path: Path) -> None:
    """Until then they are on disk; each comes out on its own page."""
    colours = ["red", "green", "blue"]
    frames = [Image.new("RGB", (SIDE, SIDE), colour) for colour in colours]
    source = saved(tmp_path / "a.tif", frames[0], save_all=True, append_images=frames[1:], dpi=(72, 72))
    path = searchable(tmp_path, source, *(result(tag("x", 1, 1, 9, 9), number) for number in (1, 2, 3)))
    with PdfFile(path) as found:
        for number in (1, 2, 3):
            drawn = found.render(number, 72, 10**7).pixels
            wanted = np.asarray(frames[number - 1])
            assert abs(drawn.astype(int) - wanted).max() < 4
