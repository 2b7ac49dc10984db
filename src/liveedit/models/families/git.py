"""GIT (Wang et al., "GIT: A Generative Image-to-text Transformer", TMLR 2022, arXiv 2205.14100).

The text decoder is given the image first: the projected outputs of CLIP's vision tower, which
attend to one another; ``[CLS]`` and the prompt follow, causal as usual.

transformers' code puts the image before the tokens inside the model, for all rows of a batch or
none. Here a row holds ``[MASK]``, a token that GIT never reads, for each piece of the image, and
the decoder is given the embeddings of image and text together. Image tokens have the position -1,
which exempts them from position embedding and layer norm. One departure: positions count the text
alone, with a cache too, where transformers' code counts the image's tokens among those before.
"""

from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor
from torch.nn import functional as F
from transformers.masking_utils import create_causal_mask

from liveedit.errors import BadInput
from liveedit.models.batch import Batch
from liveedit.models.calls import CACHE, arguments, cache_of
from liveedit.models.encoder import ImageInputs, PromptFormat, nested
from liveedit.models.vlm import VLM
from liveedit.types import Query

__all__ = ["Git"]

PARTS = {
    "attention": "self_attn",
    "self_attn.self.query": "self_attn.q_proj",
    "self_attn.self.key": "self_attn.k_proj",
    "self_attn.self.value": "self_attn.v_proj",
    "intermediate.dense": "fc1",
    "output.dense": "fc2",
}
"""GIT's names of the parts of a layer, and those that editors look for, which are OPT's.

They are renamed one after the other: ``attention`` first, then what is inside it.
"""


