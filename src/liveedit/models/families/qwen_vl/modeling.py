"""Qwen-VL as a Hugging Face model, on the classes of Qwen2.

Bai et al., "Qwen-VL: A Versatile Vision-Language Model for Understanding, Localization, Text
Reading, and Beyond" (2023, arXiv 2308.12966). Its parts:

- the vision tower: a ViT-bigG on images of 448 × 448 pixels, whose position embeddings are
  interpolated to that size;
- the resampler: one cross-attention from 256 learnt queries, which become 256 image tokens;
- the text decoder: Qwen-7B. Its layers are Qwen2's, except beyond the length that it was pretrained
  on, where queries are scaled by log n and the rotary base grows with the text ("dynamic NTK").

Submodules have LLaVA's names, so that code which looks for a connector or a layer finds it.

Departures from the authors' code (``modeling_qwen.py`` and ``visual.py`` of Qwen/Qwen-VL):

- Images are given as ``pixel_values`` and image tokens, not as file names hidden in token ids.
- A row's positions, and its length for dynamic NTK, are counted without padding, so that a row
  gives the same logits alone and in a batch; the authors count those of the padded batch.
- Both extensions beyond the pretrained length also act in training mode, where the authors' do not.

Shapes: B rows, T tokens, D width of the text decoder, d width of one of its heads, N images, P
patches of an image, Q queries of the resampler, W width of the vision tower.

Importing this module registers the model with the Auto classes.
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
    """Shape of the vision tower; ``num_positions`` (a square) position embeddings were learnt."""

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
    """Shape of the text decoder; ``seq_length`` is the length that it was pretrained on."""

    model_type = "qwen_vl_text"
    base_config_key = "text_config"

    intermediate_size: int = 11008
    max_position_embeddings: int = 8192
    seq_length: int = 2048
    use_dynamic_ntk: bool = True
    use_logn_attn: bool = True


class QwenVLConfig(Composite):
    """Shape of the model: tower, decoder, and the resampler with ``image_seq_length`` queries.

    The number of queries is a square.
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
    """Multi-head attention without a mask."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.head_dim = width // heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Return the output (N, Q, W) for queries (N, Q, W), keys and values (N, P, W)."""
        q = by_head(self.q_proj(queries), self.head_dim)
        k = by_head(self.k_proj(keys), self.head_dim)
        v = by_head(self.v_proj(values), self.head_dim)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        output: Tensor = self.out_proj(mixed)
        return output


def by_head(states: Tensor, head_dim: int) -> Tensor:
    """Split states (B, T, heads · d) into heads: (B, heads, T, d)."""
    return states.view(*states.shape[:-1], -1, head_dim).transpose(1, 2)


class VisionLayer(nn.Module):
    """Pre-norm transformer layer with an exact GELU."""

    def __init__(self, config: QwenVLVisionConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=1e-6)
        self.self_attn = VisionAttention(config.hidden_size, config.num_attention_heads)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=1e-6)
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, states: Tensor) -> Tensor:
        """Return the states (N, P, W) after the layer."""
        normed = self.layer_norm1(states)
        states = states + self.self_attn(normed, normed, normed)
        feed_forward: Tensor = self.fc2(F.gelu(self.fc1(self.layer_norm2(states))))
        return states + feed_forward


