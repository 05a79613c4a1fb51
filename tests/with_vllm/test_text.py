"""Text of token ids that come in pieces, with real tokenizers."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("tokenizers", reason="vLLM, which brings it, is not installed")

from app.engine.vllm_text import END, ModelTokenizer, TextStream
from app.errors import EngineStartError
from tools.tiny_reader.serve import FOLDER

STATED = (FOLDER / "tokenizer.json").read_text(encoding="utf-8")
TINY = ModelTokenizer(FOLDER)  # a token for each byte, so that no character but ASCII's is a single token


def read(pieces: list[list[int]]) -> list[str]:
    stream = TextStream(TINY)
    return [stream.take(piece, number == len(pieces) - 1) for number, piece in enumerate(pieces)]


def encode(text: str) -> list[int]:
    return TINY.encode(text, add_special_tokens=False)


@given(
    st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\N{REPLACEMENT CHARACTER}"), max_size=40),
    st.lists(st.integers(1, 5), min_size=1, max_size=200),
    st.booleans(),
)
@settings(deadline=None)
def test_pieces_make_the_whole_text_however_they_are_cut(text: str, sizes: list[int], ended: bool) -> None:
    ids = encode(text)
    pieces = []
    for size in sizes:
        pieces.append(ids[:size])
        ids = ids[size:]
    end = [TINY.special.end] if ended else []
    assert "".join(read([*pieces, ids + end])) == text


def test_a_character_is_given_when_it_is_whole() -> None:
    first, second, third = encode("发")
    assert read([[first], [second], [third, *encode("票")], []]) == ["", "", "发票", ""]


def test_half_a_character_at_the_end_is_left_out() -> None:
    assert read([[*encode("a"), encode("发")[0]]]) == ["a"]


def test_marks_are_text_and_ids_that_are_none_are_not() -> None:
    mark = encode("<|ref|>")
    assert len(mark) == 1
    assert read([[*mark, 5000, *encode("x"), TINY.special.end]]) == ["<|ref|>x"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is not DeepSeek-OCR's"),
        (b"\xff\xfe", "is not DeepSeek-OCR's"),
        (b'{"added_tokens": [7]}', "is not DeepSeek-OCR's"),
        (STATED.replace(END, "the end").encode(), "is not DeepSeek-OCR's"),
        (STATED[:-20].encode(), "is damaged"),
    ],
)
def test_another_tokenizer_is_refused_with_a_sentence(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(EngineStartError, match=sentence):
        ModelTokenizer(tmp_path)
