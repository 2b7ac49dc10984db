"""Building blocks of networks that read hidden states: spans of rows, cross-attention, similarity.

The attention is that of LiveEdit (Chen et al., CVPR 2025, Eq. 2), as released.

Shapes: B rows, T tokens, E edits, D width of the text decoder, d_m module width, k vectors per key.
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
    "per_similarity",
    "similarity",
    "with_image",
]


@dataclass(frozen=True, slots=True)
class Part:
    """One span of every row, such as its image, padded to the longest.

    Arguments:
        states: Hidden states, (B, n, D).
        mask: Which of them belong to the span, boolean (B, n).
    """

    states: Tensor
    mask: Tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> "Part":
        """The same span with ``function`` applied to its states."""
        return Part(function(self.states), self.mask)

    def drop(self, share: float, generator: torch.Generator) -> "Part":
        """The span without a random ``share`` of each row's states; the last one is always kept."""
        columns = torch.arange(self.mask.shape[1], device=self.mask.device)
        last = columns == self.mask.sum(1, keepdim=True) - 1
        kept = torch.rand(self.mask.shape, generator=generator).to(self.mask.device) >= share
        return Part(self.states, self.mask & (kept | last))

    def pick(self, rows: Tensor) -> "Part":
        """The spans of some rows, by their indices."""
        return Part(self.states[rows], self.mask[rows])


def cut(hidden: Tensor, ranges: Sequence[tuple[int, int]]) -> Part:
    """Cut a half-open range of tokens out of each row of ``hidden`` (B, T, D).

    An empty range gives a row whose mask is false everywhere.
    """
    bounds = torch.tensor(ranges, device=hidden.device)
    start = bounds[:, :1]
    stop = bounds[:, 1:]
    length = max(1, max(last - first for first, last in ranges))
    columns = start + torch.arange(length, device=hidden.device)
    rows = torch.arange(len(hidden), device=hidden.device)[:, None]
    states = hidden[rows, columns.clamp(max=hidden.shape[1] - 1)].float()
    return Part(states, columns < stop)


def image_and_prompt(hidden: Tensor, spans: Sequence[Spans]) -> tuple[Part, Part]:
    """h_v and h_p: each row's image tokens, and its text from there to the last prompt token."""
    image = cut(hidden, [span.image for span in spans])
    prompt = cut(hidden, [span.prompt for span in spans])
    return image, prompt


def with_image(spans: Sequence[Spans], device: torch.device) -> Tensor:
    """The rows that have an image, boolean (B,)."""
    return torch.tensor([span.has_image for span in spans], device=device)


def learned(*shape: int) -> nn.Parameter:
    """Trainable vectors (1, *shape), initialised as released."""
    return nn.Parameter(nn.init.kaiming_normal_(torch.empty(1, *shape)))


class CrossAttention(nn.Module):
    """CA(x, y), Eq. 2, as released: several heads, scaled, with biases.

    It has neither an output projection nor a residual connection.
    """

    def __init__(self, module_dim: int, states: int, out: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(module_dim, module_dim)
        self.key = nn.Linear(states, module_dim)
        self.value = nn.Linear(states, out)

    def forward(self, x: Tensor, y: Part) -> Tensor:
        """Attend from ``x`` (B, n, d_m) to ``y``: (B, n, out).

        Either side may have a single row for all rows of the other.
        """
        rows = max(len(x), len(y.states))
        q = self._heads(self.query(x), rows)
        k = self._heads(self.key(y.states), rows)
        v = self._heads(self.value(y.states), rows)
        mask = y.mask[:, None, None, :]
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return attended.transpose(1, 2).flatten(-2)

    def _heads(self, z: Tensor, rows: int) -> Tensor:
        """``z`` (·, n, width) split into heads: (rows, heads, n, width / heads)."""
        split = z.view(*z.shape[:-1], self.heads, -1)
        return split.transpose(1, 2).expand(rows, -1, -1, -1)


def similarity(a: Tensor, b: Tensor) -> Tensor:
    """The mean over k of ⟨a_j, b_j⟩ / √d_m between all keys ``a`` and ``b``: (B, E).

    ``a`` is (B, k, d_m), ``b`` (E, k, d_m).
    """
    return a.flatten(1) @ b.flatten(1).T / (a.shape[1] * sqrt(a.shape[2]))


def per_similarity(a: Tensor) -> Tensor:
    """Keys ``a`` (B, k, d_m) as vectors (B, k · d_m) whose inner products are similarities."""
    return a.flatten(1) / (a.shape[1] * sqrt(a.shape[2]))


def own_similarity(a: Tensor, b: Tensor) -> Tensor:
    """The :func:`similarity` (B,) of each key of ``a`` to the one in the same row of ``b``.

    Both are (B, k, d_m).
    """
    return (a * b).sum((1, 2)) / (a.shape[1] * sqrt(a.shape[2]))