class VisionTower(nn.Module):
    """Vision transformer without a class token and without a final norm."""

    def __init__(self, config: QwenVLVisionConfig) -> None:
        super().__init__()
        width = config.hidden_size
        size = config.patch_size
        self.patch_embedding = nn.Conv2d(3, width, kernel_size=size, stride=size, bias=False)
        self.position_embedding = nn.Parameter(
            torch.randn(config.num_positions, width) * width**-0.5
        )
        self.pre_layernorm = nn.LayerNorm(width, eps=1e-6)
        self.layers = nn.Sequential(*(VisionLayer(config) for _ in range(config.num_hidden_layers)))

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Map pixels (N, 3, height, width) to states of patches (N, P, W)."""
        grid = self.patch_embedding(pixel_values.to(self.position_embedding.dtype))
        patches = grid.flatten(2).transpose(1, 2)
        positions = resized(self.position_embedding, patches.shape[1])
        states: Tensor = self.layers(self.pre_layernorm(patches + positions))
        return states


class Resampler(nn.Module):
    """Connector: learnt queries attend to all patches once; a norm and a matrix follow."""

    def __init__(self, config: QwenVLConfig) -> None:
        super().__init__()
        width = config.text_config.hidden_size
        queries = config.image_seq_length
        self.position_embedding = nn.Parameter(torch.zeros(queries, width))
        self.queries = nn.Parameter(torch.randn(queries, width) * 0.02)
        self.kv_proj = nn.Linear(config.vision_config.hidden_size, width, bias=False)
        self.norm_queries = nn.LayerNorm(width, eps=1e-6)
        self.norm_patches = nn.LayerNorm(width, eps=1e-6)
        self.attention = VisionAttention(width, config.resampler_heads)
        self.norm_out = nn.LayerNorm(width, eps=1e-6)
        self.proj = nn.Linear(width, width, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        """Map states of patches (N, P, W) to image tokens (N, Q, D)."""
        patches = self.norm_patches(self.kv_proj(states))
        queries = self.norm_queries(self.queries) + self.position_embedding
        queries = queries.expand(len(states), -1, -1)
        keys = patches + resized(self.position_embedding, states.shape[1])
        tokens: Tensor = self.proj(self.norm_out(self.attention(queries, keys, patches)))
        return tokens


def resized(positions: Tensor, count: int) -> Tensor:
    """Interpolate embeddings (n, W) of a square of positions to a square of ``count`` positions.

    The result is (``count``, W); bicubic, as in the authors' code.
    """
    old = round(len(positions) ** 0.5)
    new = round(count**0.5)
    if old == new:
        return positions
    grid = positions.float().T.reshape(1, -1, old, old)
    finer = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    return finer[0].flatten(1).T.to(positions.dtype)


class TextAttention(Qwen2Attention):  # type: ignore[misc]
    """Qwen2's attention with queries scaled by their position (log-n scaling)."""

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor, Tensor],
        attention_mask: Tensor | None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the output (B, T, D) and the attention weights, if the implementation has them.

        ``position_embeddings`` are cosine and sine of the rotary angles (B, 1, T, d), and the
        factor of the queries (B, 1, T, 1).
        """
        q = by_head(self.q_proj(hidden_states), self.head_dim)
        k = by_head(self.k_proj(hidden_states), self.head_dim)
        v = by_head(self.v_proj(hidden_states), self.head_dim)
        cos, sin, scale = position_embeddings
        q = rotated(q, cos, sin) * scale.to(q.dtype)
        k = rotated(k, cos, sin)
        if (cache := kwargs.pop(CACHE)) is not None:
            k, v = cache.update(k, v, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        mixed, weights = attend(self, q, k, v, attention_mask, scaling=self.scaling, **kwargs)
        return self.o_proj(mixed.flatten(2)), weights


def rotated(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate states (B, heads, T, d), in float32; ``cos`` and ``sin`` are (B, 1, T, d)."""
    full = states.float()
    result: Tensor = full * cos + rotate_half(full) * sin
    return result.to(states.dtype)


