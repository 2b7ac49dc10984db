"""LiveEdit's routing: which experts fire for an input (Eq. 5 and 7), and what they add (Eq. 6).

Letters and equation numbers are those of Chen et al., CVPR 2025: φ is a vision key, ψ a text key, Θ
the vision sentinel, U and V are the two factors of an expert. A hat marks the side of the edit, a
bar the side of the input.

Shapes: B rows, T tokens, E experts in the patch, n experts that one row keeps at most, D width of
the text decoder, d_m width of keys, k vectors of a key, r rank.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from liveedit.editors.common.attention import Part, per_similarity
from liveedit.editors.common.extractors import InputExtractor
from liveedit.models.batch import Scores

__all__ = ["Asked", "Routing", "asked", "reach", "residual", "soft_routing"]


class Asked(NamedTuple):
    """The features of rows that routing compares with experts.

    Arguments:
        image: φ̄ divided so that its inner product with a key is their similarity, (B, k · d_m).
        question: ψ̄, in the same way.
        sentinel: ⟨φ̄, φ̄_Θ⟩, (B,).
        shown: The rows that have an image, boolean (B,); the others have no φ̄.
    """

    image: Tensor
    question: Tensor
    sentinel: Tensor
    shown: Tensor


def asked(features: InputExtractor, image: Part, prompt: Part) -> Asked:
    """The features of inputs whose hidden states are ``image`` and ``prompt``."""
    phi, sentinel = features.vision_key_and_sentinel(image, prompt)
    return Asked(
        image=per_similarity(phi),
        question=per_similarity(features.text_key(prompt)),
        sentinel=sentinel,
        shown=image.mask.any(1),
    )


@dataclass(frozen=True, slots=True)
class Routing:
    """The router's decision for each row.

    Arguments:
        edits: The experts that were compared with the rows, (n',); no other acts.
        vision: Similarity in φ to each of them, (B, n').
        sentinel: Similarity in φ to the sentinel, (B,).
        keep: Those that act, boolean (B, n').
        weight: Their fusion weights, (B, n'), 0 for experts that do not act.
        scores: How near each row came to each of them, where that is wanted.
    """

    edits: Tensor
    vision: Tensor
    sentinel: Tensor
    keep: Tensor
    weight: Tensor
    scores: list[Scores]

    def ranked(self) -> tuple[Tensor, Tensor]:
        """Experts and weights, each (B, n), the heaviest first.

        n is the largest number that any row keeps; a row that keeps fewer repeats its heaviest at
        the end, with weights of 0.
        """
        most = int(self.keep.sum(1).max())
        weight, place = self.weight.masked_fill(~self.keep, -1.0).topk(most, dim=1)
        expert = self.edits[place]
        return expert.where(weight >= 0.0, expert[:, :1]), weight.clamp(min=0.0)


def soft_routing(z: Tensor, keep: Tensor) -> Tensor:
    """Eq. 7: σ(z) times the softmax of z over the experts kept, 0 for all others.

    ``z`` and ``keep`` are (B, E).
    """
    relative = z.masked_fill(~keep, torch.finfo(z.dtype).min).softmax(-1)
    return torch.where(keep, relative * z.sigmoid(), 0.0)


def residual(x: Tensor, U: Tensor, V: Tensor, weight: Tensor) -> Tensor:
    """The sum in Eq. 6, Σ w ρ(x Uᵀ) V, (B, T, D).

    ``x`` (B, T, D) is the normalised state, ``weight`` (B, E) holds each expert's fusion weight in
    each row. ``U`` and ``V`` are (E, r, D) where all rows choose from the same experts, or
    (B, E, r, D) where each row has its own.
    """
    activation = F.relu(x @ U.flatten(-3, -2).transpose(-1, -2))
    spread = weight.repeat_interleave(U.shape[-2], -1)
    return (activation * spread[:, None]) @ V.flatten(-3, -2)


def reach(first: Tensor, like: Tensor, start: int = 0) -> Tensor:
    """1 from each row's token ``first`` (B,) on and 0 before, (B, T, 1), for residuals ``like``
    (B, T, D) whose first token is the token ``start`` of the rows.
    """
    columns = torch.arange(like.shape[1], device=like.device) + start
    return (columns >= first.to(like.device)[:, None]).to(like.dtype)[..., None]
