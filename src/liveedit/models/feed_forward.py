"""Finds the feed-forward networks and attention projections of a text decoder, by role."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from liveedit.errors import UnsupportedModel
from liveedit.models.module_names import NetworkEnds
from liveedit.models.patch import INPUT
from liveedit.models.vlm import VLM
from liveedit.models.wrappers import innermost, plain

__all__ = [
    "FeedForward",
    "down_projection",
    "feed_forward",
    "highest_layer",
    "inner_width",
    "matrices",
    "query_value_projections",
    "stacked_down_projections",
]


@dataclass(frozen=True, slots=True)
class FeedForward:
    """The sites of a layer's feed-forward network.

    Arguments:
        layer: The layer, from 0.
        reads: The site of the network's input, (B, T, D).
        writes: The site of its output, which is added to the residual stream, (B, T, D).
    """

    layer: int
    reads: str
    writes: str


def feed_forward(vlm: VLM, layer: int) -> FeedForward:
    """The feed-forward network of ``layer``, from 0.

    Raises :class:`BadInput` for a layer that does not exist or has none below it,
    :class:`UnsupportedModel` where the layer has no feed-forward network of a known form.
    """
    vlm.check_layer(layer)
    vlm.check_layer(layer - 1)
    ends = _ends(vlm, vlm.layers[layer])
    if ends is None:
        raise UnsupportedModel(
            f"layer {layer} of the decoder has no feed-forward network of a known form"
        )
    return FeedForward(layer, f"layers.{layer}.{ends.first}{INPUT}", f"layers.{layer}.{ends.last}")


def highest_layer(vlm: VLM, limit: int) -> int:
    """The highest layer up to ``limit`` with a feed-forward network, or ``limit`` if none has one.

    In hybrid decoders not all layers have one.
    """
    for layer in range(limit, 0, -1):
        if _ends(vlm, vlm.layers[layer]) is not None:
            return layer
    return limit


def matrices(vlm: VLM, layer: int, names: Sequence[str]) -> list[str]:
    """The linear layers of the network of ``layer`` that are called one of ``names``.

    Only layers that process every token are included. They are given by their paths below the text
    decoder, in the model's order; for a layer inside adapters by the path of the layer itself.
    """
    wanted = re.compile(f"{vlm.module_names.containers}({'|'.join(names)})")
    found = []
    for name, module in vlm.layers[layer].named_modules():
        if wanted.fullmatch(name):
            found.append(innermost(f"layers.{layer}.{name}", module))
    return found


def down_projection(vlm: VLM, layer: int) -> str:
    """The path below the text decoder of the down projection (D, H) of ``layer``, H inner width.

    Raises :class:`BadInput` for a layer that does not exist or has none below it,
    :class:`UnsupportedModel` where no down projection processes every token.
    """
    vlm.check_layer(layer)
    vlm.check_layer(layer - 1)
    if found := matrices(vlm, layer, vlm.module_names.down):
        return found[0]
    raise UnsupportedModel(
        f"layer {layer} has no feed-forward network with linear layers for every token"
    )


def stacked_down_projections(vlm: VLM, layer: int) -> list[str]:
    """The parameter with the down projections of several experts of ``layer``, if there is one.

    It is given by its path below the text decoder. If there are shared experts, it is the one of
    the shared experts.
    """
    names = vlm.module_names
    wanted = re.compile(f"{names.containers}{names.stacked}")
    parameters = vlm.layers[layer].named_parameters()
    found = [name for name, _ in parameters if wanted.fullmatch(plain(name))]
    shared_first = sorted(found, key=lambda name: "shared" not in name)
    return [f"layers.{layer}.{name}" for name in shared_first[:1]]


def inner_width(vlm: VLM, layer: int) -> int:
    """H, the inner width of the network of ``layer``; for stacked experts the width of one expert.

    Raises as :func:`down_projection` where there is neither.
    """
    experts = stacked_down_projections(vlm, layer)
    if experts and not matrices(vlm, layer, vlm.module_names.down):
        stack = vlm.parameter(f"{vlm.decoder_path}.{experts[0]}")
        return int(stack[0].numel()) // vlm.hidden_size
    return int(vlm.decoder.get_submodule(down_projection(vlm, layer)).in_features)


def query_value_projections(vlm: VLM) -> list[str]:
    """The names in the Hugging Face model of the parameters of query and value projections."""
    path = f"{vlm.decoder_path}.layers."
    wanted = re.compile(vlm.module_names.query_value)
    names = [name for name, _ in vlm.model.named_parameters()]
    return [name for name in names if name.startswith(path) and wanted.search(name)]


def _ends(vlm: VLM, layer: nn.Module) -> NetworkEnds | None:
    """The ends of a layer's feed-forward network; ``None`` for a layer without a known one."""
    names = {name for name, _ in layer.named_modules()}
    return next((ends for ends in vlm.module_names.networks if ends.mark in names), None)
