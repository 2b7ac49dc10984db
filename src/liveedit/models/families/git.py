"""GIT (Wang et al., TMLR 2022): the image's tokens before the text, which see one another; the text
sees all before it.

The code in transformers puts the image before the tokens by itself, for all rows of a batch or
none. Here ``[MASK]``, a token that GIT never reads, stands in the row for each piece of the image,
and the decoder takes the embeddings of both; the image's have the position -1, which spares them
position embedding and norm. One departure: positions count the text alone also behind a cache,
where that code counts the image's tokens among those before.
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
from liveedit.models.encoder import Picture, PromptFormat, nested
from liveedit.models.vlm import VLM
from liveedit.types import Query

__all__ = ["Git"]

PARTS = {
    "attention": "self_attn",
    **{f"self_attn.self.{name}": f"self_attn.{name[0]}_proj" for name in ("query", "key", "value")},
    "intermediate.dense": "fc1",
    "output.dense": "fc2",
}
"""What GIT calls the parts of a layer, and what OPT does: editors look for the latter."""


class Git(VLM):
    """The image, ``[CLS]`` and the prompt; no template for chats."""

    decoder_path = "git"
    tower_path = "git.image_encoder"
    connector_path = "git.visual_projection"
    single = "GIT puts one before its text"

    def __init__(
        self, model: Any, processor: Any, prompt_format: PromptFormat | None = None
    ) -> None:
        if prompt_format == "chat":
            raise BadInput("GIT answers single prompts: use the prompt format 'raw'")
        tokenizer = processor.tokenizer
        tokenizer.eos_token = tokenizer.eos_token or tokenizer.sep_token
        if not hasattr(model.git, "layers"):
            call(model.git, "encoder.layer", "layers")
            for layer, (theirs, ours) in product(model.git.layers, PARTS.items()):
                call(layer, theirs, ours)
            model.git.register_state_dict_post_hook(renamed)
            model.git.forward = partial(decode, model.git)
        super().__init__(model, processor, prompt_format or "raw")

    def before_model(self, given: dict[str, Any]) -> dict[str, Any]:
        """Embeddings (B, T, D) in place of tokens, the image's among them, and positions (B, T)."""
        if (ids := given.get("input_ids")) is None:
            return given
        cache, mask = (
            cache_of(arguments(self.model.forward, (), given)),
            given.get("attention_mask"),
        )
        embedded = self.embedding(ids)
        if mask is None:  # as where nothing is padding
            mask = ids.new_ones(
                len(ids), ids.shape[1] + (0 if cache is None else cache.get_seq_length())
            )
        if (
            pictured := getattr(cache, "pictured", None)
        ) is None:  # the tokens before the first of the text
            pictured = mask.bool() & (((ids != self.image_token_id) & mask.bool()).cumsum(1) == 0)
            if (pixels := given.get("pixel_values")) is not None:
                image = self.model.git.visual_projection(
                    self.model.git.image_encoder(pixels).last_hidden_state
                )
                embedded = embedded.masked_scatter(pictured[..., None], image.to(embedded))
            if cache is not None:
                cache.pictured = pictured
        pictured = F.pad(pictured, (0, mask.shape[1] - pictured.shape[1]))
        positions = ((mask.bool() & ~pictured).cumsum(1) - 1).clamp(min=0).masked_fill(pictured, -1)
        found = {
            "inputs_embeds": embedded,
            "attention_mask": mask,
            "position_ids": positions[:, -ids.shape[1] :],
        }
        return given | {"input_ids": None, "pixel_values": None} | found

    @property
    def image_token_id(self) -> int:
        """``[MASK]``."""
        return int(self.tokenizer.mask_token_id)

    def render(self, query: Query) -> str:
        """The text behind ``[CLS]``."""
        return f"{self.tokenizer.cls_token}{query.prompt.strip()}"

    def processed(self, query: Query) -> dict[str, Any]:
        """What the processor makes of the image, or of a text alone: it puts no image tokens before
        one.
        """
        if query.images:
            return dict(self.processor(images=nested(query.images), return_tensors="pt"))
        return dict(
            self.processor(text=[self.render(query)], add_special_tokens=False, return_tensors="pt")
        )

    def token_ids(self, texts: list[str]) -> list[list[int]]:
        """Token ids of rendered texts, which begin with ``[CLS]``."""
        ids: list[list[int]] = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return ids

    def place(self, ids: list[int], counts: list[int]) -> list[int]:
        """The image tokens, then the text."""
        self.check_placeholders(ids, 0)
        return [*[self.image_token_id] * sum(counts), *ids]

    def positions(self, batch: Batch) -> Tensor:
        """How many positions each row (B,) takes: those of its text."""
        return super().positions(batch) - (batch.inputs["input_ids"] == self.image_token_id).sum(1)

    def picture(self, images: Sequence[Image]) -> Picture:
        """The pixels; every image takes as many tokens as the vision tower has positions."""
        pixels = self.processor.image_processor(images=list(images), return_tensors="pt")[
            "pixel_values"
        ]
        tower = self.model.git.image_encoder.vision_model
        return {"pixel_values": pixels}, [tower.embeddings.num_positions] * len(images)


def call(module: Any, theirs: str, ours: str) -> None:
    """Give a part of a module our name and place; the code around it still finds it by theirs."""
    (old, _, leaf), (new, _, name) = theirs.rpartition("."), ours.rpartition(".")
    owner = module.get_submodule(old)
    part = vars(owner)[leaf] = owner._modules.pop(leaf)
    module.get_submodule(new).add_module(name, part)


def renamed(git: Any, state: dict[str, Tensor], prefix: str, _metadata: Any) -> None:  # noqa: ARG001
    """The weights of the layers under the names that checkpoints have."""
    for name in [name for name in state if name.startswith(f"{prefix}layers.")]:
        number, _, rest = name.removeprefix(f"{prefix}layers.").partition(".")
        for theirs, ours in reversed(PARTS.items()):
            rest = theirs + rest.removeprefix(ours) if rest.startswith(f"{ours}.") else rest
        state[f"{prefix}encoder.layer.{number}.{rest}"] = state.pop(name)


def decode(
    git: Any,
    *_: Any,
    inputs_embeds: Tensor,
    attention_mask: Tensor,
    position_ids: Tensor,
    **kwargs: Any,
) -> Any:
    """What the layers put out, (B, T, D), of the embeddings (B, T, D); the image's have the
    position -1.
    """
    image, layer_norm = position_ids < 0, git.embeddings.LayerNorm
    words = layer_norm(
        inputs_embeds + git.embeddings.position_embeddings(position_ids.clamp(min=0))
    )
    states = torch.where(image[..., None], inputs_embeds, words)
    cache, blocks = cache_of(kwargs), torch.where(image, 0, -1)
    mask = create_causal_mask(git.config, states, attention_mask, cache, block_sequence_ids=blocks)
    return git.encoder(states, attention_mask=mask, **{CACHE: cache})
