"""DeepSeek-OCR's tokenizer in the service's process: vLLM is given token ids and gives token ids.

vLLM would turn every token into text on the event loop by itself, 1.2 ms for a page of 600 tokens where decoding them piece
by piece takes 0.1 ms, and would read and copy a tokenizer for 3 to 4 s of each start.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from app.errors import EngineStartError
from app.vllm_models import IMAGE_TOKEN

if TYPE_CHECKING:
    from tokenizers import Tokenizer

log = logging.getLogger(__name__)

# As tokenizer.json names them.
BEGIN, END = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
# What bytes decode to that are no character, or not yet a whole one.
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class SpecialTokens:
    """The ids of the tokens that begin each prompt, end each answer, and hold a picture's place."""

    begin: int
    end: int
    image: int


def read_special(folder: Path) -> SpecialTokens:
    """Return them as a model's tokenizer.json has them, without reading the rest of it; raises EngineStartError where it lacks them."""
    try:
        text = (folder / "tokenizer.json").read_text(encoding="utf-8")
        added, _ = json.JSONDecoder().raw_decode(text, text.index("[", text.index('"added_tokens"')))
        ids = {token["content"]: token["id"] for token in added}
        return SpecialTokens(ids[BEGIN], ids[END], ids[IMAGE_TOKEN])
    except (KeyError, TypeError, ValueError):
        raise EngineStartError(
            f"The tokenizer.json in {folder} is not DeepSeek-OCR's: it lacks '{BEGIN}', '{END}' or '{IMAGE_TOKEN}'. "
            "Download the model again."
        ) from None


class ModelTokenizer:
    """The tokenizer of a model folder: text to token ids and back. Several threads may use it."""

    def __init__(self, folder: Path) -> None:
        """Read it, in 0.3 to 1 s for which Python's lock is held. Raises EngineStartError."""
        self.special = read_special(folder)
        self._tokenizer = _read(folder / "tokenizer.json")

    @property
    def bos_token_id(self) -> int:
        return self.special.begin

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return the token ids of a text."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, special tokens too, but for ids that are none."""
        text: str = self._tokenizer.decode(ids, skip_special_tokens=False)
        return text


class TextStream:
    """The text of an answer whose token ids come in pieces."""

    def __init__(self, tokenizer: ModelTokenizer) -> None:
        self._tokenizer = tokenizer
        self._held: list[int] = []

    def take(self, ids: Sequence[int], last: bool) -> str:
        """Return the text of the next token ids, without the token that ends the answer.

        A piece that ends amid a character's bytes comes with the next one, and half a character at the end not at all.
        """
        self._held += ids
        if last and self._held[-1:] == [self._tokenizer.special.end]:
            self._held.pop()
        text = self._tokenizer.decode(self._held)
        if text.endswith(_UNFINISHED):
            if not last:
                return ""
            text = text.rstrip(_UNFINISHED)
        self._held.clear()
        return text


def _read(file: Path) -> Tokenizer:
    from tokenizers import Tokenizer  # one of vLLM's own dependencies

    try:
        return Tokenizer.from_file(str(file))
    except Exception:  # process boundary: the library raises nothing more special
        log.exception("tokenizer_refused file=%s", file)
        raise EngineStartError(f"{file} is damaged; the log above says how. Download the model again.") from None
