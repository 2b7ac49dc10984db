"""Where the feed-forward network of a decoder layer is read and written, for methods that act on
it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from liveedit.errors import UnsupportedModel
from liveedit.models.batch import Batch, HiddenBatch
from liveedit.models.patch import INPUT, Patch, SiteFn
from liveedit.models.vlm import VLM
from liveedit.models.wrappers import innermost, plain

__all__ = [
    "DOWN",
    "FeedForward",
    "Recorder",
    "down_projection",
    "feed_forward",
    "highest_layer",
    "inner_width",
    "last_prompt_tokens",
    "matrices",
    "prompt_tokens",
    "stacked",
]

PLACES = (
    *(
        ("mlp", "mlp", "mlp"),
        ("feed_forward", "feed_forward", "feed_forward"),
        ("ffn", "ffn", "ffn"),
    ),
    *(
        ("mixer.down_proj", "mixer", "mixer"),
        ("mixer.experts", "mixer", "mixer"),
        ("fc2", "fc1", "fc2"),
    ),
)
"""What a layer with a network has, and the network's first and last module.

Of Llama and its kin, of Llama 4, of Kosmos, of Nemotron-H, whose layers are attention, state space
or network, of OPT.
"""

WITHIN = r"((mlp|feed_forward|ffn|mixer)\.)?(shared_experts?\.)?"
"""Where in a layer the matrices are that every token goes through, unlike those of routed experts.
"""
DOWN = ("down_proj", "fc2", "w2", "dense_4h_to_h", "post_expert_proj")
"""The last of them, which puts out what the network adds to the stream."""
STACKED = re.compile(rf"{WITHIN}(experts\.)?down_proj")
"""The same of several experts in one tensor, (experts, …)."""


@dataclass(frozen=True, slots=True)
class FeedForward:
    """Sites: ``reads`` is what the network takes, ``writes`` what it adds to the stream, both (B,
    T, D).
    """

    layer: int
    reads: str
    writes: str


def place(layer: nn.Module) -> tuple[str, str] | None:
    """The first and the last module of a layer's network, ``None`` for a layer without one of a
    known form.
    """
    names = {name for name, _ in layer.named_modules()}
    return next(((reads, writes) for mark, reads, writes in PLACES if mark in names), None)


def highest_layer(vlm: VLM, limit: int) -> int:
    """The highest layer up to ``limit`` with a network, which in hybrids not all have; ``limit``
    itself if none has.
    """
    return next((layer for layer in range(limit, 0, -1) if place(vlm.layers[layer])), limit)


def feed_forward(vlm: VLM, layer: int) -> FeedForward:
    """The network of ``layer``, counted from 0.

    Raises :class:`BadInput` for a layer that does not exist or has none below it,
    :class:`UnsupportedModel` where the layer has no feed-forward network of a known form.
    """
    vlm.check_layer(layer)
    vlm.check_layer(layer - 1)
    if found := place(vlm.layers[layer]):
        return FeedForward(layer, f"layers.{layer}.{found[0]}{INPUT}", f"layers.{layer}.{found[1]}")
    raise UnsupportedModel(
        f"layer {layer} of the decoder has no feed-forward network of a known form"
    )


def matrices(vlm: VLM, layer: int, leaves: Sequence[str]) -> list[str]:
    """The linear layers of the network of ``layer`` that every token goes through, of those named
    as ``leaves``.

    By their paths below the text decoder, in the order in which the model has them; within adapters
    that are around.
    """
    wanted = re.compile(f"{WITHIN}({'|'.join(leaves)})")
    modules = vlm.layers[layer].named_modules()
    return [
        innermost(f"layers.{layer}.{name}", module)
        for name, module in modules
        if wanted.fullmatch(name)
    ]


def down_projection(vlm: VLM, layer: int) -> str:
    """The path below the text decoder of the last matrix of the network of ``layer``, (D, H) for
    inner width H.

    Raises :class:`BadInput` for a layer that does not exist or has none below it,
    :class:`UnsupportedModel` where the layer has no such matrix that every token goes through.
    """
    vlm.check_layer(layer)
    vlm.check_layer(layer - 1)
    if found := matrices(vlm, layer, DOWN):
        return found[0]
    raise UnsupportedModel(
        f"layer {layer} has no feed-forward network with linear layers for every token"
    )


def stacked(vlm: VLM, layer: int) -> list[str]:
    """The parameter that holds the last matrices of several experts in ``layer``, of shared ones if
    it has these.

    By its path below the text decoder; none where there is no such parameter.
    """
    names = [
        name for name, _ in vlm.layers[layer].named_parameters() if STACKED.fullmatch(plain(name))
    ]
    return [
        f"layers.{layer}.{name}"
        for name in sorted(names, key=lambda name: "shared" not in name)[:1]
    ]


def inner_width(vlm: VLM, layer: int) -> int:
    """H, the inner width of the network of ``layer``, where its experts are in one tensor that of
    each.

    Raises as :func:`down_projection` where there is neither.
    """
    if not matrices(vlm, layer, DOWN) and (experts := stacked(vlm, layer)):
        return int(vlm.parameter(f"{vlm.decoder_path}.{experts[0]}")[0].numel()) // vlm.hidden_size
    return int(vlm.decoder.get_submodule(down_projection(vlm, layer)).in_features)


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
