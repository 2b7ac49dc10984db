"""mPLUG-Owl2 as a Hugging Face model, on the classes of LLaVA, CLIP and Llama.

Ye et al., "mPLUG-Owl2: Revolutionizing Multi-modal Large Language Model with Modality
Collaboration" (CVPR 2024, arXiv 2311.04257). Its parts:

- the vision tower: CLIP's vision transformer, its last layer norm applied to every token;
- the visual abstractor: 64 learnt queries that attend to the tower's tokens, and one learnt vector
  for the end of the image;
- the text decoder: a Llama in which every layer has a second set of layer norms and of key and
  value projections, for image tokens (the paper's modality-adaptive module).

The layers learn from the positions which tokens are image tokens: ``position_ids`` of the text
decoder are (2, B, T), the position of each token, and 1 for an image token, 0 for text. So hidden
states and positions are enough to resume from a layer. The image token's id is one past the
vocabulary, so that embeddings and logits have the checkpoint's sizes.

Shapes: B rows, T tokens, D width of the text decoder, N images, q queries of the abstractor, n
tokens of the tower (the class token and a square of patches), W width of the tower.

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
    """Shape of the model: an image takes ``num_query_tokens`` + 1 tokens.

    The abstractor is as wide as the tower. Raises :class:`ValueError` for the configuration of the
    authors' own checkpoint.
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
    """Module that holds one module for text tokens and a second one for image tokens."""

    def __init__(self, text: nn.Module) -> None:
        super().__init__()
        self.text = text
        self.image = deepcopy(text)

    def forward(self, x: Tensor, image: Tensor | None) -> Tensor:
        """Map ``x`` (B, T, D) to (B, T, D'), each token by the module of its modality.

        ``image``, boolean (B, T), marks the image tokens; ``None`` means that there are none.
        """
        if image is None:
            all_text: Tensor = self.text(x)
            return all_text
        text = self.text(x[~image])
        y: Tensor = text.new_empty(*image.shape, text.shape[-1])
        y[~image] = text
        y[image] = self.image(x[image])
        return y


def double(module: nn.Module, *names: str) -> None:
    """Give the parts ``names`` of ``module`` a second set of weights for image tokens."""
    for name in names:
        setattr(module, name, ByModality(getattr(module, name)))


