"""Building blocks of networks that read hidden states: stretches of rows, cross-attention,
similarity of keys.

Shapes: B rows, T tokens, E experts, D width of the text decoder, d_m module width, k query vectors
a feature. The attention is LiveEdit's (Chen et al., CVPR 2025, Eq. 2), as released.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from liveedit.models.batch import Spans

__all__ = [
    "CrossAttention",
    "Part",
    "cut",
    "image_and_prompt",
    "learned",
    "own_similarity",
    "similarity",
]


@dataclass(frozen=True, slots=True)
class Part:
    """One stretch of every row: ``states`` (B, n, D), and ``mask`` (B, n) saying which of them the
    row really has.
    """

    states: Tensor
    mask: Tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> "Part":
        """The same stretch with ``function`` applied to its states."""
        return Part(function(self.states), self.mask)

    def drop(self, share: float, generator: torch.Generator) -> "Part":
        """Without a random ``share`` of each row's states; the last one is always kept."""
        places = torch.arange(self.mask.shape[1], device=self.mask.device)
        last = places == self.mask.sum(1, keepdim=True) - 1
        kept = torch.rand(self.mask.shape, generator=generator).to(self.mask.device) >= share
        return Part(self.states, self.mask & (kept | last))

    def pick(self, rows: Tensor) -> "Part":
        """The stretches of some rows, by their indices."""
        return Part(self.states[rows], self.mask[rows])


def cut(hidden: Tensor, ranges: Sequence[tuple[int, int]]) -> Part:
    """The half-open token range of each row, out of ``hidden`` (B, T, D). An empty range gives a
    part of no states.
    """
    bounds = torch.tensor(ranges, device=hidden.device)
    start, stop = bounds[:, :1], bounds[:, 1:]
    length = max(1, max(last - first for first, last in ranges))
    places = start + torch.arange(length, device=hidden.device)
    rows = torch.arange(len(hidden), device=hidden.device)[:, None]
    return Part(hidden[rows, places.clamp(max=hidden.shape[1] - 1)].float(), places < stop)


def image_and_prompt(hidden: Tensor, spans: Sequence[Spans]) -> tuple[Part, Part]:
    """h_v and h_p: each row's image tokens, and its text from there up to and with the last prompt
    token.
    """
    return cut(hidden, [span.image for span in spans]), cut(hidden, [span.prompt for span in spans])


def learned(*shape: int) -> nn.Parameter:
    """Trainable vectors (1, *shape), initialised as released."""
    return nn.Parameter(nn.init.kaiming_normal_(torch.empty(1, *shape)))


class CrossAttention(nn.Module):
    """CA(x, y), Eq. 2, as released: several heads, scaled, with biases, no output projection and no
    residual.
    """

    def __init__(self, module_dim: int, states: int, out: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(module_dim, module_dim)
        self.key = nn.Linear(states, module_dim)
        self.value = nn.Linear(states, out)

    def forward(self, x: Tensor, y: Part) -> Tensor:
        """(B, n, out) from ``x`` (B, n, d_m) that attends to ``y``; either side may have one row
        for all.
        """
        q, k, v = self.query(x), self.key(y.states), self.value(y.states)
        rows = max(len(q), len(k))
        q, k, v = (
            z.unflatten(-1, (self.heads, -1)).transpose(1, 2).expand(rows, -1, -1, -1)
            for z in (q, k, v)
        )
        return (
            F.scaled_dot_product_attention(q, k, v, attn_mask=y.mask[:, None, None, :])
            .transpose(1, 2)
            .flatten(-2)
        )


def similarity(a: Tensor, b: Tensor) -> Tensor:
    """(B, E) between keys ``a`` (B, k, d_m) and ``b`` (E, k, d_m): the mean over k of ⟨a_j, b_j⟩ /
    √d_m.
    """
    return a.flatten(1) @ b.flatten(1).T / (a.shape[1] * sqrt(a.shape[2]))


def own_similarity(a: Tensor, b: Tensor) -> Tensor:
    """(B,), the similarity of each key of ``a`` (B, k, d_m) to the one in the same row of ``b`` (B,
    k, d_m).
    """
    return (a * b).sum((1, 2)) / (a.shape[1] * sqrt(a.shape[2]))
