"""Hyper-connections (Zhu et al., ICLR 2025; mHC: Xie et al., 2025): several residual streams of a
token, side by side.

Editors read what a layer puts out as one vector a token (B, T, streams · D). Layers that keep the
streams apart (B, T, streams, D) are made to take them in and put them out so; nothing else of what
they compute changes.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

__all__ = ["apart_at_first", "count", "join"]

NAMES = ("hc_count", "hc_mult")
"""What configurations call the number of streams."""


def count(config: Any) -> int:
    """How many residual streams the text decoder of this configuration has."""
    return next((int(getattr(config, name)) for name in NAMES if hasattr(config, name)), 1)


def apart_at_first(decoder: Any) -> bool:
    """Whether the decoder keeps the streams apart; so its first layer takes them in even after
    :func:`join`.
    """
    return hasattr(decoder, "hc_head")


def join(decoder: Any, streams: int) -> None:
    """Have the decoder's layers take in and put out the streams end to end, if it keeps them apart."""
    if apart_at_first(decoder):
        for layer in decoder.layers:
            layer.forward = partial(joined, layer.forward, streams)
        decoder.hc_head.forward = partial(apart, decoder.hc_head.forward, streams)


def apart(
    forward: Callable[..., Any], streams: int, states: Tensor, *args: Any, **kwargs: Any
) -> Any:
    """What ``forward`` makes of the states (B, T, streams · D) or (B, T, streams, D), which it gets
    as the latter.
    """
    return forward(states.reshape(*states.shape[:2], streams, -1), *args, **kwargs)


def joined(
    forward: Callable[..., Any], streams: int, states: Tensor, *args: Any, **kwargs: Any
) -> Any:
    """The same of a layer, whose own states, the first thing it puts out, are laid end to end."""
    output = apart(forward, streams, states, *args, **kwargs)
    return (output[0].flatten(2), *output[1:]) if isinstance(output, tuple) else output.flatten(2)
