"""Hyper-connections: several residual streams for each token (Zhu et al., ICLR 2025; mHC: Xie et
al., 2025).

Editors read a layer's output as one vector per token, (B, T, streams · D). Layers that keep the
streams apart, (B, T, streams, D), are wrapped to take and return that form; the rest of their
computation is unchanged.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

__all__ = ["apart_at_first", "count", "end_to_end", "join"]

NAMES = ("hc_count", "hc_mult")
"""Names of a configuration's setting for the number of streams."""


def count(config: Any) -> int:
    """The number of residual streams in the text decoder of this configuration."""
    return next((int(getattr(config, name)) for name in NAMES if hasattr(config, name)), 1)


def apart_at_first(decoder: Any) -> bool:
    """Whether the decoder keeps the streams apart, in separate axes.

    This can be seen at its first layer's input, even after :func:`join`.
    """
    return hasattr(decoder, "hc_head")


def join(decoder: Any, streams: int) -> None:
    """Make the decoder's layers take and return streams end to end, if it keeps them apart."""
    if apart_at_first(decoder):
        for layer in decoder.layers:
            layer.forward = partial(joined, layer.forward, streams)
        decoder.hc_head.forward = partial(apart, decoder.hc_head.forward, streams)


def apart(
    forward: Callable[..., Any], streams: int, states: Tensor, *args: Any, **kwargs: Any
) -> Any:
    """Call ``forward`` with the states as (B, T, streams, D); they may come end to end."""
    return forward(states.reshape(*states.shape[:2], streams, -1), *args, **kwargs)


def end_to_end(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """A layer's arguments with streams (B, T, streams, D) of the first laid end to end."""
    states, *rest = args
    return (states.flatten(2), *rest) if states.ndim == 4 else args


def joined(
    forward: Callable[..., Any], streams: int, states: Tensor, *args: Any, **kwargs: Any
) -> Any:
    """Call a layer's ``forward`` as :func:`apart`, and lay the streams of its output end to end."""
    output = apart(forward, streams, states, *args, **kwargs)
    if isinstance(output, tuple):
        return (output[0].flatten(2), *output[1:])
    return output.flatten(2)