class TextLayer(Qwen2DecoderLayer):  # type: ignore[misc]
    """Qwen2's layer with :class:`TextAttention`."""

    def __init__(self, config: QwenVLTextConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.self_attn = TextAttention(config, layer_idx)


class QwenVLPreTrainedModel(PreTrainedModel):  # type: ignore[misc]
    """Base class of the model's parts: facts that transformers needs to load and run them."""

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
    """Text decoder: Qwen-7B."""

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
        """Return the states (B, T, D) after the last norm, for token ids or embeddings.

        With a static cache ``generate`` makes the masks of all types of attention itself, and gives
        the positions.
        """
        states = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        use_cache = self.config.use_cache if use_cache is None else use_cache
        cache = past_key_values if cache is None else cache
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
        if position_ids is None:
            B, T = states.shape[:2]
            if not isinstance(attention_mask, Tensor):
                past = 0 if cache is None else cache.get_seq_length()
                attention_mask = torch.ones(B, past + T, dtype=torch.long, device=states.device)
            position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -T:]
        mask = self.causal_mask(states, attention_mask, cache)
        rotary = self.rotary_embeddings(position_ids, cache)
        for layer in self.layers:
            states = layer(
                states,
                attention_mask=mask,
                position_embeddings=rotary,
                use_cache=use_cache,
                **{CACHE: cache},
                **kwargs,
            )
        return BaseModelOutputWithPast(
            last_hidden_state=self.norm(states), **{CACHE: cache if use_cache else None}
        )

    def causal_mask(
        self, states: Tensor, mask: Tensor | dict[str, Tensor] | None, cache: Cache | None
    ) -> Any:
        """Return the mask in the form of the attention implementation in use.

        ``mask`` is (B, past + T), or holds finished masks by type of attention.
        """
        if isinstance(mask, dict):
            return mask["full_attention"]
        return create_causal_mask(
            config=self.config, inputs_embeds=states, attention_mask=mask, **{CACHE: cache}
        )

    def rotary_embeddings(
        self, position_ids: Tensor, cache: Cache | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return cosine and sine (B, 1, T, d) of the rotary angles, and the queries' factor.

        The factor (B, 1, T, 1) is log n / log of the pretrained length, at least 1. The base of the
        angles is that of the row's length when its prompt was read; it is kept in the cache, beside
        the keys that were rotated with it.
        """
        config = self.config
        lengths = position_ids + 1
        alpha = self.base_factor(lengths, cache)
        d = config.hidden_size // config.num_attention_heads
        base = config.rope_parameters["rope_theta"] * alpha ** (d / (d - 2))
        frequencies = 1.0 / base ** (torch.arange(0, d, 2, device=lengths.device) / d)
        angles = (position_ids[..., None] * frequencies[:, None]).repeat(1, 1, 2)[:, None]
        growth = lengths.float().log() / math.log(config.seq_length)
        scale = growth.clamp(min=1.0) if config.use_logn_attn else torch.ones_like(growth)
        return angles.cos(), angles.sin(), scale[:, None, :, None]

    def base_factor(self, lengths: Tensor, cache: Cache | None) -> Tensor:
        """Return α of dynamic NTK for each row (B, 1), from the cache if it holds a prompt."""
        if cache is not None and cache.get_seq_length():
            kept: Tensor = cache.ntk_alpha
            return kept
        times = lengths.amax(-1, keepdim=True) / self.config.seq_length
        alpha = ntk_alpha(times) if self.config.use_dynamic_ntk else torch.ones_like(times)
        if cache is not None:
            cache.ntk_alpha = alpha
        return alpha


def ntk_alpha(times: Tensor) -> Tensor:
    """Return α of dynamic NTK for texts ``times`` as long as those of pretraining.

    It is 1 up to 1, 3 up to 2, 7 up to 4, and so on.
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
        """Return the decoder's states (B, T, D), with the images in place of the image tokens.

        ``pixel_values`` are (N, 3, height, width), in the order of rows and of tokens in a row.
        """
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        if pixel_values is not None:
            images = self.multi_modal_projector(self.vision_tower(pixel_values)).to(inputs_embeds)
            marks = input_ids == self.config.image_token_id
            inputs_embeds = with_images(inputs_embeds, marks, images)
        output: BaseModelOutputWithPast = self.language_model(inputs_embeds=inputs_embeds, **kwargs)
        return output


def with_images(embedded: Tensor, marks: Tensor, images: Tensor) -> Tensor:
    """Return embeddings (B, T, D) with ``images`` (N, Q, D) at the tokens marked in (B, T).

    Raises :class:`ValueError` unless N · Q tokens are marked.
    """
    count = int(marks.sum())
    if count != images.shape[:2].numel():
        raise ValueError(
            f"{count} image tokens for {len(images)} images: each takes {images.shape[1]}"
        )
    return embedded.masked_scatter(marks[..., None].to(embedded.device), images)


class QwenVLForConditionalGeneration(QwenVLPreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """Qwen-VL or Qwen-VL-Chat with its output embedding."""

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
        """Return the logits (B, T, V), and the loss of ``labels`` (B, T) if they are given.

        ``logits_to_keep`` limits the logits to that many last tokens.
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
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, self.config.text_config.vocab_size)
        return CausalLMOutputWithPast(loss=loss, logits=logits, **{CACHE: getattr(output, CACHE)})


AutoConfig.register("qwen_vl", QwenVLConfig)
AutoModelForImageTextToText.register(QwenVLConfig, QwenVLForConditionalGeneration)
