"""The expert generator of LiveEdit (Chen et al., CVPR 2025, Eq. 1), as released.

Shapes: B edits, T tokens, D width of the text decoder, d_m module width, r rank.
"""

from math import sqrt

from torch import Tensor, nn

from liveedit.editors.common.attention import CrossAttention, Part, cut, learned
from liveedit.models.batch import HiddenBatch

__all__ = ["ReleasedGenerator"]


class LowRank(nn.Module):
    """CA(x, h) of Eq. 1 for one factor of an expert: r rows of width D."""

    def __init__(
        self, hidden_size: int, module_dim: int, heads: int, rank: int, scale: float
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size)
        self.rows = learned(rank, module_dim)
        self.attention = CrossAttention(module_dim, hidden_size, hidden_size, heads)
        self.factor = 1 / (scale * sqrt(rank))

    def forward(self, signal: Part) -> Tensor:
        """One factor (B, r, D) of each edit's expert, scaled by 1 / (scale √r)."""
        return self.factor * self.attention(self.rows, signal.map(self.norm))  # type: ignore[no-any-return]


class ReleasedGenerator(nn.Module):
    """f_eg, Eq. 1: an expert from the hidden states of image, prompt and answer.

    U and V have cross-attentions of their own.
    """

    def __init__(
        self, hidden_size: int, module_dim: int, heads: int, rank: int, scale: float
    ) -> None:
        super().__init__()
        self.expert_in = LowRank(hidden_size, module_dim, heads, rank, scale)
        self.expert_out = LowRank(hidden_size, module_dim, heads, rank, scale)

    def forward(self, hidden: HiddenBatch, words: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """U and V, each (B, r, D), of edits with the states ``hidden`` at the edit layer.

        ``words`` (V, D), the model's output embedding, is for generators that read it.
        """
        signal = cut(hidden.hidden, [(span.image[0], span.answer[1]) for span in hidden.spans])
        return self.expert_in(signal), self.expert_out(signal)
