"""The token ids of prompts, looked up once."""

from __future__ import annotations

import threading

from app.errors import InvalidParameter
from app.vllm_models import IMAGE_TOKEN, PromptTokenizer, encode_prompt

# Of at most 20,000 characters each.
MOST_KEPT = 64


class Prompts:
    """Token ids of prompts, with a picture's place before each. The last MOST_KEPT are kept: most pages have one of few."""

    def __init__(self, tokenizer: PromptTokenizer) -> None:
        self._tokenizer = tokenizer
        # Up to vLLM 0.20 a tokenizer is for one thread.
        self._lock = threading.Lock()
        self._kept: dict[str, list[int]] = {}

    def kept(self, prompt: str) -> list[int] | None:
        """Return the token ids of a prompt that was encoded lately, else None. Does not block."""
        return self._kept.get(prompt)

    def encode(self, prompt: str) -> list[int]:
        """Return the token ids of a prompt, and keep them. Blocks. Raises InvalidParameter."""
        with self._lock:
            try:
                ids = encode_prompt(self._tokenizer, f"{IMAGE_TOKEN}\n{prompt}")
            except ValueError:
                raise InvalidParameter(
                    f"The prompt must not contain '{IMAGE_TOKEN}', which marks the picture's place."
                ) from None
            if len(self._kept) >= MOST_KEPT:
                self._kept.pop(next(iter(self._kept)))
            self._kept[prompt] = ids
        return ids
