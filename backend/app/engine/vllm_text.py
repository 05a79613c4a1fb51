"""DeepSeek-OCR's tokenizer in the service's process: vLLM is given token ids and gives token ids.

vLLM would turn every token into text on the event loop by itself, 1.2 ms for a page of 600 tokens where decoding them piece
by piece takes 0.1 ms, and would read and copy a tokenizer for 3 to 4 s of each start, where this one takes 0.3 s.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from app.errors import EngineStartError
from app.vllm_models import image_token_id

if TYPE_CHECKING:
    from tokenizers import Tokenizer

log = logging.getLogger(__name__)

# As tokenizer.json names them.
BEGIN, END = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
# What bytes decode to that are no character, or not yet a whole one.
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"


class ModelTokenizer:
    """The tokenizer of a model folder: text to token ids and back; takes no locks and may be used by several threads.

    `bos_token_id` begins each prompt, `eos_token_id` ends each answer, `image_token_id` holds a picture's place.
    """

    def __init__(self, folder: Path) -> None:
        """Read tokenizer.json, in 0.3 s; raises EngineStartError for one that is not DeepSeek-OCR's."""
        self._tokenizer = _read(folder / "tokenizer.json")
        begin, end = self._tokenizer.token_to_id(BEGIN), self._tokenizer.token_to_id(END)
        try:
            self.image_token_id = image_token_id(self)
        except ValueError:
            begin = None
        if begin is None or end is None:
            raise EngineStartError(
                f"The tokenizer.json in {folder} is not DeepSeek-OCR's: it lacks '{BEGIN}', '{END}' or '<image>'. "
                "Download the model again."
            )
        self.bos_token_id: int = begin
        self.eos_token_id: int = end

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return the token ids of a text."""
        return self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, special tokens too, but for ids that are none."""
        return self._tokenizer.decode(ids, skip_special_tokens=False)


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
        if last and self._held[-1:] == [self._tokenizer.eos_token_id]:
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
    except Exception:  # the library raises nothing more special
        log.exception("tokenizer_refused file=%s", file)
        raise EngineStartError(f"{file} is damaged; the log above says how. Download the model again.") from None
