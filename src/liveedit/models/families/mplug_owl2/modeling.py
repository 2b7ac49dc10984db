"""mPLUG-Owl2 as a Hugging Face model, on LLaVA's, CLIP's and Llama's classes.

Ye et al., "mPLUG-Owl2: Revolutionizing Multi-modal Large Language Model with Modality
Collaboration" (CVPR 2024, arXiv 2311.04257). CLIP's vision transformer, its last layer norm on
every token; a visual abstractor, whose 64 queries gather what it saw, and one more vector for the
end of the image; a Llama in which every layer has a second set of layer norms, key and value
projections, for image tokens (the modality-adaptive module).

Which tokens are the image's is handed down with the positions: ``position_ids`` of the text decoder
are (2, B, T), the place of each token and 1 for one of an image. So whoever goes on from a layer's
hidden states and positions needs no more. The image token is one past the vocabulary, so that the
weights and the logits are those of the checkpoint.

Importing this module registers the model with the Auto classes.
"""

from copy import deepcopy
from functools import wraps
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaModel,
    LlavaForConditionalGeneration,
    LlavaModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaDecoderLayer,
    apply_rotary_pos_emb,
    eager_attention_forward,
)

from liveedit.models.calls import CACHE, arguments
from liveedit.models.families.configuration import Composite
from liveedit.models.greedy import LOOKUP, check_options

__all__ = ["MPlugOwl2Config", "MPlugOwl2ForConditionalGeneration"]


@strict
class MPlugOwl2Config(Composite):
    """Shape of the model. An image takes ``num_query_tokens`` + 1 tokens; the abstractor is as wide
    as the tower.

    Raises :class:`ValueError` for the configuration of the authors' own checkpoint.
    """

    model_type = "mplug_owl2"
    sub_configs = {"vision_config": CLIPVisionConfig, "text_config": LlamaConfig}  # noqa: RUF012

    vision_config: Any = None
    text_config: Any = None
    image_token_id: int = 32000
    num_query_tokens: int = 64
    abstractor_layers: int = 6
    abstractor_heads: int = 16
    abstractor_intermediate_size: int = 2816
    abstractor_layer_norm_eps: float = 1e-6
    tie_word_embeddings: bool = False


class ByModality(nn.Module):
    """A module for text tokens and one of the same shape for image tokens."""

    def __init__(self, text: nn.Module) -> None:
        super().__init__()
        self.text, self.image = text, deepcopy(text)

    def forward(self, x: Tensor, image: Tensor | None) -> Tensor:
        """``x`` (B, T, D) to (B, T, D'); ``image``, boolean (B, T), marks the image tokens,
        ``None`` if there are none.

        Each module runs on its own tokens alone.
        """
        text: Tensor = self.text(x if image is None else x[~image])
        if image is None:
            return text
        y = text.new_empty(*image.shape, text.shape[-1])
        y[~image], y[image] = text, self.image(x[image])
        return y


def double(module: nn.Module, *names: str) -> None:
    """Give parts of ``module`` a second set of weights for image tokens."""
    for name in names:
        setattr(module, name, ByModality(getattr(module, name)))