class AdaptiveAttention(LlamaAttention):  # type: ignore[misc]
    """Llama's attention with key and value projections by modality; queries have one for both."""

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
        """Return the output (B, T, D) and the attention weights, if the implementation has them.

        ``image`` is as in :class:`ByModality`, the rest as in :class:`LlamaAttention`.
        """
        q = by_head(self.q_proj(hidden_states), self.head_dim)
        k = by_head(self.k_proj(hidden_states, image), self.head_dim)
        v = by_head(self.v_proj(hidden_states, image), self.head_dim)
        q, k = apply_rotary_pos_emb(q, k, *position_embeddings)
        if (cache := kwargs.pop(CACHE)) is not None:
            k, v = cache.update(k, v, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        dropout = self.attention_dropout if self.training else 0.0
        mixed, weights = attend(
            self, q, k, v, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs
        )
        return self.o_proj(mixed.flatten(2)), weights


def by_head(x: Tensor, head_dim: int) -> Tensor:
    """Split (B, T, heads · d) into heads: (B, heads, T, d)."""
    return x.view(*x.shape[:-1], -1, head_dim).transpose(1, 2)


class AdaptiveLayer(LlamaDecoderLayer):  # type: ignore[misc]
    """Llama's layer with layer norms by modality; the feed-forward network serves both."""

    def __init__(self, config: LlamaConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.self_attn = AdaptiveAttention(config, layer_idx)
        double(self, "input_layernorm", "post_attention_layernorm")

    def forward(self, hidden_states: Tensor, image: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Return the states (B, T, D) after the layer; ``image`` as in :class:`ByModality`."""
        normed = self.input_layernorm(hidden_states, image)
        attention, _ = self.self_attn(normed, image=image, **kwargs)
        hidden_states = hidden_states + attention
        feed_forward: Tensor = self.mlp(self.post_attention_layernorm(hidden_states, image))
        return hidden_states + feed_forward


class TextEmbedding(nn.Embedding):
    """Embedding that accepts the image token, which has no row; its vector is replaced later."""

    def forward(self, input: Tensor) -> Tensor:
        """Map token ids (B, T) to vectors (B, T, D)."""
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
        """Return the output of :class:`LlamaModel`, with last states (B, T, D).

        ``position_ids`` (2, B, T) hold positions and image marks; with (B, T) all tokens are text.
        """
        image = None
        if position_ids is not None and position_ids.ndim == 3:
            image = position_ids[1].bool()
            position_ids = position_ids[0]
            if not image.any():
                image = None
        return super().forward(*args, position_ids=position_ids, image=image, **kwargs)


class AbstractorLayer(nn.Module):
    """Layer of the abstractor: attention of the queries, then a gated feed-forward network.

    The queries attend to themselves and to the tokens of the tower.
    """

    def __init__(self, config: MPlugOwl2Config) -> None:
        super().__init__()
        width = config.vision_config.hidden_size
        inner = config.abstractor_intermediate_size
        self.head_dim = width // config.abstractor_heads
        self.query_norm = nn.LayerNorm(width)
        self.image_norm = nn.LayerNorm(width)
        self.mlp_norm = nn.LayerNorm(width)
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        self.gate_proj = nn.Linear(width, inner)
        self.up_proj = nn.Linear(width, inner)
        self.down_proj = nn.Linear(inner, width)
        self.inner_norm = nn.LayerNorm(inner, eps=config.abstractor_layer_norm_eps)

    def forward(self, queries: Tensor, tokens: Tensor, places: Tensor) -> Tensor:
        """Return the queries (N, q, W) after attending to the tower's ``tokens`` (N, n, W).

        ``places`` (q + n, W), the position embeddings, are added to queries and keys.
        """
        # The residual is the normed queries, not the queries themselves, as in the authors' code.
        queries = self.query_norm(queries)
        both = torch.cat([queries, self.image_norm(tokens)], 1)
        q = by_head(self.q_proj(queries + places[: queries.shape[1]]), self.head_dim)
        k = by_head(self.k_proj(both + places), self.head_dim)
        v = by_head(self.v_proj(both), self.head_dim)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        queries = queries + self.out_proj(mixed)
        x = self.mlp_norm(queries)
        gated = F.silu(self.gate_proj(x)) * self.up_proj(x)
        feed_forward: Tensor = self.down_proj(self.inner_norm(gated))
        return queries + feed_forward


class VisualAbstractor(nn.Module):
    """Connector: maps the tower's tokens to a fixed number of image tokens."""

    def __init__(self, config: MPlugOwl2Config) -> None:
        super().__init__()
        width = config.vision_config.hidden_size
        out = config.text_config.hidden_size
        self.queries = nn.Parameter(0.02 * torch.randn(config.num_query_tokens, width))
        self.layers = nn.ModuleList(
            AbstractorLayer(config) for _ in range(config.abstractor_layers)
        )
        self.linear = nn.Linear(width, out)
        self.end = nn.Parameter(0.02 * torch.randn(1, out))

    def forward(self, tokens: Tensor) -> Tensor:
        """Map the tower's tokens (N, n, W), class token first, to image tokens (N, q + 1, D)."""
        places = sinusoids(self.queries, tokens.shape[1] - 1)
        queries = self.queries.expand(len(tokens), -1, -1)
        for layer in self.layers:
            queries = layer(queries, tokens, places)
        end = self.end.expand(len(tokens), 1, -1)
        return torch.cat([self.linear(queries), end], 1)


def sinusoids(queries: Tensor, patches: int) -> Tensor:
    """Return position embeddings of queries, class token and patches, (q + 1 + ``patches``, W).

    ``queries`` (q, W) are numbered in a line, the patches in a square: the first half of a patch's
    embedding encodes its column, the second its row. The class token's embedding is 0.
    """
    count, width = queries.shape
    side = round(patches**0.5)
    steps = torch.arange(side, device=queries.device)
    columns = waves(steps.repeat(side), width // 2)
    rows = waves(steps.repeat_interleave(side), width // 2)
    grid = torch.cat([columns, rows], 1)
    line = waves(torch.arange(count, device=queries.device), width)
    class_token = torch.zeros_like(line[:1])
    return torch.cat([line, class_token, grid]).to(queries.dtype)


def waves(places: Tensor, width: int) -> Tensor:
    """Return sines and cosines (n, ``width``) of positions (n,) (Vaswani et al., NeurIPS 2017)."""
    exponents = torch.arange(width // 2, device=places.device) * 2 / width
    angles = places[:, None] / 10000**exponents
    return torch.cat([angles.sin(), angles.cos()], 1)


class MPlugOwl2Model(LlavaModel):  # type: ignore[misc]
    """Vision tower, abstractor and text decoder, named as LLaVA's are."""

    config: MPlugOwl2Config

    def __init__(self, config: MPlugOwl2Config) -> None:
        super(LlavaModel, self).__init__(config)
        self.vision_tower = CLIPVisionModel(config.vision_config)
        self.multi_modal_projector = VisualAbstractor(config)
        self.language_model = AdaptiveLlama(config.text_config)
        self.post_init()

    def get_image_features(self, pixel_values: Tensor, **_: Any) -> BaseModelOutputWithPooling:
        """Map pixels (N, 3, H, W) to image tokens: ``pooler_output`` lists (q + 1, D) an image."""
        seen = self.vision_tower(pixel_values).last_hidden_state
        tokens = self.vision_tower.post_layernorm(seen)
        return BaseModelOutputWithPooling(tokens, list(self.multi_modal_projector(tokens)))

    def forward(
        self,
        input_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Any = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Return the output of :class:`LlavaModel`, with last states (B, T, D).

        Raises :class:`ValueError` without ``input_ids``, which alone tell images from text.
        """
        if input_ids is None:
            raise ValueError("mPLUG-Owl2 needs input_ids: they say which tokens are images")
        cache = past_key_values if cache is None else cache
        if position_ids is None:
            past = 0 if cache is None else cache.get_seq_length()
            position_ids = past + torch.arange(input_ids.shape[1], device=input_ids.device)
        image = (input_ids == self.config.image_token_id).long()
        marked = torch.stack([position_ids.expand_as(input_ids), image])
        return super().forward(input_ids=input_ids, position_ids=marked, **{CACHE: cache}, **kwargs)


class MPlugOwl2ForConditionalGeneration(LlavaForConditionalGeneration):  # type: ignore[misc]
    """mPLUG-Owl2 with its output embedding; generates as LLaVA does."""

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
        """Generate as :class:`GenerationMixin` does. Raises :class:`BadInput` for prompt lookup."""
        given = arguments(super().generate, args, kwargs)
        reason = "proposes image tokens, for which mPLUG-Owl2 has no logits"
        check_options([LOOKUP], given, self.generation_config, reason)
        return super().generate(*args, **kwargs)


AutoConfig.register("mplug_owl2", MPlugOwl2Config)
AutoModelForImageTextToText.register(MPlugOwl2Config, MPlugOwl2ForConditionalGeneration)
