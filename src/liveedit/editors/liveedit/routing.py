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

from liveedit.editors.common.attention import Part, own_similarity, similarity
from liveedit.editors.common.extractors import InputExtractor
from liveedit.models.batch import Scores

__all__ = ["Comparison", "Routing", "compare", "reach", "residual", "soft_routing"]


class Comparison(NamedTuple):
    """The similarity of each row to every expert and to the sentinel.

    Arguments:
        vision: ⟨φ̄, φ̂⟩ of row and expert, (B, E).
        sentinel: ⟨φ̄, φ̄_Θ⟩ of row and sentinel, (B,).
        text: z = ⟨ψ̄, ψ̂⟩ of row and expert, (B, E).
    """

    vision: Tensor
    sentinel: Tensor
    text: Tensor

    @property
    def above(self) -> Tensor:
        """How far each expert is above the sentinel, (B, E).

        The hard filter, Eq. 5, compares it with 0, or with a margin (``ExpertEditor.keeps``).
        """
        return self.vision - self.sentinel[:, None]


def compare(
    features: InputExtractor, image: Part, prompt: Part, vision_keys: Tensor, text_keys: Tensor
) -> Comparison:
    """Compare inputs with experts.

    ``features`` is the extractor of the input side, ``image`` and ``prompt`` are the rows' hidden
    states, ``vision_keys`` φ̂ and ``text_keys`` ψ̂, each (E, k, d_m), are those of the experts.
    """
    phi = features.vision_key(image, prompt)
    return Comparison(
        vision=similarity(phi, vision_keys),
        sentinel=own_similarity(phi, features.sentinel_key(prompt)),
        text=similarity(features.text_key(prompt), text_keys),
    )


@dataclass(frozen=True, slots=True)
class Routing:
    """The router's decision for each row.

    Arguments:
        vision: Similarity in φ to every expert, (B, E).
        sentinel: Similarity in φ to the sentinel, (B,).
        keep: The experts that act, boolean (B, E).
        weight: Their fusion weights, (B, E), 0 for experts that do not act.
        scores: How near each row came to every expert.
    """

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
        weight, expert = self.weight.masked_fill(~self.keep, -1.0).topk(most, dim=1)
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
