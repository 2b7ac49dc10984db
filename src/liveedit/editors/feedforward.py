"""Where the feed-forward network of a decoder layer is read and written, for methods that act on it."""

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from liveedit.errors import UnsupportedModel
from liveedit.models.batch import Batch, HiddenBatch
from liveedit.models.patch import INPUT, Patch, SiteFn
from liveedit.models.vlm import VLM

__all__ = ["FeedForward", "Recorder", "down_projection", "feed_forward", "last_prompt_tokens", "prompt_tokens"]

PLACES = (("mlp", "mlp"), ("feed_forward", "feed_forward"), ("ffn", "ffn"), ("fc1", "fc2"))
"""The network's first module and its last one in a layer: of Llama and its kin, of Llama 4, of Kosmos and of OPT."""

DOWN = re.compile(r"((mlp|feed_forward|ffn)\.)?(shared_experts?\.)?(down_proj|fc2|w2|dense_4h_to_h)")
"""Its last matrix, which puts out what the network adds to the stream; among experts that of those for all tokens."""


@dataclass(frozen=True, slots=True)
class FeedForward:
    """Sites: ``reads`` is what the network takes, ``writes`` what it adds to the stream, both (B, T, D)."""

    layer: int
    reads: str
    writes: str


def feed_forward(vlm: VLM, layer: int | None) -> FeedForward:
    """The network of ``layer``, counted from 0; ``None`` is the one after two thirds of the layers.

    Raises :class:`BadInput` for a layer that does not exist or has none below it, :class:`UnsupportedModel` where the
    layer has no feed-forward network of a known form.
    """
    layer = 2 * vlm.num_layers // 3 if layer is None else layer
    vlm.check_layer(layer)
    vlm.check_layer(layer - 1)
    children = dict(vlm.layers[layer].named_children())
    for reads, writes in PLACES:
        if reads in children and writes in children:
            return FeedForward(layer, f"layers.{layer}.{reads}{INPUT}", f"layers.{layer}.{writes}")
    raise UnsupportedModel("the decoder's layers have no feed-forward network like Llama's or OPT's")


def down_projection(vlm: VLM, layer: int) -> str:
    """The path below the text decoder of the last matrix of the network of ``layer``, (D, H) for inner width H.

    Raises :class:`BadInput` for a layer that does not exist or has none below it, :class:`UnsupportedModel` where the
    layer has no feed-forward network of a known form.
    """
    vlm.check_layer(layer)
    vlm.check_layer(layer - 1)
    for name, _ in vlm.layers[layer].named_modules():
        if DOWN.fullmatch(name):
            return f"layers.{layer}.{name}"
    raise UnsupportedModel("the decoder's layers have no feed-forward network, or one of routed experts alone")


def prompt_tokens(batch: Batch | HiddenBatch) -> Tensor:
    """Which tokens (B, T) stand before the answer, image included and padding not."""
    places = torch.arange(batch.labels.shape[1], device=batch.labels.device)
    starts, stops = (
        torch.tensor(ends, device=places.device)[:, None]
        for ends in zip(*((span.start, span.prompt[1]) for span in batch.spans), strict=True)
    )
    return (starts <= places) & (places < stops)


def last_prompt_tokens(batch: Batch) -> Tensor:
    """Where each row's prompt ends, (B,): the token that predicts the first one of the answer."""
    return torch.tensor([span.prompt[1] - 1 for span in batch.spans], device=batch.labels.device)


class Recorder(Patch):
    """Keeps the states at sites, (B, T, D), and changes nothing."""

    def __init__(self, *sites: str) -> None:
        self.sites, self.seen = sites, dict[str, Tensor]()

    def bind(self, batch: Batch) -> dict[str, SiteFn]:  # noqa: ARG002
        """See :meth:`Patch.bind`."""
        return {site: self.keeper(site) for site in self.sites}

    def keeper(self, site: str) -> SiteFn:
        """The function at a site."""

        def keep(output: Tensor) -> Tensor:
            self.seen[site] = output
            return output

        return keep
