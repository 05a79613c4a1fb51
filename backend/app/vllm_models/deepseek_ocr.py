"""The model class vLLM runs: DeepEncoder for the pictures, vLLM's own DeepSeek mixture of experts for the text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from app.vllm_compat import (
    MULTIMODAL_REGISTRY,
    IntermediateTensors,
    PictureModelBase,
    VllmConfig,
    language_model,
    language_part,
    maybe_prefix,
    processor_defaults,
    vision_part,
)
from app.vllm_models import IMAGE_TOKEN
from app.vllm_models.checkpoint import (
    CheckpointError,
    Shape,
    describe_faults,
    encoder_shapes,
    is_encoder_name,
    is_ignored,
    language_shapes,
)
from app.vllm_models.deepencoder import DeepEncoder, Encode, EncoderConfig
from app.vllm_models.encoder_passes import EncoderPasses, encoder_sides
from app.vllm_models.processing import PictureDummies, PictureInfo, PictureProcessor
from app.vllm_models.signals import hear_again
from app.vllm_models.views import parse_options


@MULTIMODAL_REGISTRY.register_processor(PictureProcessor, info=PictureInfo, dummy_inputs=PictureDummies)
class DeepseekOCRForCausalLM(PictureModelBase):
    """DeepSeek-OCR with its view options chosen per request."""

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        return IMAGE_TOKEN if modality.startswith("image") else None

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        self.vllm_config = vllm_config
        self.config = vllm_config.model_config.hf_config
        with vision_part(self, vllm_config):
            self.encoder = DeepEncoder(EncoderConfig.from_hf(self.config))
        with language_part(self, vllm_config):
            self.language_model = language_model(
                vllm_config, self.config.text_config, maybe_prefix(prefix, "language_model")
            )
        # Made by the first pictures, which vLLM brings to measure its memory.
        self._encode: Encode | None = None
        self.make_empty_intermediate_tensors = self.language_model.make_empty_intermediate_tensors

    @classmethod
    def get_model_state_cls(cls) -> type[Any]:
        """Return what vLLM's model runner V2, which alone asks, keeps for this model."""
        from app.vllm_models.model_state import PictureState

        return PictureState

    def get_language_model(self) -> nn.Module:
        return self.language_model

    def embed_multimodal(self, **kwargs: Any) -> list[Tensor]:
        """Encode the pictures of one step, in order; each result is (placeholders, width).

        `global_view`, `tiles` and `grid` hold an entry per picture, stacked where all have one shape:
        uint8 (base, base, 3), uint8 (tiles, side, side, 3) and (columns, rows).
        """
        if "global_view" not in kwargs:
            return []
        grids = [(columns, rows) for columns, rows in (grid.tolist() for grid in kwargs["grid"])]
        if self._encode is None:
            self._encode = self._prepare_encoder()
        pictures = self.encoder.embed_pictures(list(kwargs["global_view"]), list(kwargs["tiles"]), grids, self._encode)
        hear_again()  # a convolution of a new shape may have been compiled
        return pictures

    @property
    def encoder_ready(self) -> bool:
        """Whether the encoder has been compiled and captured, as far as it ever will be."""
        return self._encode is not None

    def _prepare_encoder(self) -> Encode:
        """Return the encoder, made faster for views of the engine's own options where vLLM compiles and captures too."""
        model = self.vllm_config.model_config
        options = parse_options(processor_defaults(model))
        if model.enforce_eager or not self.encoder.image_newline.is_cuda:
            return self.encoder.forward
        return EncoderPasses(self.encoder, encoder_sides(options))

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor | IntermediateTensors:
        if intermediate_tensors is not None:
            inputs_embeds = None
        return self.language_model(input_ids, positions, intermediate_tensors, inputs_embeds)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Load the published checkpoint and return the names of the parameters filled.

        Raises CheckpointError that lists what is missing, unexpected or of another shape.
        """
        loading = _Loading(self)
        loaded = {f"language_model.{name}" for name in self.language_model.load_weights(loading.sort(weights))}
        loading.finish()
        return loaded | loading.filled


class _Loading:
    """One pass over a checkpoint: fills the encoder, hands the rest on, and keeps the books."""

    def __init__(self, model: DeepseekOCRForCausalLM) -> None:
        config = model.vllm_config
        self.encoder = dict(model.encoder.named_parameters())
        self.filled: set[str] = set()
        self.expected: dict[str, Shape] = encoder_shapes(model.config) | language_shapes(model.config.text_config)
        self.seen: set[str] = set()
        self.unexpected: list[str] = []
        self.misshapen: list[str] = []
        # Quantized checkpoints bring names and shapes of their own; those vLLM checks.
        self.quantized = config.quant_config is not None
        # With expert parallelism vLLM reads only this rank's experts.
        self.partial_experts = config.parallel_config.enable_expert_parallel

    def sort(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """Fill the encoder's parameters and yield those of the language model."""
        for name, tensor in weights:
            if is_ignored(name):
                continue
            if not is_encoder_name(name) and self.quantized:
                yield name, tensor
            elif name not in self.expected:
                self.unexpected.append(name)
            elif tuple(tensor.shape) != self.expected[name]:
                self.misshapen.append(f"{name} {tuple(tensor.shape)} instead of {self.expected[name]}")
            elif is_encoder_name(name):
                self._fill(name, tensor)
            else:
                self.seen.add(name)
                yield name, tensor

    def _fill(self, name: str, tensor: Tensor) -> None:
        self.seen.add(name)
        inner = name.removeprefix("model.")
        if inner in self.encoder:  # not where vLLM left the encoder out
            with torch.no_grad():
                self.encoder[inner].copy_(tensor)
            self.filled.add(f"encoder.{inner}")

    def finish(self) -> None:
        """Raise CheckpointError unless every expected parameter came, once, in its shape."""
        wrong_shape = {fault.split(" ", 1)[0] for fault in self.misshapen}
        missing = [name for name in self.expected if name not in self.seen and name not in wrong_shape]
        if self.quantized:
            missing = [name for name in missing if is_encoder_name(name)]
        if self.partial_experts:
            missing = [name for name in missing if ".mlp.experts." not in name]
        if faults := describe_faults(missing, self.unexpected, self.misshapen):
            raise CheckpointError(f"This is not a complete DeepSeek-OCR checkpoint. {faults}")
