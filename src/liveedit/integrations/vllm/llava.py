"""LLaVA for vLLM with the vision tower of the embedded model, EfficientNet-Lite, or vLLM's own.

vLLM knows LLaVAs whose tower is CLIP's, SigLIP's or Pixtral's. This class takes their place for the
architecture "LlavaForConditionalGeneration", and leaves other checkpoints to them.
"""

from typing import Any

from torch import Tensor, nn
from vllm.model_executor.models import llava
from vllm.model_executor.models.utils import init_vllm_registered_model, maybe_prefix
from vllm.model_executor.models.vision import VisionEncoderInfo
from vllm.multimodal import MULTIMODAL_REGISTRY

from liveedit.models.families.efficientnet_lite import EfficientNetLite, EfficientNetLiteConfig

__all__ = ["Llava"]


class EncoderInfo(VisionEncoderInfo[EfficientNetLiteConfig]):  # type: ignore[misc]
    """Sizes of the tower."""

    def get_num_image_tokens(self, *, image_width: int, image_height: int) -> int:  # noqa: ARG002
        """The tokens of an image, which is scaled to the tower's size."""
        return self.get_patch_grid_length() ** 2

    def get_image_size(self) -> int:
        """Pixels along a side."""
        size: int = self.vision_config.image_size
        return size

    def get_patch_size(self) -> int:
        """Pixels along a token's side."""
        size: int = self.vision_config.patch_size
        return size

    def get_patch_grid_length(self) -> int:
        """Tokens along a side."""
        return self.get_image_size() // self.get_patch_size()


class Info(llava.LlavaProcessingInfo):  # type: ignore[misc]
    """Facts that vLLM's processor asks about the model."""

    def get_vision_encoder_info(self) -> VisionEncoderInfo[Any]:
        """Sizes of the tower."""
        return EncoderInfo(self.get_hf_config())


def info(context: Any) -> Any:
    """The information about a checkpoint."""
    own = isinstance(context.get_hf_config().vision_config, EfficientNetLiteConfig)
    return Info(context) if own else llava._build_llava_or_pixtral_hf_info(context)


@MULTIMODAL_REGISTRY.register_processor(
    llava._build_llava_or_pixtral_hf_processor,
    info=info,
    dummy_inputs=llava.LlavaDummyInputsBuilder,
)
class Llava(llava.LlavaForConditionalGeneration):  # type: ignore[misc]
    """See the module."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        config = vllm_config.model_config.hf_config
        if not isinstance(config.vision_config, EfficientNetLiteConfig):
            super().__init__(vllm_config=vllm_config, prefix=prefix)
            return
        nn.Module.__init__(self)
        self.config = config
        self.multimodal_config = vllm_config.model_config.multimodal_config
        self.configure_mm_token_handling(
            vocab_size=config.text_config.vocab_size, mm_token_ids=[config.image_token_index]
        )
        with self._mark_tower_model(vllm_config, "image"):
            self.vision_tower = EfficientNetLite(config.vision_config)
            self.multi_modal_projector = llava.LlavaMultiModalProjector(
                vision_hidden_size=config.vision_config.hidden_size,
                text_hidden_size=config.text_config.hidden_size,
                projector_hidden_act=config.projector_hidden_act,
                multimodal_projector_bias=config.multimodal_projector_bias,
                quant_config=vllm_config.quant_config,
                prefix=maybe_prefix(prefix, "multi_modal_projector"),
            )
        with self._mark_language_model(vllm_config):
            self.language_model = init_vllm_registered_model(
                vllm_config=vllm_config,
                hf_config=config.text_config,
                prefix=maybe_prefix(prefix, "language_model"),
            )
        self.make_empty_intermediate_tensors = self.language_model.make_empty_intermediate_tensors

    def _image_pixels_to_features(self, vision_tower: Any, pixel_values: Tensor) -> Any:
        """The tower's tokens of images."""
        if not isinstance(vision_tower, EfficientNetLite):
            return super()._image_pixels_to_features(vision_tower, pixel_values)
        return vision_tower(pixel_values).last_hidden_state