class Git(VLM):
    """GIT: image, ``[CLS]``, prompt; one image per prompt, no chat template."""

    decoder_path = "git"
    tower_path = "git.image_encoder"
    connector_path = "git.visual_projection"
    single = "GIT puts one before its text"

    def __init__(
        self, model: Any, processor: Any, prompt_format: PromptFormat | None = None
    ) -> None:
        if prompt_format == "chat":
            raise BadInput("GIT has no chat template: use the prompt format 'raw'")
        tokenizer = processor.tokenizer
        tokenizer.eos_token = tokenizer.eos_token or tokenizer.sep_token
        if not hasattr(model.git, "layers"):
            use_common_names(model.git)
            model.git.forward = partial(run_layers, model.git)
        super().__init__(model, processor, prompt_format or "raw")

    def before_model(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments with image and text embedded in one row.

        ``inputs_embeds`` (B, T, D), ``attention_mask`` (B, past + T) and ``position_ids`` (B, T)
        replace ``input_ids`` and ``pixel_values``. Which tokens are the image's is found once, in
        the prompt, and kept in its cache as ``pictured`` (B, T of the prompt).
        """
        ids = given.get("input_ids")
        if ids is None:
            return given
        cache = cache_of(arguments(self.model.forward, (), given))
        mask = given.get("attention_mask")
        if mask is None:  # then nothing is padding
            past = 0 if cache is None else cache.get_seq_length()
            mask = ids.new_ones(len(ids), past + ids.shape[1])
        embedded = self.embedding(ids)
        pictured = getattr(cache, "pictured", None)
        if pictured is None:
            pictured = self.tokens_before_text(ids, mask)
            embedded = self.with_image(embedded, pictured, given.get("pixel_values"))
            if cache is not None:
                cache.pictured = pictured
        embeddings = {
            "input_ids": None,
            "pixel_values": None,
            "inputs_embeds": embedded,
            "attention_mask": mask,
            "position_ids": text_positions(mask, pictured)[:, -ids.shape[1] :],
        }
        return given | embeddings

    def tokens_before_text(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Mark the image tokens (B, T): those before the first token of the text."""
        real = mask.bool()
        text = (ids != self.image_token_id) & real
        return real & (text.cumsum(1) == 0)

    def with_image(self, embedded: Tensor, pictured: Tensor, pixels: Tensor | None) -> Tensor:
        """Return the embeddings (B, T, D) with the image's at the tokens marked in ``pictured``."""
        if pixels is None:
            return embedded
        seen = self.model.git.image_encoder(pixels).last_hidden_state
        image = self.model.git.visual_projection(seen)
        return embedded.masked_scatter(pictured[..., None], image.to(embedded))

    @property
    def image_token_id(self) -> int:
        """The id of ``[MASK]``."""
        return int(self.tokenizer.mask_token_id)

    def render(self, query: Query) -> str:
        """Return the text, which begins with ``[CLS]``."""
        return f"{self.tokenizer.cls_token}{query.prompt.strip()}"

    def processed(self, query: Query) -> dict[str, Any]:
        """Return the processor's output for the image, or for the text of a query without image.

        The processor writes no image tokens, so it has no tokens to compare for an image.
        """
        if query.images:
            return dict(self.processor(images=nested(query.images), return_tensors="pt"))
        text = [self.render(query)]
        return dict(self.processor(text=text, add_special_tokens=False, return_tensors="pt"))

    def token_ids(self, texts: list[str]) -> list[list[int]]:
        """Return the token ids of rendered texts, which begin with ``[CLS]`` already."""
        ids: list[list[int]] = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return ids

    def expand_image_tokens(self, ids: list[int], counts: list[int]) -> list[int]:
        """Put the image tokens before the token ids of the text; ``counts`` says how many."""
        self.check_placeholders(ids, 0)
        return [*[self.image_token_id] * sum(counts), *ids]

    def positions(self, batch: Batch) -> Tensor:
        """Return how many positions each row takes, (B,): as many as its text has tokens."""
        return super().positions(batch) - (batch.inputs["input_ids"] == self.image_token_id).sum(1)

    def process_images(self, images: Sequence[Image]) -> ImageInputs:
        """Return the pixels (n, 3, H, W), and for each image the vision tower's positions."""
        inputs = self.processor.image_processor(images=list(images), return_tensors="pt")
        tower = self.model.git.image_encoder.vision_model
        counts = [tower.embeddings.num_positions] * len(images)
        return {"pixel_values": inputs["pixel_values"]}, counts


def use_common_names(git: Any) -> None:
    """Give the layers and their parts the names that editors look for; state dicts keep GIT's."""
    rename_part(git, "encoder.layer", "layers")
    for layer, (old, new) in product(git.layers, PARTS.items()):
        rename_part(layer, old, new)
    git.register_state_dict_post_hook(restore_names)


def rename_part(module: Any, old: str, new: str) -> None:
    """Move a submodule from path ``old`` to ``new``; code that uses the old path still works.

    The old path becomes a plain attribute, which is not registered as a submodule.
    """
    old_parent, _, old_name = old.rpartition(".")
    new_parent, _, new_name = new.rpartition(".")
    owner = module.get_submodule(old_parent)
    part = owner._modules.pop(old_name)
    vars(owner)[old_name] = part
    module.get_submodule(new_parent).add_module(new_name, part)


def restore_names(git: Any, state: dict[str, Tensor], prefix: str, _metadata: Any) -> None:  # noqa: ARG001
    """State-dict hook that gives the weights of the layers the names that checkpoints have."""
    for name in list(state):
        if not name.startswith(f"{prefix}layers."):
            continue
        number, _, rest = name.removeprefix(f"{prefix}layers.").partition(".")
        for old, new in reversed(PARTS.items()):
            if rest.startswith(f"{new}."):
                rest = old + rest.removeprefix(new)
        state[f"{prefix}encoder.layer.{number}.{rest}"] = state.pop(name)


def text_positions(mask: Tensor, pictured: Tensor) -> Tensor:
    """Return the positions (B, past + T) of the text, counted from 0, and -1 for image tokens.

    ``mask`` is (B, past + T), ``pictured`` marks the image tokens of the prompt alone.
    """
    pictured = F.pad(pictured, (0, mask.shape[1] - pictured.shape[1]))
    text = mask.bool() & ~pictured
    return (text.cumsum(1) - 1).clamp(min=0).masked_fill(pictured, -1)


def run_layers(
    git: Any,
    *_: Any,
    inputs_embeds: Tensor,
    attention_mask: Tensor,
    position_ids: Tensor,
    **kwargs: Any,
) -> Any:
    """Forward pass of GIT's decoder on embeddings (B, T, D): its output holds states (B, T, D).

    Tokens at position -1 are the image's: they get neither position embedding nor layer norm, and
    attend to one another in both directions.
    """
    image = position_ids < 0
    cache = cache_of(kwargs)
    positions = git.embeddings.position_embeddings(position_ids.clamp(min=0))
    text_states = git.embeddings.LayerNorm(inputs_embeds + positions)
    states = torch.where(image[..., None], inputs_embeds, text_states)
    blocks = torch.where(image, 0, -1)
    mask = create_causal_mask(git.config, states, attention_mask, cache, block_sequence_ids=blocks)
    return git.encoder(states, attention_mask=mask, **{CACHE: cache})
