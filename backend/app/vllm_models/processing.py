"""From the pictures of a request to the encoder's inputs and the prompt's placeholders; runs in vLLM's front end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch

from app.vllm_compat import (
    BaseProcessingInfo,
    InvalidRequest,
    MultiModalDataItems,
    MultiModalDataParser,
    MultiModalFieldConfig,
    PictureDummiesBase,
    PictureProcessorBase,
    ProcessorBatchItems,
    PromptReplacement,
    PromptUpdate,
    picture_field,
    processor_defaults,
)
from app.vllm_models import IMAGE_TOKEN, image_token_id
from app.vllm_models.views import (
    ViewError,
    ViewOptions,
    Views,
    count_placeholders,
    largest_request,
    parse_options,
    prepare_views,
)


class PictureItems(ProcessorBatchItems):
    """The pictures of one request: `Views`, Pillow images or uint8 arrays."""

    def __init__(self, pictures: Sequence[Any]) -> None:
        super().__init__(pictures, "image")

    def get_item_for_hash(self, index: int) -> object:
        """Return what identifies a picture in vLLM's caches; vLLM cannot hash `Views` itself."""
        picture = self.data[index]
        if not isinstance(picture, Views):
            return picture
        return [picture.global_view, *([picture.tiles] if len(picture.tiles) else []), list(picture.grid)]


class PictureParser(MultiModalDataParser):
    """Takes `Views` besides pictures, and leaves rotation and colour to `prepare_views`."""

    def _parse_image_data(self, data: Any) -> PictureItems | None:
        if data is None:
            return None
        pictures = list(data) if isinstance(data, (list, tuple)) else [data]
        if any(isinstance(picture, torch.Tensor) for picture in pictures):
            raise InvalidRequest("A picture is prepared views, a Pillow image or a uint8 array, not a tensor.")
        return PictureItems(pictures)


class PictureInfo(BaseProcessingInfo):
    """What vLLM asks about the model's pictures before it has one."""

    def get_data_parser(self) -> PictureParser:
        return PictureParser()

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        return {"image": None}

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> Mapping[str, int]:
        options, grid = largest_request()
        return {"image": count_placeholders(options.base_size, options.image_size, grid)}

    def get_tokenizer(self) -> Any:
        """Return the tokenizer, None where the engine was told to read none: what to look for in a prompt is token ids already."""
        return self.ctx.tokenizer

    @cached_property
    def image_token(self) -> int:
        """The id of the image token, which to look up takes longer than the rest of a page that is views already."""
        if self.ctx.tokenizer is None:
            return int(self.ctx.get_hf_config().image_token_id)
        return image_token_id(self.get_tokenizer())

    def view_options(self, request: Mapping[str, object]) -> ViewOptions:
        """Return the options of a request over the engine's own; raises ViewError."""
        return parse_options({**processor_defaults(self.ctx.model_config), **request})

    def cut_views(self, pictures: Sequence[Any], request: Mapping[str, object]) -> list[Views]:
        """Return the views of pictures; raises InvalidRequest, which vLLM hands to the caller as it is."""
        try:
            options = self.view_options(request)
            return [picture if isinstance(picture, Views) else prepare_views(picture, options) for picture in pictures]
        except ViewError as error:
            raise InvalidRequest(str(error)) from error


class PictureDummies(PictureDummiesBase):
    """The largest request, for measuring memory at start."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        return IMAGE_TOKEN * mm_counts.get("image", 0)

    def get_dummy_mm_data(
        self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Any = None, **_: Any
    ) -> dict[str, list[Views]]:
        return {"image": [largest_views()] * mm_counts.get("image", 0)}


@lru_cache(maxsize=1)
def largest_views() -> Views:
    """Return the views of one picture that take the most image tokens, all black."""
    options, (columns, rows) = largest_request()
    whole = np.zeros((options.base_size, options.base_size, 3), np.uint8)
    tiles = np.zeros((columns * rows, options.image_size, options.image_size, 3), np.uint8)
    return Views(whole, tiles, (columns, rows))


class PictureProcessor(PictureProcessorBase):
    """Makes views of pictures that are not views yet and reserves the prompt's image tokens."""

    info: PictureInfo

    def process_pictures(self, pictures: Sequence[Any], options: Mapping[str, object]) -> dict[str, Any]:
        """Return uint8 views as tensors without copying them, one entry per picture."""
        views = self.info.cut_views(pictures, options)
        return {
            "global_view": [_as_tensor(view.global_view) for view in views],
            "tiles": [_as_tensor(view.tiles) for view in views],
            "grid": [torch.tensor(view.grid) for view in views],
        }

    def _get_mm_fields_config(
        self, hf_inputs: Mapping[str, Any], hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        return {
            "global_view": picture_field(),
            "tiles": picture_field(),
            "grid": picture_field(keep_on_cpu=True),
        }

    def _get_prompt_updates(
        self,
        mm_items: MultiModalDataItems,
        hf_processor_mm_kwargs: Mapping[str, object],
        out_mm_kwargs: Mapping[str, Any],
    ) -> Sequence[PromptUpdate]:
        image = self.info.image_token

        def placeholders(index: int) -> list[int]:
            picture = out_mm_kwargs["image"][index].get_data()
            columns, rows = picture["grid"].tolist()
            return [image] * count_placeholders(
                picture["global_view"].shape[0], picture["tiles"].shape[1], (columns, rows)
            )

        return [PromptReplacement(modality="image", target=[image], replacement=placeholders)]


def _as_tensor(pixels: np.ndarray) -> torch.Tensor:
    # PyTorch warns of arrays it may not write to; Pillow hands out such.
    return torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy())
