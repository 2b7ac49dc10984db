"""The aligned expert generator: one row of U and V for each token of the answer.

The released generator (Eq. 1) attends to the edit's states as a set, and training has to find out
which row should fire where and what it should write. Here row j of an expert belongs to token j of
the answer. It is computed from

    h[s_j]   the state just before that token, where the token is predicted: U_j fires there
    h[a_j]   the state at the token itself
    w[a_j]   the token's output embedding: V_j writes in that direction
    j        its position in the answer
    CA       cross-attention of the row to image, prompt and answer (Eq. 2)

as U_j = K(z_j) + A h[s_j] and V_j = O(z_j) + C w[a_j], where z_j is the sum of projections of all
five, and K, O are two-layer perceptrons. The rank of an expert is thus the greatest length of an
answer (its end included); rows without a token are zero and never fire.

Shapes: B edits, n tokens of the longest answer, r rank, D width of the text decoder.
"""

import torch
from torch import Tensor, nn

from liveedit.editors.common.attention import CrossAttention, Part, cut
from liveedit.errors import BadInput
from liveedit.models.batch import HiddenBatch

__all__ = ["AlignedGenerator"]


class AlignedGenerator(nn.Module):
    """f_eg with rows aligned to the tokens of the answer, which has at most ``rank`` of them."""

    def __init__(
        self, hidden_size: int, module_dim: int, heads: int, rank: int, scale: float
    ) -> None:
        super().__init__()
        self.rank = rank
        self.state_norm = nn.LayerNorm(hidden_size)
        self.word_norm = nn.LayerNorm(hidden_size)
        self.place = nn.Embedding(rank, module_dim)
        self.before = nn.Linear(hidden_size, module_dim)
        self.there = nn.Linear(hidden_size, module_dim)
        self.word = nn.Linear(hidden_size, module_dim)
        self.context = CrossAttention(module_dim, hidden_size, module_dim, heads)
        self.key = _perceptron(module_dim, hidden_size)
        self.value = _perceptron(module_dim, hidden_size)
        self.carry_state = _identity(hidden_size, scale / hidden_size)
        self.carry_word = _identity(hidden_size, 0.1 * scale)

    def forward(self, hidden: HiddenBatch, words: Tensor) -> tuple[Tensor, Tensor]:
        """U and V, each (B, r, D), of edits with the states ``hidden`` at the edit layer.

        ``words`` (V, D) is the model's output embedding. Raises :class:`BadInput` for an answer
        longer than the rank.
        """
        lengths = [span.answer[1] - span.answer[0] for span in hidden.spans]
        if max(lengths) > self.rank:
            raise BadInput(
                f"the answer has {max(lengths)} tokens, but this editor was trained for at most "
                f"{self.rank}: shorten it, or take an editor without such a limit, such as direct"
            )
        states = self.state_norm(hidden.hidden.float())
        before = cut(states, [(span.answer[0] - 1, span.answer[1] - 1) for span in hidden.spans])
        there = cut(states, [span.answer for span in hidden.spans])
        tokens = self._tokens(hidden, there).to(words.device)
        word = self.word_norm(words[tokens].to(states))
        signal = cut(states, [(span.image[0], span.answer[1]) for span in hidden.spans])
        z = self.before(before.states) + self.there(there.states) + self.word(word)
        z = z + self.place.weight[: z.shape[1]]
        z = z + self.context(z, signal)
        U = self._padded(self.key(z) + self.carry_state(before.states), there)
        V = self._padded(self.value(z) + self.carry_word(word), there)
        return U, V

    def _tokens(self, hidden: HiddenBatch, there: Part) -> Tensor:
        """Token ids (B, n) of the answers, 0 where there is none."""
        tokens = there.mask.new_zeros(there.mask.shape, dtype=torch.long)
        tokens[there.mask] = hidden.labels[hidden.labels >= 0]
        return tokens

    def _padded(self, rows: Tensor, there: Part) -> Tensor:
        """``rows`` (B, n, D) as (B, r, D), zero where there is no token."""
        missing = self.rank - rows.shape[1]
        return nn.functional.pad(rows * there.mask[..., None], (0, 0, 0, missing))


def _perceptron(module_dim: int, out: int) -> nn.Sequential:
    """Two layers; the second is small at first, so that the linear maps A and C dominate."""
    last = nn.Linear(2 * module_dim, out)
    with torch.no_grad():
        last.weight.mul_(0.1)
    return nn.Sequential(
        nn.LayerNorm(module_dim), nn.Linear(module_dim, 2 * module_dim), nn.GELU(), last
    )


def _identity(size: int, scale: float) -> nn.Linear:
    """A linear map that begins as ``scale`` times the identity."""
    linear = nn.Linear(size, size)
    with torch.no_grad():
        linear.weight.copy_(scale * torch.eye(size))
        linear.bias.zero_()
    return linear
