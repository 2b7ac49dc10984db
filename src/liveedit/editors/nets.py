"""The networks and the routing arithmetic of LiveEdit (Chen et al., CVPR 2025), on tensors alone.

Shapes: B rows, T tokens, E experts, D width of the text decoder, d_m module width, r rank, k query vectors a feature.
Letters and equation numbers are the paper's: φ vision key, ψ text key, Θ vision sentinel, U and V the two factors of an
expert, a hat for the side of the edit and a bar for the side of the input.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from liveedit.models.batch import HiddenBatch, Spans

__all__ = [
    "CrossAttention",
    "FeatureExtractor",
    "InputExtractor",
    "Part",
    "ReleasedGenerator",
    "cut",
    "image_and_prompt",
    "own_similarity",
    "residual",
    "similarity",
    "soft_routing",
]


@dataclass(frozen=True, slots=True)
class Part:
    """One stretch of every row: ``states`` (B, n, D), and ``mask`` (B, n) saying which of them the row really has."""

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
    """The half-open token range of each row, out of ``hidden`` (B, T, D). An empty range gives a part of no states."""
    bounds = torch.tensor(ranges, device=hidden.device)
    start, stop = bounds[:, :1], bounds[:, 1:]
    length = max(1, max(last - first for first, last in ranges))
    places = start + torch.arange(length, device=hidden.device)
    rows = torch.arange(len(hidden), device=hidden.device)[:, None]
    return Part(hidden[rows, places.clamp(max=hidden.shape[1] - 1)].float(), places < stop)


def image_and_prompt(hidden: Tensor, spans: Sequence[Spans]) -> tuple[Part, Part]:
    """h_v and h_p: each row's image tokens, and its text from there up to and with the last prompt token."""
    return cut(hidden, [span.image for span in spans]), cut(hidden, [span.prompt for span in spans])


def learned(*shape: int) -> nn.Parameter:
    """Trainable vectors (1, *shape), initialised as released."""
    return nn.Parameter(nn.init.kaiming_normal_(torch.empty(1, *shape)))