class AdaptiveAttention(LlamaAttention):  # type: ignore[misc]
    """Llama's attention with keys and values by modality; the queries are of one kind."""

    def __init__(self, config: LlamaConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        double(self, "k_proj", "v_proj")

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        image: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """See :class:`LlamaAttention`; ``image`` as in :class:`ByModality`."""
        projected = (
            self.q_proj(hidden_states),
            self.k_proj(hidden_states, image),
            self.v_proj(hidden_states, image),
        )
        q, k, v = (x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for x in projected)
        q, k = apply_rotary_pos_emb(q, k, *position_embeddings)
        if (cache := kwargs.pop(CACHE)) is not None:
            k, v = cache.update(k, v, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        dropout = self.attention_dropout if self.training else 0.0
        seen, weights = attend(
            self, q, k, v, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs
        )
        return self.o_proj(seen.flatten(2)), weights


class AdaptiveLayer(LlamaDecoderLayer):  # type: ignore[misc]
    """Llama's layer with layer norms by modality; the feed-forward network is one for both."""

    def __init__(self, config: LlamaConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.self_attn = AdaptiveAttention(config, layer_idx)
        double(self, "input_layernorm", "post_attention_layernorm")

    def forward(self, hidden_states: Tensor, image: Tensor | None = None, **kwargs: Any) -> Tensor:
        """See :class:`LlamaDecoderLayer`; ``image`` as in :class:`ByModality`."""
        seen, _ = self.self_attn(self.input_layernorm(hidden_states, image), image=image, **kwargs)
        hidden_states = hidden_states + seen
        thought: Tensor = self.mlp(self.post_attention_layernorm(hidden_states, image))
        return hidden_states + thought


class TextEmbedding(nn.Embedding):
    """An embedding that takes the image token, which has no row, too: what it is there does not
    matter.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Token ids (B, T) to vectors (B, T, D)."""
        return super().forward(input.masked_fill(input >= self.num_embeddings, 0))


class AdaptiveLlama(LlamaModel):  # type: ignore[misc]
    """Llama with modality-adaptive layers."""

    _no_split_modules = ["AdaptiveLayer"]  # noqa: RUF012

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.embed_tokens = TextEmbedding(
            config.vocab_size, config.hidden_size, config.pad_token_id
        )
        for index in range(len(self.layers)):
            self.layers[index] = AdaptiveLayer(config, index)
        self.post_init()

    def forward(self, *args: Any, position_ids: Tensor | None = None, **kwargs: Any) -> Any:
        """See :class:`LlamaModel`; ``position_ids`` (2, B, T) also say which tokens are images,
        else none is.
        """
        image = None
        if position_ids is not None and position_ids.ndim == 3:
            position_ids, image = position_ids[0], position_ids[1].bool()
        image = image if image is not None and bool(image.any()) else None
        return super().forward(*args, position_ids=position_ids, image=image, **kwargs)


class AbstractorLayer(nn.Module):
    """The queries look at themselves and at the tokens of the tower, then go through a gated
    network.
    """

    def __init__(self, config: MPlugOwl2Config) -> None:
        super().__init__()
        width, inner = config.vision_config.hidden_size, config.abstractor_intermediate_size
        self.heads = config.abstractor_heads
        self.query_norm, self.image_norm, self.mlp_norm = (nn.LayerNorm(width) for _ in range(3))
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (
            nn.Linear(width, width) for _ in range(4)
        )
        self.gate_proj, self.up_proj, self.down_proj = (
            nn.Linear(width, inner),
            nn.Linear(width, inner),
            nn.Linear(inner, width),
        )
        self.inner_norm = nn.LayerNorm(inner, eps=config.abstractor_layer_norm_eps)

    def forward(self, queries: Tensor, tokens: Tensor, places: Tensor) -> Tensor:
        """``queries`` (B, q, D) after looking at ``tokens`` (B, n, D); ``places`` (q + n, D) are
        added to both.
        """
        queries = self.query_norm(queries)  # also what is added to below, as in the authors' code
        both = torch.cat([queries, self.image_norm(tokens)], 1)
        projected = (
            self.q_proj(queries + places[: queries.shape[1]]),
            self.k_proj(both + places),
            self.v_proj(both),
        )
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in projected)
        queries = queries + self.out_proj(
            F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        )
        x = self.mlp_norm(queries)
        thought: Tensor = self.down_proj(
            self.inner_norm(F.silu(self.gate_proj(x)) * self.up_proj(x))
        )
        return queries + thought


class VisualAbstractor(nn.Module):
    """A fixed number of image tokens from what the vision tower saw."""

    def __init__(self, config: MPlugOwl2Config) -> None:
        super().__init__()
        width, out = config.vision_config.hidden_size, config.text_config.hidden_size
        self.queries = nn.Parameter(0.02 * torch.randn(config.num_query_tokens, width))
        self.layers = nn.ModuleList(
            AbstractorLayer(config) for _ in range(config.abstractor_layers)
        )
        self.linear = nn.Linear(width, out)
        self.end = nn.Parameter(0.02 * torch.randn(1, out))

    def forward(self, tokens: Tensor) -> Tensor:
        """Image tokens (B, q + 1, D) from those of the tower (B, 1 + side², D'), its class token
        first.
        """
        places = sinusoids(self.queries, tokens.shape[1] - 1)
        queries = self.queries.expand(len(tokens), -1, -1)
        for layer in self.layers:
            queries = layer(queries, tokens, places)
        end = self.end.expand(len(tokens), 1, -1)
        return torch.cat([self.linear(queries), end], 1)


def sinusoids(queries: Tensor, patches: int) -> Tensor:
    """Where each of the ``queries`` (q, D), the class token and the ``patches`` of a square are: (q
    + 1 + patches, D).

    The class token is nowhere. Of a patch the first half tells the column, the second the row.
    """
    side, width = round(patches**0.5), queries.shape[1]

    def waves(places: Tensor, width: int) -> Tensor:
        angles = places[:, None] / 10000 ** (
            torch.arange(width // 2, device=queries.device) * 2 / width
        )
        return torch.cat([angles.sin(), angles.cos()], 1)

    steps = torch.arange(side, device=queries.device)
    grid = torch.cat(
        [waves(steps.repeat(side), width // 2), waves(steps.repeat_interleave(side), width // 2)], 1
    )
    line = waves(torch.arange(len(queries), device=queries.device), width)
    return torch.cat([line, torch.zeros_like(line[:1]), grid]).to(queries.dtype)


class MPlugOwl2Model(LlavaModel):  # type: ignore[misc]
    """Vision tower, abstractor and text decoder, in LLaVA's places."""

    config: MPlugOwl2Config

    def __init__(self, config: MPlugOwl2Config) -> None:
        super(LlavaModel, self).__init__(config)
        self.vision_tower = CLIPVisionModel(config.vision_config)
        self.multi_modal_projector = VisualAbstractor(config)
        self.language_model = AdaptiveLlama(config.text_config)
        self.post_init()

    def get_image_features(self, pixel_values: Tensor, **_: Any) -> BaseModelOutputWithPooling:
        """``pixel_values`` (B, 3, H, W) to image tokens, in ``pooler_output`` one (n, D) an image."""
        tokens = self.vision_tower.post_layernorm(self.vision_tower(pixel_values).last_hidden_state)
        return BaseModelOutputWithPooling(tokens, list(self.multi_modal_projector(tokens)))

    def forward(
        self,
        input_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Any = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> Any:
        """See :class:`LlavaModel`. Raises :class:`ValueError` without ``input_ids``."""
        if input_ids is None:
            raise ValueError("mPLUG-Owl2 needs input_ids: they say which tokens are images")
        cache = past_key_values if cache is None else cache
        if position_ids is None:
            past = 0 if cache is None else cache.get_seq_length()
            position_ids = past + torch.arange(input_ids.shape[1], device=input_ids.device)
        image = (input_ids == self.config.image_token_id).long()
        places = torch.stack([position_ids.expand_as(input_ids), image])
        return super().forward(input_ids=input_ids, position_ids=places, **{CACHE: cache}, **kwargs)


class MPlugOwl2ForConditionalGeneration(LlavaForConditionalGeneration):  # type: ignore[misc]
    """The model with its output embedding, and with LLaVA's way of generating text."""

    config: MPlugOwl2Config
    _no_split_modules = ["AbstractorLayer"]  # noqa: RUF012

    def __init__(self, config: MPlugOwl2Config) -> None:
        super(LlavaForConditionalGeneration, self).__init__(config)
        self.model = MPlugOwl2Model(config)
        self.lm_head = nn.Linear(
            config.text_config.hidden_size, config.text_config.vocab_size, bias=False
        )
        self.post_init()

    @wraps(LlavaForConditionalGeneration.generate, assigned=())
    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """See :class:`GenerationMixin`. Raises :class:`BadInput` for prompt lookup."""
        reason = "proposes image tokens, for which mPLUG-Owl2 has no logits"
        check_options(
            [LOOKUP], arguments(super().generate, args, kwargs), self.generation_config, reason
        )
        return super().generate(*args, **kwargs)


AutoConfig.register("mplug_owl2", MPlugOwl2Config)
AutoModelForImageTextToText.register(MPlugOwl2Config, MPlugOwl2ForConditionalGeneration)
