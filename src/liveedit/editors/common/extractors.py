"""Feature extractors: keys of an input or an edit, of its image and of its question.

LiveEdit (Chen et al., CVPR 2025, Eq. 3 and 4) has two, :class:`FeatureExtractor` for edits and
:class:`InputExtractor` for inputs, and compares their keys by plain inner products. Training has to
learn when an input resembles an edit, and what it learns on a few hundred things generalises badly
to others (docs/explanation/lab-log.md).

:class:`UnitKeyExtractor`, used by pinpoint and SERAC, serves both sides, so that even untrained an
input equal to an edit has the same keys. With φ and ψ the concatenated k vectors of a key divided
by their length,

    m = s_φ (⟨φ̄, φ̂⟩ − ⟨φ̄, φ̄_Θ⟩)        above 0 the expert passes the filter (Eq. 5)
    z = s_ψ (⟨ψ̄, ψ̂⟩ − ⟨ψ̄, τ⟩)           weighed by Eq. 7

where τ is a sentinel for the text: without it z could not be negative for all unrelated edits,
because both sides share the extractor. s_φ, s_ψ and τ are learned. Scales and τ are part of the
keys, so that the router is the released one.

Shapes: B rows, D width of the text decoder, d_m module width, k vectors per key.
"""

from math import log, sqrt

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from liveedit.editors.common.attention import CrossAttention, Part, learned, own_similarity
from liveedit.models.vlm import VLM
from liveedit.types import Query

__all__ = [
    "SCALE",
    "EditSide",
    "FeatureExtractor",
    "InputExtractor",
    "UnitKeyExtractor",
    "image_tokens",
]

SCALE = 20.0
"""Initial value of s_φ and s_ψ."""


class FeatureExtractor(nn.Module):
    """f_fe, Eq. 3 and 4: the vision key φ and the text key ψ of an edit or an input."""

    def __init__(self, hidden_size: int, module_dim: int, heads: int, queries: int) -> None:
        super().__init__()
        self.vision_norm = nn.LayerNorm(hidden_size)
        self.text_norm = nn.LayerNorm(hidden_size)
        self.phi = learned(queries, module_dim)
        self.psi = learned(queries, module_dim)
        self.ask = CrossAttention(module_dim, hidden_size, module_dim, heads)
        self.look = CrossAttention(module_dim, hidden_size, module_dim, heads)
        self.read = CrossAttention(module_dim, hidden_size, module_dim, heads)

    def vision_key(self, image: Part, prompt: Part) -> Tensor:
        """φ (B, k, d_m) = CA_φ2(CA_φ1(φ, h_p), h_v)."""
        return self.seen(image, self.question(prompt))

    def question(self, prompt: Part) -> Tensor:
        """CA_φ1(φ, h_p) (B, k, d_m): what a prompt asks of an image."""
        return self.ask(self.phi, prompt.map(self.vision_norm))  # type: ignore[no-any-return]

    def seen(self, image: Part, question: Tensor) -> Tensor:
        """φ (B, k, d_m), what such a ``question`` (B, k, d_m) sees in an image."""
        return self.look(question, image.map(self.vision_norm))  # type: ignore[no-any-return]

    def text_key(self, prompt: Part) -> Tensor:
        """ψ (B, k, d_m) = CA_ψ(ψ, h_p)."""
        return self.read(self.psi, prompt.map(self.text_norm))  # type: ignore[no-any-return]


class InputExtractor(FeatureExtractor):
    """The extractor of the input side, which also holds the vision sentinel Θ (1, N_v, D)."""

    def __init__(
        self, hidden_size: int, module_dim: int, heads: int, queries: int, image_tokens: int
    ) -> None:
        super().__init__(hidden_size, module_dim, heads, queries)
        self.sentinel = learned(image_tokens, hidden_size)

    def vision_key_and_sentinel(self, image: Part, prompt: Part) -> tuple[Tensor, Tensor]:
        """φ̄ (B, k, d_m), and ⟨φ̄, φ̄_Θ⟩ (B,), how near it is to the sentinel."""
        question = self.question(prompt)
        phi = self.seen(image, question)
        return phi, own_similarity(phi, self.sentinel_key(question))

    def sentinel_key(self, question: Tensor) -> Tensor:
        """φ_Θ (B, k, d_m), the sentinel's vision key under each row's own prompt (after Eq. 5).

        Of the prompt it takes what that asks, see :meth:`question`.
        """
        shape = self.sentinel.shape[:2]
        everywhere = torch.ones(shape, dtype=torch.bool, device=self.sentinel.device)
        return self.seen(Part(self.sentinel, everywhere), question)


class UnitKeyExtractor(InputExtractor):
    """One extractor for inputs and edits, whose keys all have the same length."""

    def __init__(
        self, hidden_size: int, module_dim: int, heads: int, queries: int, image_tokens: int
    ) -> None:
        super().__init__(hidden_size, module_dim, heads, queries, image_tokens)
        self.vision_scale = nn.Parameter(torch.tensor(log(SCALE)))
        self.text_scale = nn.Parameter(torch.tensor(log(SCALE)))
        self.terms = queries * sqrt(module_dim)  # `similarity` divides by it

    def seen(self, image: Part, question: Tensor) -> Tensor:
        """φ (B, k, d_m), of the length at which `similarity` gives s_φ times the cosine."""
        return _unit(super().seen(image, question)) * self.length(self.vision_scale)

    def text_key(self, prompt: Part) -> Tensor:
        """ψ (B, k, d_m), of the length at which `similarity` gives s_ψ times the cosine."""
        return _unit(super().text_key(prompt)) * self.length(self.text_scale)

    def length(self, scale: Tensor) -> Tensor:
        """The length of keys whose cosine is to be multiplied by exp(``scale``)."""
        return (scale.exp() * self.terms).sqrt()


class EditSide(nn.Module):
    """The edits' side of a :class:`UnitKeyExtractor`: its keys, and τ (1, k, d_m), initially 0."""

    def __init__(self, inputs: UnitKeyExtractor) -> None:
        super().__init__()
        self._inputs = (inputs,)  # in a tuple, so that its weights are not registered twice
        self.sentinel = nn.Parameter(torch.zeros(1, *inputs.psi.shape[1:]))

    def vision_key(self, image: Part, prompt: Part) -> Tensor:
        """φ̂ (B, k, d_m), as on the other side."""
        return self._inputs[0].vision_key(image, prompt)

    def text_key(self, prompt: Part) -> Tensor:
        """ψ̂ − τ (B, k, d_m)."""
        inputs = self._inputs[0]
        return inputs.text_key(prompt) - self.sentinel * inputs.length(inputs.text_scale)


def image_tokens(vlm: VLM) -> int:
    """N_v: the number of tokens that the VLM gives an image of 336 × 336 pixels."""
    query = Query("?", image=Image.new("RGB", (336, 336)))
    start, stop = vlm.encode([query]).spans[0].image
    return stop - start


def _unit(key: Tensor) -> Tensor:
    """A key (B, k, d_m) divided by its length over all k vectors."""
    return F.normalize(key.flatten(1), dim=-1).view_as(key)
