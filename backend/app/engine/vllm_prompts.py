"""The token ids of prompts, looked up once."""

from __future__ import annotations

import threading

from app.engine.vllm_text import ModelTokenizer
from app.errors import InvalidParameter
from app.vllm_models import IMAGE_TOKEN, encode_prompt

# Of at most 20,000 characters each.
MOST_KEPT = 64


class Prompts:
    """Token ids of prompts, with a picture's place before each. The last MOST_KEPT are kept: most pages have one of few."""

    def __init__(self, tokenizer: ModelTokenizer) -> None:
        self.tokenizer = tokenizer
        self._lock = threading.Lock()
        self._kept: dict[str, list[int]] = {}

    def kept(self, prompt: str) -> list[int] | None:
        """Return the token ids of a prompt that was encoded lately, else None. Does not block."""
        return self._kept.get(prompt)

    def encode(self, prompt: str) -> list[int]:
        """Return the token ids of a prompt, and keep them. Blocks. Raises InvalidParameter."""
        try:
            ids = encode_prompt(self.tokenizer, f"{IMAGE_TOKEN}\n{prompt}")
        except ValueError:
            raise InvalidParameter(
                f"The prompt must not contain '{IMAGE_TOKEN}', which marks the picture's place."
            ) from None
        with self._lock:
            self._kept[prompt] = ids
            if len(self._kept) > MOST_KEPT:
                del self._kept[next(iter(self._kept))]
        return ids
