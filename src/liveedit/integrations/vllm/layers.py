"""Runs vLLM's lower layers on whole texts at once, without a cache and apart from its steps."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from vllm.forward_context import set_forward_context

__all__ = ["Embedded", "Sees", "run"]

Sees = Callable[[str, Tensor], None]
"""Is shown the states (N, D) at a site."""


class Embedded(NamedTuple):
    """Texts at the input of the first layer, the N tokens of all of them in one axis.

    Arguments:
        states: Their embeddings, those of images included, (N, D).
        positions: Their positions within the texts, (N,) or (3, N).
        added: What is added to the outputs of the first n layers (n, N, D): Qwen3-VL puts further
            features of images there.
    """

    states: Tensor
    positions: Tensor
    added: Tensor

    @classmethod
    def cat(cls, parts: "Sequence[Embedded]") -> "Embedded":
        """Texts one after the other."""
        states, positions, added = zip(*parts, strict=True)
        return cls(torch.cat(states), torch.cat(positions, -1), torch.cat(added, 1))


@torch.inference_mode()
def run(
    runner: Any, decoder: Any, given: Embedded, lengths: Sequence[int], layer: int, sees: Sees
) -> Tensor:
    """The output (N, D) of a layer, for texts of these lengths; -1 is the first layer's input."""
    hidden = given.states
    sees("layers.0@input", hidden)
    residual = None
    output = hidden
    with ExitStack() as undo:
        undo.enter_context(set_forward_context(None, runner.vllm_config, num_tokens=len(hidden)))
        for number, each in enumerate(decoder.layers[: layer + 1]):
            undo.enter_context(_without_cache(each.self_attn, lengths))
            hidden, residual = type(each).forward(each, given.positions, hidden, residual)
            output = hidden + residual
            sees(f"layers.{number}", output)
            if number < len(given.added):
                hidden = hidden + given.added[number]
    return output


class TextAttention(nn.Module):
    """Causal attention within each of several texts, whose tokens follow each other.

    Stands in for vLLM's ``attn``, which has the sizes, while texts are read without a cache.
    """

    def __init__(self, attn: Any, lengths: Sequence[int]) -> None:
        super().__init__()
        self.heads = attn.num_heads
        self.kv_heads = attn.num_kv_heads
        self.scale = attn.impl.scale
        self.lengths = list(lengths)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, **_: Any) -> Tensor:
        """The attended values (N, heads · d) of the tokens' queries, keys and values."""
        heads = (self.heads, self.kv_heads, self.kv_heads)
        parts = [
            torch.split(part.view(len(part), count, -1), self.lengths)  # type: ignore[no-untyped-call]
            for part, count in zip((query, key, value), heads, strict=True)
        ]
        return torch.cat([self.attend(*text) for text in zip(*parts, strict=True)])

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """The same for one text of T tokens, each (T, heads, d)."""
        query, key, value = (part.transpose(0, 1)[None] for part in (query, key, value))
        found = F.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=self.scale, enable_gqa=True
        )
        return found[0].transpose(0, 1).flatten(1)


@contextmanager
def _without_cache(attention: Any, lengths: Sequence[int]) -> Iterator[None]:
    """Within the block, an attention module attends within texts of these lengths."""
    own = attention.attn
    attention.attn = TextAttention(own, lengths)
    try:
        yield
    finally:
        attention.attn = own
