"""One metric for both sides of LiveEdit's routing: unit keys from one feature extractor, with
learned thresholds.

The released extractors (Eq. 3 and 4) are separate for edit and input and compare by plain inner
products; that an input resembles an edit has to be learned, and what is learned on some hundred
things carries over badly to others (docs/explanation/lab-log.md). Here an input that equals an edit
has its keys from the start. With φ and ψ the concatenated k vectors of a key divided by their length,

    m = s_φ (⟨φ̄, φ̂⟩ − ⟨φ̄, φ̄_Θ⟩)        above 0: the filter lets the expert through (Eq. 5)
    z = s_ψ (⟨ψ̄, ψ̂⟩ − ⟨ψ̄, τ⟩)           weighed by Eq. 7

where τ is a sentinel for the text: without it z could not be negative for all strangers of an
extractor that both sides share. s_φ, s_ψ and τ are learned. Scales and τ are folded into the keys,
so that the router is the released one.
"""

from math import log, sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from liveedit.editors.common.attention import CrossAttention, Part, learned

__all__ = ["SCALE", "EditSide", "FeatureExtractor", "InputExtractor", "MetricExtractor"]

SCALE = 20.0
"""s_φ and s_ψ at first."""


class FeatureExtractor(nn.Module):
    """f_fe, Eq. 3 and 4: what an edit or an input is about, seen in its image (φ) and read in its
    prompt (ψ).
    """

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

    def __init__(
        self, hidden_size: int, module_dim: int, heads: int, queries: int, image_tokens: int
    ) -> None:
        super().__init__(hidden_size, module_dim, heads, queries)
        self.sentinel = learned(image_tokens, hidden_size)

    def sentinel_key(self, prompt: Part) -> Tensor:
        """φ_Θ (B, k, d_m), the vision key of the sentinel under each row's own prompt (after Eq.
        5).
        """
        everywhere = torch.ones(
            self.sentinel.shape[:2], dtype=torch.bool, device=self.sentinel.device
        )
        return self.vision_key(Part(self.sentinel, everywhere), prompt)


class MetricExtractor(InputExtractor):
    """The feature extractor of the input side; all its keys have one length."""

    def __init__(
        self, hidden_size: int, module_dim: int, heads: int, queries: int, image_tokens: int
    ) -> None:
        super().__init__(hidden_size, module_dim, heads, queries, image_tokens)
        self.vision_scale, self.text_scale = (nn.Parameter(torch.tensor(log(SCALE))) for _ in "φψ")
        self.terms = queries * sqrt(module_dim)  # what `similarity` divides by

    def vision_key(self, image: Part, prompt: Part) -> Tensor:
        """φ (B, k, d_m), of the length at which `similarity` gives s_φ times the cosine."""
        return unit(super().vision_key(image, prompt)) * self.length(self.vision_scale)

    def text_key(self, prompt: Part) -> Tensor:
        """ψ (B, k, d_m), of the length at which `similarity` gives s_ψ times the cosine."""
        return unit(super().text_key(prompt)) * self.length(self.text_scale)

    def length(self, scale: Tensor) -> Tensor:
        """The length of keys whose cosine is to be multiplied by exp(``scale``)."""
        return (scale.exp() * self.terms).sqrt()


class EditSide(nn.Module):
    """The side of the edit: the input side's extractor, and τ (1, k, d_m), at first zero."""

    def __init__(self, inputs: MetricExtractor) -> None:
        super().__init__()
        self._inputs = (inputs,)  # in a tuple: its weights are not to be registered twice
        self.sentinel = nn.Parameter(torch.zeros(1, *inputs.psi.shape[1:]))

    def vision_key(self, image: Part, prompt: Part) -> Tensor:
        """φ̂ (B, k, d_m), as on the other side."""
        return self._inputs[0].vision_key(image, prompt)

    def text_key(self, prompt: Part) -> Tensor:
        """ψ̂ − τ (B, k, d_m)."""
        inputs = self._inputs[0]
        return inputs.text_key(prompt) - self.sentinel * inputs.length(inputs.text_scale)


def unit(key: Tensor) -> Tensor:
    """A key (B, k, d_m) divided by its length over all k vectors."""
    return F.normalize(key.flatten(1), dim=-1).view_as(key)
