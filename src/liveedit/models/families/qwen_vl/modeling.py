"""Qwen-VL (Bai et al., 2023), which transformers does not have, from parts that it has.

An image of 448 pixels square goes through a ViT-bigG whose patch positions are interpolated; one
cross-attention with 256 learnt queries (the resampler) makes it 256 image tokens. The text decoder
is Qwen-7B: Qwen2's layers, but for positions beyond the length that it was pretrained on, where
queries grow with log n and the rotary base with the text ("dynamic NTK"). Submodules have the names
that LLaVA's have, so what looks for a projector or a layer finds it.

Departures from the authors' code (``modeling_qwen.py``, ``visual.py`` of Qwen/Qwen-VL):

- Images come as ``pixel_values`` and image tokens, not as file names hidden in token ids.
- A row's positions and its length for dynamic NTK are counted without padding, so a row reads the same alone and in a
  batch; theirs are those of the padded batch.
- Both extensions beyond the pretrained length also hold in training mode, where theirs leave them out.

Shapes: B rows, T tokens, D width of the text decoder, N images, P patches an image, W width of the
vision tower.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    Cache,
    DynamicCache,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
)
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.qwen2.modeling_qwen2 import (
    Qwen2Attention,
    Qwen2DecoderLayer,
    Qwen2RMSNorm,
    eager_attention_forward,
    rotate_half,
)

from liveedit.models.calls import CACHE
from liveedit.models.families.configuration import Composite

__all__ = ["QwenVLConfig", "QwenVLForConditionalGeneration"]


class QwenVLVisionConfig(PreTrainedConfig):  # type: ignore[misc]
    """The vision tower; ``num_positions`` is how many patch positions were learnt, a square."""

    model_type = "qwen_vl_vision"
    base_config_key = "vision_config"

    hidden_size: int = 1664
    intermediate_size: int = 8192
    num_hidden_layers: int = 48
    num_attention_heads: int = 16
    image_size: int = 448
    patch_size: int = 14
    num_positions: int = 256


class QwenVLTextConfig(Qwen2Config):  # type: ignore[misc]
    """The text decoder; ``seq_length`` is the length that it was pretrained on."""

    model_type = "qwen_vl_text"
    base_config_key = "text_config"

    intermediate_size: int = 11008
    max_position_embeddings: int = 8192
    seq_length: int = 2048
    use_dynamic_ntk: bool = True
    use_logn_attn: bool = True


class QwenVLConfig(Composite):
    """Both, and the resampler between them: its queries (``image_seq_length``, a square) and its
    heads.
    """

    model_type = "qwen_vl"
    sub_configs = {"vision_config": QwenVLVisionConfig, "text_config": QwenVLTextConfig}  # noqa: RUF012

    vision_config: Any = None
    text_config: Any = None
    image_token_id: int = 151859
    image_seq_length: int = 256
    resampler_heads: int = 32
    tie_word_embeddings: bool = False


class VisionAttention(nn.Module):
    """Plain attention over all keys."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (
            nn.Linear(width, width) for _ in range(4)
        )

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """What the queries (N, Q, W) gather from the values (N, P, W) by the keys (N, P, W), (N, Q,
        W).
        """
        split = ((self.q_proj, queries), (self.k_proj, keys), (self.v_proj, values))
        q, k, v = (
            proj(states).unflatten(-1, (self.heads, -1)).transpose(1, 2) for proj, states in split
        )
        mixed: Tensor = self.out_proj(
            F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        )
        return mixed


class VisionLayer(nn.Module):
    """A pre-norm transformer layer with an exact GELU."""

    def __init__(self, config: QwenVLVisionConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=1e-6)
        self.self_attn = VisionAttention(config.hidden_size, config.num_attention_heads)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=1e-6)
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, states: Tensor) -> Tensor:
        """The states (N, P, W) after the layer."""
        normed = self.layer_norm1(states)
        states = states + self.self_attn(normed, normed, normed)
        mixed: Tensor = states + self.fc2(F.gelu(self.fc1(self.layer_norm2(states))))
        return mixed