class CrossAttention(nn.Module):
    """CA(x, y), Eq. 2, as released: several heads, scaled, with biases, no output projection and no residual."""

    def __init__(self, module_dim: int, states: int, out: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(module_dim, module_dim)
        self.key = nn.Linear(states, module_dim)
        self.value = nn.Linear(states, out)

    def forward(self, x: Tensor, y: Part) -> Tensor:
        """(B, n, out) from ``x`` (B, n, d_m) that attends to ``y``; either side may have one row for all."""
        q, k, v = self.query(x), self.key(y.states), self.value(y.states)
        rows = max(len(q), len(k))
        q, k, v = (z.unflatten(-1, (self.heads, -1)).transpose(1, 2).expand(rows, -1, -1, -1) for z in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=y.mask[:, None, None, :]).transpose(1, 2).flatten(-2)


class FeatureExtractor(nn.Module):
    """f_fe, Eq. 3 and 4: what an edit or an input is about, seen in its image (φ) and read in its prompt (ψ)."""

    def __init__(self, hidden_size: int, module_dim: int, heads: int, queries: int) -> None:
        super().__init__()
        self.vision_norm, self.text_norm = nn.LayerNorm(hidden_size), nn.LayerNorm(hidden_size)
        self.phi, self.psi = learned(queries, module_dim), learned(queries, module_dim)
        self.ask = CrossAttention(module_dim, hidden_size, module_dim, heads)
        self.look = CrossAttention(module_dim, hidden_size, module_dim, heads)
        self.read = CrossAttention(module_dim, hidden_size, module_dim, heads)

    def vision_key(self, image: Part, prompt: Part) -> Tensor:
        """φ (B, k, d_m) = CA_φ2(CA_φ1(φ, h_p), h_v)."""
        question = self.ask(self.phi, prompt.map(self.vision_norm))
        return self.look(question, image.map(self.vision_norm))  # type: ignore[no-any-return]

    def text_key(self, prompt: Part) -> Tensor:
        """ψ (B, k, d_m) = CA_ψ(ψ, h_p)."""
        return self.read(self.psi, prompt.map(self.text_norm))  # type: ignore[no-any-return]


class InputExtractor(FeatureExtractor):
    """The feature extractor of the input side, which also holds the vision sentinel Θ (1, N_v, D)."""

    def __init__(self, hidden_size: int, module_dim: int, heads: int, queries: int, image_tokens: int) -> None:
        super().__init__(hidden_size, module_dim, heads, queries)
        self.sentinel = learned(image_tokens, hidden_size)

    def sentinel_key(self, prompt: Part) -> Tensor:
        """φ_Θ (B, k, d_m), the vision key of the sentinel under each row's own prompt (after Eq. 5)."""
        everywhere = torch.ones(self.sentinel.shape[:2], dtype=torch.bool, device=self.sentinel.device)
        return self.vision_key(Part(self.sentinel, everywhere), prompt)


class LowRank(nn.Module):
    """CA(x, h) of Eq. 1 for one factor of an expert: r rows of width D."""

    def __init__(self, hidden_size: int, module_dim: int, heads: int, rank: int, scale: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size)
        self.rows = learned(rank, module_dim)
        self.attention = CrossAttention(module_dim, hidden_size, hidden_size, heads)
        self.factor = 1 / (scale * sqrt(rank))

    def forward(self, signal: Part) -> Tensor:
        """(B, r, D), scaled by 1 / (scale √r)."""
        return self.factor * self.attention(self.rows, signal.map(self.norm))  # type: ignore[no-any-return]


class ReleasedGenerator(nn.Module):
    """f_eg, Eq. 1: an expert from what the edit layer holds of image, prompt and answer; U and V attend separately."""

    def __init__(self, hidden_size: int, module_dim: int, heads: int, rank: int, scale: float) -> None:
        super().__init__()
        self.expert_in = LowRank(hidden_size, module_dim, heads, rank, scale)
        self.expert_out = LowRank(hidden_size, module_dim, heads, rank, scale)

    def forward(self, hidden: HiddenBatch, words: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """U and V, each (B, r, D), of the edits whose states at the edit layer are ``hidden``.

        ``words``, the model's output embedding, is for generators that read it; this one does not.
        """
        signal = cut(hidden.hidden, [(span.image[0], span.answer[1]) for span in hidden.spans])
        return self.expert_in(signal), self.expert_out(signal)


def similarity(a: Tensor, b: Tensor) -> Tensor:
    """(B, E) between keys ``a`` (B, k, d_m) and ``b`` (E, k, d_m): the mean over k of ⟨a_j, b_j⟩ / √d_m."""
    return a.flatten(1) @ b.flatten(1).T / (a.shape[1] * sqrt(a.shape[2]))


def own_similarity(a: Tensor, b: Tensor) -> Tensor:
    """(B,), the similarity of each key of ``a`` (B, k, d_m) to the one in the same row of ``b`` (B, k, d_m)."""
    return (a * b).sum((1, 2)) / (a.shape[1] * sqrt(a.shape[2]))


def soft_routing(z: Tensor, keep: Tensor) -> Tensor:
    """Eq. 7: σ(z) times the softmax of z over the experts kept, 0 elsewhere. ``z`` and ``keep`` are (B, E)."""
    relative = z.masked_fill(~keep, torch.finfo(z.dtype).min).softmax(-1)
    return torch.where(keep, relative * z.sigmoid(), 0.0)


def residual(x: Tensor, U: Tensor, V: Tensor, weight: Tensor) -> Tensor:
    """Σ w ρ(x Uᵀ) V, the sum in Eq. 6, (B, T, D).

    ``x`` (B, T, D) is the normalised state, ``weight`` (B, E) each expert's fusion weight in each row. ``U`` and ``V``
    are (E, r, D) where all rows choose from the same experts, (B, E, r, D) where each has its own.
    """
    activation = F.relu(x @ U.flatten(-3, -2).transpose(-1, -2))
    spread = weight.repeat_interleave(U.shape[-2], -1)
    return (activation * spread[:, None]) @ V.flatten(-3, -2)
