"""The tiny reader's pages: planned, composed with PyTorch, painted with Pillow, and asked about."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from app.ocr.grounding import SCALE, Tag, parse
from app.ocr.modes import MODES, build_prompt
from tests.process import ROOT
from tools.tiny_reader import fonts
from tools.tiny_reader.answers import answer
from tools.tiny_reader.faces import SIZES, Faces, load_faces, save_faces
from tools.tiny_reader.look import Look, Shadow
from tools.tiny_reader.page import Kind, Page, plan_page
from tools.tiny_reader.paint import paint
from tools.tiny_reader.words import ALPHABET, WORDS, Bank, cell_bank, decode, draw_words, heading_bank, running_bank

# Those whose packages `make test` asks for.
FONTS = ("DejaVuSans.ttf", "LiberationSerif-Regular.ttf", "LiberationSans-Bold.ttf", "DejaVuSansMono.ttf")


@pytest.fixture(scope="module")
def faces() -> Faces:
    return load_faces([font for font in fonts.TRAINING if font.file_name in FONTS])


def plan(faces: Faces, seed: int, side: int = 512, kind: Kind = "lines", max_lines: int = 8) -> Page:
    return plan_page(np.random.default_rng(seed), side, kind=kind, max_lines=max_lines, fonts=faces)


def some_pages(faces: Faces, count: int) -> Iterator[Page]:
    for seed in range(count):
        side = 640 if seed % 3 == 0 else 512
        yield plan(faces, seed, side, "lines")
        yield plan(faces, seed + 1000, side, "document")


def plain(page: Page) -> Page:
    """The same plan in black on white, without noise and blur; keeps its turn and the size it is drawn at."""
    return replace(page, look=replace(unspoilt(page.look), paper=(255, 255, 255), ink=(0, 0, 0)))


def unspoilt(look: Look) -> Look:
    return replace(look, blur=0.0, noise=0.0, jpeg=0, shadow=None)


def natural(page: Page) -> bool:
    return not any(run.spaced for run in page.runs)


def test_the_alphabet_is_printable_ascii_without_what_tags_are_made_of() -> None:
    assert ALPHABET == " !\"#$%&'()*+,-./0123456789:;=?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[]abcdefghijklmnopqrstuvwxyz"


def test_every_font_but_one_is_trained_on_and_each_names_its_package_and_licence() -> None:
    assert len({font.file_name for font in fonts.TRAINING}) == len(fonts.TRAINING) >= 24
    assert fonts.HELD_OUT not in fonts.TRAINING
    assert fonts.HELD_OUT.package not in {font.package for font in fonts.TRAINING}
    assert all(font.package.startswith("fonts-") and font.licence for font in (*fonts.TRAINING, fonts.HELD_OUT))


def test_a_missing_font_is_an_error_that_names_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fonts, "SYSTEM_FOLDER", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"^GFSDidot\.otf is missing; .* fonts-gfs-didot\.$"):
        fonts.find("GFSDidot.otf")


def test_english_words_are_lower_case_letters_each_listed_once() -> None:
    assert len(set(WORDS)) == len(WORDS) >= 600
    assert all(word.replace("'", "").isalpha() and word.islower() for word in WORDS)


@pytest.mark.parametrize("bank", [running_bank, heading_bank, cell_bank])
def test_drawn_words_are_separated_by_single_spaces_and_use_the_alphabet_only(bank: Callable[[], Bank]) -> None:
    words = draw_words(np.random.default_rng(1), bank(), 500)
    text = decode(words.ids)
    assert text.endswith(" ")
    assert len(text[:-1].split(" ")) == len(words.ends) == 500
    assert all(text.split(" ")[:-1])
    assert set(text) <= set(ALPHABET)
    assert [text[end - 1] for end in words.ends] == [" "] * 500


def test_five_hundred_pages_of_words_use_the_whole_alphabet_and_seldom_repeat_an_invented_word() -> None:
    rng = np.random.default_rng(2)
    pages = [decode(draw_words(rng, running_bank(), 60).ids).split() for _ in range(500)]
    assert set("".join(word for page in pages for word in page)) == set(ALPHABET) - {" "}
    long_words = [word for page in pages for word in page if len(word) > 9 and word.isalpha()]
    assert len(set(long_words)) > 0.8 * len(long_words) > 1000


def test_the_same_generator_state_plans_the_same_page_and_another_a_different_one(faces: Faces) -> None:
    first, again, other = plan(faces, 7), plan(faces, 7), plan(faces, 8)
    assert first.blocks == again.blocks
    assert first.look == again.look
    assert first.runs == again.runs
    for name in ("glyph", "x", "y", "rulings", "char_ids", "char_xy", "word_boxes"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
    assert first.blocks != other.blocks


def test_faces_kept_in_a_folder_are_read_back_for_the_same_fonts_and_sizes_only(tmp_path: Path) -> None:
    table = [font for font in fonts.TRAINING if font.file_name == "DejaVuSans.ttf"]
    measured = load_faces(table, sizes=(14, 15))
    save_faces(measured, tmp_path)
    read = load_faces(table, tmp_path, (14, 15))
    assert (read.names, read.bold, read.sizes, read.folder) == (measured.names, (False,), (14, 15), tmp_path)
    for name in ("advance", "kern", "box", "extent", "middle", "ink"):
        assert np.array_equal(getattr(read, name), getattr(measured, name))
    with pytest.raises(FileNotFoundError, match=r"^DejaVuSans\.ttf is not in "):
        load_faces(table, tmp_path, (14, 16))


def test_everything_stays_inside_the_page(faces: Faces) -> None:
    for page in some_pages(faces, 60):
        assert page.word_boxes.min() > 0
        assert page.word_boxes.max() < page.side
        assert page.char_xy.min() > 0
        assert page.char_xy.max() < page.side
        for block in page.blocks:
            assert min(block.box) > 0
            assert max(block.box) < page.side


def test_characters_and_words_stand_in_reading_order_inside_their_lines(faces: Faces) -> None:
    for page in some_pages(faces, 30):
        text = "".join(line.text.replace(" ", "") for line in page.lines)
        assert "".join(ALPHABET[1:][index] for index in page.char_ids) == text
        assert sum(len(line.text.split(" ")) for line in page.lines) == len(page.word_boxes)
        for line in page.lines:
            words = page.word_boxes[line.first_word :][: len(line.text.split(" "))]
            assert line.box == pytest.approx((*words[:, :2].min(0), *words[:, 2:].max(0)))


def test_lines_do_not_touch_each_other(faces: Faces) -> None:
    for page in some_pages(faces, 80):
        if page.look.angle == 0:
            boxes = [line.box for line in page.lines]
            assert all(upper[3] < lower[1] for upper, lower in pairwise(boxes))


def test_a_page_has_at_most_the_lines_asked_for_and_a_document_its_parts(faces: Faces) -> None:
    assert {len(plan(faces, seed, max_lines=3).lines) for seed in range(40)} == {1, 2, 3}
    shapes = [[block.kind for block in plan(faces, seed, kind="document").blocks] for seed in range(60)]
    assert all(shape[:2] == ["title", "text"] and set(shape[2:]) <= {"text", "table"} for shape in shapes)
    assert 15 < sum("table" in shape for shape in shapes) < 45
    for seed in range(60):
        for block in plan(faces, seed, kind="document").blocks:
            if block.kind == "table":
                assert 2 <= len(block.rows) <= 4
                assert {len(row) for row in block.rows} in ({2}, {3})
                assert [" ".join(row) for row in block.rows] == [line.text for line in block.lines]


def test_the_ink_that_pillow_paints_is_inside_the_measured_boxes(faces: Faces) -> None:
    for seed in range(8):
        image, page = paint(plain(plan(faces, seed)), seed)
        ink = np.asarray(image.convert("L")) < 192
        outside = np.ones_like(ink)
        for line in page.lines:
            x1, y1, x2, y2 = (int(value) for value in line.box)
            assert ink[y1:y2, x1:x2].any()
            outside[y1 - 1 : y2 + 1, x1 - 1 : x2 + 1] = False
        assert not (ink & outside).any()


def test_planned_boxes_are_those_of_the_painted_ink_within_a_pixel_and_a_half(faces: Faces) -> None:
    compared = 0
    for seed in range(20):
        page = plan(faces, seed, kind="lines" if seed % 2 else "document")
        if natural(page):
            _, painted = paint(page, seed)
            planned = np.array([line.box for line in page.lines])
            measured = np.array([line.box for line in painted.lines])
            assert np.abs(planned - measured).max() <= 1.5
            compared += len(planned)
    assert compared > 30


def test_letters_are_no_larger_than_asked_for_when_the_page_is_finished(faces: Faces) -> None:
    for seed in range(60):
        page = plan_page(np.random.default_rng(seed), 640, kind="lines", max_lines=8, fonts=faces, largest=18)
        assert all(14 <= run.size * 640 / page.look.draw_side <= 18 for run in page.runs)


def test_sizes_beyond_the_training_range_can_be_planned_and_painted() -> None:
    large = load_faces([font for font in fonts.TRAINING if font.file_name == "DejaVuSans.ttf"], sizes=range(48, 61))
    page = plan(large, 3, side=1280)
    image, painted = paint(page, 3)
    assert image.size == (1280, 1280)
    assert {run.size for run in page.runs} <= set(range(48, 61))
    assert len(painted.lines) == len(page.lines)


def test_composed_pages_look_like_painted_ones(faces: Faces) -> None:
    pages = [page for page in map(plain, some_pages(faces, 12)) if natural(page) and page.side == 512]
    assert len(pages) > 5
    for page, composed in zip(pages, compose(pages, faces), strict=True):
        painted = np.asarray(paint(page, 0)[0]).astype(int)
        difference = np.abs(composed.astype(int) - painted)
        # A third of what two shifts by a pixel would differ in.
        assert difference.sum() < 0.33 * np.abs(painted - np.roll(painted, 1, axis=1)).sum()


def test_a_look_of_every_kind_is_composed_as_it_is_painted(faces: Faces) -> None:
    page = next(page for page in some_pages(faces, 9) if natural(page) and len(page.glyph) > 60)
    clean = replace(unspoilt(page.look), angle=0.0, paper=(30, 60, 40), ink=(250, 240, 150))
    looks = (
        replace(clean, blur=0.8),
        replace(clean, noise=8.0),
        replace(clean, jpeg=40),
        replace(clean, shadow=Shadow(strength=0.4, direction=0.6, middle=0.1, width=0.1)),
        replace(clean, angle=-1.5),
    )
    pages = [replace(page, look=look) for look in looks]
    for dressed, picture in zip(pages, compose(pages, faces), strict=True):
        composed, painted = picture.astype(float), np.asarray(paint(dressed, 1)[0]).astype(float)
        assert np.abs(composed.mean((0, 1)) - painted.mean((0, 1))).max() < 1.0
        # A turn is bilinear in one and bicubic in the other, which keeps a little more contrast.
        assert composed.std() == pytest.approx(painted.std(), rel=0.06)


def test_the_noise_comes_from_the_generator_alone(faces: Faces) -> None:
    page = plan(faces, 1)
    noisy = replace(page, look=replace(page.look, noise=5.0))
    assert np.array_equal(compose([noisy], faces, seed=1), compose([noisy], faces, seed=1))
    assert not np.array_equal(compose([noisy], faces, seed=1), compose([noisy], faces, seed=2))


def test_pages_of_two_sides_are_not_packed_together(faces: Faces) -> None:
    pytest.importorskip("torch")
    from tools.tiny_reader.compose import pack

    with pytest.raises(ValueError, match=r"one side can be packed together, not of \[512, 640\]"):
        pack([plan(faces, 1, 512), plan(faces, 1, 640)])


def compose(pages: list[Page], faces: Faces, seed: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    torch = pytest.importorskip("torch")
    from tools.tiny_reader.compose import Atlas, draw

    drawn = draw(pages, Atlas.build(faces), "cpu", torch.Generator().manual_seed(seed))
    return np.asarray(drawn.numpy())


def test_prompts_are_those_the_service_sends(faces: Faces) -> None:
    page, rng = plan(faces, 5, kind="document"), np.random.default_rng(1)
    assert answer(page, "free", rng)[0] == build_prompt(MODES["plain_ocr"])
    assert answer(page, "boxes", rng)[0] == build_prompt(MODES["plain_ocr"], grounding=True)
    assert answer(page, "markdown", rng)[0] == build_prompt(MODES["markdown"])
    prompt, text = answer(page, "locate", rng)
    (tag,) = parse(text)
    assert isinstance(tag, Tag)
    assert prompt == build_prompt(MODES["find_ref"], find_term=tag.label)


def test_answers_with_boxes_come_back_from_the_parser_as_the_lines(faces: Faces) -> None:
    for page in some_pages(faces, 15):
        _, text = answer(page, "boxes", np.random.default_rng(1))
        tags = [segment for segment in parse(text) if isinstance(segment, Tag)]
        assert [tag.label for tag in tags] == [line.text for line in page.lines]
        for tag, line in zip(tags, page.lines, strict=True):
            (box,) = tag.boxes
            read = np.array([box.x1, box.y1, box.x2, box.y2]) / SCALE * page.side
            assert np.abs(read - line.box).max() <= 0.5 * page.side / SCALE + 1e-3


def test_what_is_located_stands_on_the_page_in_its_box(faces: Faces) -> None:
    rng = np.random.default_rng(1)
    whole_lines = 0
    for page in some_pages(faces, 20):
        _, text = answer(page, "locate", rng)
        (tag,) = (segment for segment in parse(text) if isinstance(segment, Tag))
        words = [word for line in page.lines for word in line.text.split(" ")]
        boxes = [line.box for line in page.lines if line.text == tag.label]
        whole_lines += bool(boxes)
        if not boxes:
            assert words.count(tag.label) == 1
            boxes = [tuple(page.word_boxes[words.index(tag.label)].tolist())]
        expected = [tuple(round(value / page.side * SCALE) for value in box) for box in boxes]
        (box,) = tag.boxes
        assert (box.x1, box.y1, box.x2, box.y2) in expected
    assert 8 < whole_lines < 36


def test_markdown_gives_each_block_its_tag_and_a_table_as_html(faces: Faces) -> None:
    page = next(page for page in some_pages(faces, 30) if page.blocks[-1].kind == "table")
    _, text = answer(page, "markdown", np.random.default_rng(1))
    segments = parse(text)
    assert [segment.label for segment in segments if isinstance(segment, Tag)] == [block.kind for block in page.blocks]
    bodies = [segment.text for segment in segments if not isinstance(segment, Tag)]
    title, *paragraphs, table = page.blocks
    assert bodies[0] == f"\n# {title.lines[0].text}\n\n"
    assert bodies[1:-1] == [f"\n{' '.join(line.text for line in block.lines)}\n\n" for block in paragraphs]
    cells = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in table.rows)
    assert bodies[-1] == f"\n<table>{cells}</table>"


def test_glyph_indices_and_sizes_agree_with_the_runs(faces: Faces) -> None:
    page = plan(faces, 4)
    per_size = len(ALPHABET) - 1
    first = int(page.glyph[0])
    run = page.runs[0]
    assert faces.names[first // (per_size * len(SIZES))] == run.font
    assert SIZES[first // per_size % len(SIZES)] == run.size
    assert ALPHABET[1:][first % per_size] == run.text[0]


def test_the_makefile_installs_every_font_package() -> None:
    text = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    listed = next(line for line in text.splitlines() if line.startswith("FONT_PACKAGES ="))
    assert tuple(sorted(listed.split("=")[1].split())) == fonts.packages()