class VisionTower(nn.Module):
    """ViT without class token and without a norm at its end."""

    def __init__(self, config: QwenVLVisionConfig) -> None:
        super().__init__()
        width, size = config.hidden_size, config.patch_size
        self.patch_embedding = nn.Conv2d(3, width, kernel_size=size, stride=size, bias=False)
        self.position_embedding = nn.Parameter(
            torch.randn(config.num_positions, width) * width**-0.5
        )
        self.pre_layernorm = nn.LayerNorm(width, eps=1e-6)
        self.layers = nn.Sequential(*(VisionLayer(config) for _ in range(config.num_hidden_layers)))

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Pixels (N, 3, H, W) to states (N, P, W)."""
        patches = (
            self.patch_embedding(pixel_values.to(self.position_embedding.dtype))
            .flatten(2)
            .transpose(1, 2)
        )
        positions = resized(self.position_embedding, patches.shape[1])
        states: Tensor = self.layers(self.pre_layernorm(patches + positions))
        return states


class Resampler(nn.Module):
    """Learnt queries that read all patches once, then a norm and a matrix."""

    def __init__(self, config: QwenVLConfig) -> None:
        super().__init__()
        width, queries = config.text_config.hidden_size, config.image_seq_length
        self.position_embedding = nn.Parameter(torch.zeros(queries, width))
        self.queries = nn.Parameter(torch.randn(queries, width) * 0.02)
        self.kv_proj = nn.Linear(config.vision_config.hidden_size, width, bias=False)
        self.norm_queries = nn.LayerNorm(width, eps=1e-6)
        self.norm_patches = nn.LayerNorm(width, eps=1e-6)
        self.attention = VisionAttention(width, config.resampler_heads)
        self.norm_out = nn.LayerNorm(width, eps=1e-6)
        self.proj = nn.Linear(width, width, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        """States of patches (N, P, W) to image tokens (N, ``image_seq_length``, D)."""
        patches = self.norm_patches(self.kv_proj(states))
        queries = (self.norm_queries(self.queries) + self.position_embedding).expand(
            len(states), -1, -1
        )
        keys = patches + resized(self.position_embedding, states.shape[1])
        tokens: Tensor = self.proj(self.norm_out(self.attention(queries, keys, patches)))
        return tokens


def resized(positions: Tensor, count: int) -> Tensor:
    """Embeddings (n, W) of a square grid of positions interpolated to one of ``count``, (``count``,
    W).
    """
    old, new = round(len(positions) ** 0.5), round(count**0.5)
    if old == new:
        return positions
    grid = positions.float().T.reshape(1, -1, old, old)
    finer = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    return finer[0].flatten(1).T.to(positions.dtype)


class TextAttention(Qwen2Attention):  # type: ignore[misc]
    """Qwen2's attention, its queries scaled by their position."""

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor, Tensor],
        attention_mask: Tensor | None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """The states (B, T, D) after attention, and its weights where the attention in use has
        them.
        """
        projections = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (
            proj(hidden_states).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for proj in projections
        )
        cos, sin, scale = position_embeddings
        q, k = rotated(q, cos, sin) * scale.to(q.dtype), rotated(k, cos, sin)
        if (cache := kwargs.pop(CACHE)) is not None:
            k, v = cache.update(k, v, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        mixed, weights = attend(self, q, k, v, attention_mask, scaling=self.scaling, **kwargs)
        return self.o_proj(mixed.flatten(2)), weights


def rotated(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The states (B, heads, T, d) rotated in float32 by angles (B, 1, T, d)."""
    full = states.float()
    turned: Tensor = full * cos + rotate_half(full) * sin
    return turned.to(states.dtype)


class TextLayer(Qwen2DecoderLayer):  # type: ignore[misc]
    """Qwen2's layer with that attention."""

    def __init__(self, config: QwenVLTextConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.self_attn = TextAttention(config, layer_idx)


class QwenVLPreTrainedModel(PreTrainedModel):  # type: ignore[misc]
    """What all parts need to be loaded and run by transformers."""

    config_class = QwenVLConfig
    base_model_prefix = "model"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ["TextLayer", "VisionTower", "Resampler"]  # noqa: RUF012
    _skip_keys_device_placement = [CACHE]  # noqa: RUF012
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True


class TextModel(QwenVLPreTrainedModel):
    """The text decoder."""

    config_class = QwenVLTextConfig

    def __init__(self, config: QwenVLTextConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            TextLayer(config, index) for index in range(config.num_hidden_layers)
        )
        self.norm = Qwen2RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | dict[str, Tensor] | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """The states (B, T, D) after the last norm, from token ids or embeddings.

        Beside a static cache ``generate`` makes the masks of all kinds of attention itself, and
        says the positions.
        """
        states = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        use_cache = self.config.use_cache if use_cache is None else use_cache
        cache = past_key_values if cache is None else cache
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
        if position_ids is None:
            B, T = states.shape[:2]
            if not isinstance(attention_mask, Tensor):
                seen = 0 if cache is None else cache.get_seq_length()
                attention_mask = torch.ones(B, seen + T, dtype=torch.long, device=states.device)
            position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -T:]
        mask = self.causal(states, attention_mask, cache)
        turns = self.turns(position_ids, cache)
        for layer in self.layers:
            states = layer(
                states,
                attention_mask=mask,
                position_embeddings=turns,
                use_cache=use_cache,
                **{CACHE: cache},
                **kwargs,
            )
        return BaseModelOutputWithPast(
            last_hidden_state=self.norm(states), **{CACHE: cache if use_cache else None}
        )

    def causal(
        self, states: Tensor, mask: Tensor | dict[str, Tensor] | None, cache: Cache | None
    ) -> Any:
        """What the attention in use takes as the mask: of ``mask`` (B, T') for all tokens, or of
        those made already.
        """
        if isinstance(mask, dict):
            return mask["full_attention"]
        return create_causal_mask(
            config=self.config, inputs_embeds=states, attention_mask=mask, **{CACHE: cache}
        )

    def turns(self, position_ids: Tensor, cache: Cache | None) -> tuple[Tensor, Tensor, Tensor]:
        """Cosine and sine (B, 1, T, d) of the rotary angles and the factor (B, 1, T, 1) of the
        queries.

        The base of the angles is that of the row's length when its first tokens ran. It is kept in
        the cache, beside the keys that were turned by it.
        """
        config, n = self.config, position_ids + 1
        if cache is not None and cache.get_seq_length():
            alpha = cache.ntk_alpha
        else:
            times = n.amax(-1, keepdim=True) / config.seq_length
            alpha = ntk(times) if config.use_dynamic_ntk else torch.ones_like(times)
            if cache is not None:
                cache.ntk_alpha = alpha
        d = config.hidden_size // config.num_attention_heads
        base = config.rope_parameters["rope_theta"] * alpha ** (d / (d - 2))
        frequencies = 1.0 / base ** (torch.arange(0, d, 2, device=n.device) / d)
        angles = (position_ids[..., None] * frequencies[:, None]).repeat(1, 1, 2)[:, None]
        grown = n.float().log() / math.log(config.seq_length)
        scale = grown.clamp(min=1.0) if config.use_logn_attn else torch.ones_like(grown)
        return angles.cos(), angles.sin(), scale[:, None, :, None]


def ntk(times: Tensor) -> Tensor:
    """α of dynamic NTK for a text ``times`` as long as those of pretraining: 1 up to 1, 3 up to 2,
    7 up to 4.
    """
    return (2 ** torch.ceil(times.log2() + 1) - 1).clamp(min=1.0)


class QwenVLModel(QwenVLPreTrainedModel):
    """Vision tower, resampler and text decoder."""

    def __init__(self, config: QwenVLConfig) -> None:
        super().__init__(config)
        self.vision_tower = VisionTower(config.vision_config)
        self.multi_modal_projector = Resampler(config)
        self.language_model = TextModel(config.text_config)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """The states (B, T, D), images (N, 3, H, W) in place of the image tokens, in the order of
        rows and tokens.
        """
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        if pixel_values is not None:
            images = self.multi_modal_projector(self.vision_tower(pixel_values)).to(inputs_embeds)
            marks = input_ids == self.config.image_token_id
            if int(marks.sum()) != images.shape[:2].numel():
                raise ValueError(
                    f"{int(marks.sum())} image tokens for {len(images)} images: each takes {images.shape[1]}"
                )
            inputs_embeds = inputs_embeds.masked_scatter(
                marks[..., None].to(inputs_embeds.device), images
            )
        output: BaseModelOutputWithPast = self.language_model(inputs_embeds=inputs_embeds, **kwargs)
        return output


class QwenVLForConditionalGeneration(QwenVLPreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """Qwen-VL and Qwen-VL-Chat."""

    def __init__(self, config: QwenVLConfig) -> None:
        super().__init__(config)
        self.model = QwenVLModel(config)
        self.lm_head = nn.Linear(
            config.text_config.hidden_size, config.text_config.vocab_size, bias=False
        )
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """The logits (B, T, V), of the last ``logits_to_keep`` tokens if given, and the loss of
        ``labels`` (B, T).
        """
        output = self.model(
            input_ids,
            pixel_values,
            inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=use_cache,
            **{CACHE: past_key_values if cache is None else cache},
            **kwargs,
        )
        logits = self.lm_head(output.last_hidden_state[:, -logits_to_keep:])
        loss = (
            None
            if labels is None
            else self.loss_function(logits, labels, self.config.text_config.vocab_size)
        )
        return CausalLMOutputWithPast(loss=loss, logits=logits, **{CACHE: getattr(output, CACHE)})


AutoConfig.register("qwen_vl", QwenVLConfig)
AutoModelForImageTextToText.register(QwenVLConfig, QwenVLForConditionalGeneration)
