"""DeepSeek-OCR for vLLM: the model class that runs in vLLM's processes, and what an engine needs to drive it.

Importing this package imports neither vLLM nor PyTorch. vLLM finds the model by the entry point
`vllm.general_plugins`, which calls `register()` in every process of vLLM's.

**Engine arguments.** Pass all of `ENGINE_ARGUMENTS`. Its `hf_overrides` names `ARCHITECTURE`, a name that only this
package registers: where the plugin is missing the engine refuses to start, and vLLM's own DeepSeek-OCR class can never
run unnoticed in its place. Resolutions for requests that name none: `mm_processor_kwargs={"base_size": 1024, ...}`.

**A request.** Give `AsyncLLMEngine.generate` this prompt:

    {
        "prompt_token_ids": encode_prompt(tokenizer, "<image>\\nFree OCR."),
        "multi_modal_data": {"image": picture},
        "mm_processor_kwargs": {"base_size": 1024, "image_size": 640, "crop_mode": True, "max_tiles": 6},
    }

`encode_prompt` writes one beginning-of-sequence token and one `<image>` token per picture; the processor puts
`placeholder_count(width, height, options)` image tokens in the place of each. `picture` is a `views.Views`, or a
Pillow image, or uint8 RGB (height, width, 3), or a list of these for several pictures. `Views` are preferred: call
`views.prepare_views(pixels, views.ViewOptions(...))` in a worker process, and nothing heavy happens in the engine's
own process; `mm_processor_kwargs` is then not needed and counts for nothing. All four names of `mm_processor_kwargs`
are optional; they are `views.ViewOptions`. Wrong values raise `vllm_compat.InvalidRequest` from
`generate` before the engine core sees the request (as does a prompt longer than the context; catch `REQUEST_ERRORS`); `views.parse_options` says the same earlier, as `ViewError`.
For the count of a prepared picture read `Views.placeholders`.

**Without a tokenizer** (`skip_tokenizer_init`, vLLM 0.26 and later) the image token's id goes into `hf_overrides`, as `image_token_id`;
`stop_token_ids` then names the token that ends an answer.

Sampling: `skip_special_tokens=False`, `temperature=0.0`. The context (prompt, image tokens and output together) is 8192.
"""

from __future__ import annotations

import atexit
import gc
from typing import Any, Protocol

# Not vLLM's own "DeepseekOCRForCausalLM": with that name, a process where the plugin is missing or filtered out
# (VLLM_PLUGINS) would run vLLM's class without a word.
ARCHITECTURE = "DeepseekOCRServiceForCausalLM"
IMAGE_TOKEN = "<image>"  # noqa: S105

ENGINE_ARGUMENTS: dict[str, Any] = {
    "hf_overrides": {"architectures": [ARCHITECTURE]},
    # No two requests share a prefix before the picture, and no picture comes twice: the caches would only cost hashing.
    "enable_prefix_caching": False,
    "mm_processor_cache_gb": 0,
}


class PromptTokenizer(Protocol):
    """The part of a Hugging Face tokenizer that `encode_prompt` uses."""

    @property
    def bos_token_id(self) -> int | None: ...

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...


def register() -> None:
    """Tell vLLM about the model class, by name, so that nothing heavy is imported; the plugin entry point."""
    from vllm import ModelRegistry

    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(ARCHITECTURE, f"{__name__}.deepseek_ocr:DeepseekOCRForCausalLM")
    # Else Python's last act in each of vLLM's processes is to look for garbage among 600,000 objects: 2 s at every stop.
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)


def encode_prompt(tokenizer: PromptTokenizer, prompt: str, pictures: int = 1) -> list[int]:
    """Return the token ids of `prompt`, which holds one `<image>` for each of its `pictures`.

    Ids are built here because releases of vLLM and transformers differ in whether they add the
    beginning-of-sequence token. Raises ValueError where the number of `<image>` is another: text
    from outside may hold the marker too.
    """
    ids = tokenizer.encode(prompt, add_special_tokens=False)
    image = image_token_id(tokenizer)
    if ids.count(image) != pictures:
        raise ValueError(
            f"The prompt holds {ids.count(image)} {IMAGE_TOKEN} markers for {pictures} picture(s); write one for each."
        )
    return ids if tokenizer.bos_token_id is None else [tokenizer.bos_token_id, *ids]


def image_token_id(tokenizer: PromptTokenizer) -> int:
    """Look up the id of the image token; raises ValueError for a tokenizer that is not DeepSeek-OCR's."""
    ids = tokenizer.encode(IMAGE_TOKEN, add_special_tokens=False)
    if len(ids) != 1:
        raise ValueError(f"The tokenizer has no {IMAGE_TOKEN} token; this is not DeepSeek-OCR's tokenizer.")
    return ids[0]
