"""Keys of direct: frozen features of image and question, as vectors of length one.

Raw features of a language model are nearly parallel: a direction that all inputs share carries most
of their length. The mean of a background is therefore subtracted:

    k_v = norm(v − μ_v)
    k_q = norm(t − μ_t) ⊕ norm((q − μ_q) W),   W = I − Σ_i (1 − √(λ / (e_i + λ))) u_i u_iᵀ

v is the feature of the image. A question is read twice: t is its last state without the image, the
same for every image, and q the one with it, which knows what is asked of this image even in other
words. The directions u_i in which q varies while the same is asked are shrunk; e_i and u_i are the
eigenvalues and eigenvectors of its covariance within the background's questions. Texts without an
image have a μ_t of their own, and t in place of q.

Shapes: B rows, n rows of the background, D width of the text decoder.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from liveedit.editors.direct.background import Background, Features

__all__ = ["KeySpace"]

SHRINKAGE = 0.1
"""λ, as a share of the mean eigenvalue over D."""


@dataclass(frozen=True, eq=False)
class KeySpace:
    """Turns features into keys.

    Arguments:
        image_mean: μ_v, (D,).
        text_means: μ_t of texts without and with an image, (2, D).
        asked_mean: μ_q, (D,).
        axes: Directions u_i, (n', D).
        shrinking: 1 − √(λ / (e_i + λ)) of each of them, (n',).
    """

    image_mean: Tensor
    text_means: Tensor
    asked_mean: Tensor
    axes: Tensor
    shrinking: Tensor

    @classmethod
    def learned(cls, background: Background, meanings: Sequence[str]) -> "KeySpace":
        """The space for a background; ``meanings`` (n) says what each common question asks for."""
        common = background.common
        values, axes = _spectrum(_within(common.asked, meanings))
        least = SHRINKAGE * values.sum() / common.asked.shape[1]
        return cls(
            image_mean=common.image.mean(0),
            text_means=torch.stack([background.alone.alone.mean(0), common.alone.mean(0)]),
            asked_mean=common.asked.mean(0),
            axes=axes,
            shrinking=1 - (least / (values + least)).sqrt(),
        )

    def keys(self, features: Features) -> tuple[Tensor, Tensor]:
        """k_v (B, D), NaN without an image, and k_q (B, 2 · D)."""
        return self.image_keys(features), self.question_keys(features)

    def image_keys(self, features: Features) -> Tensor:
        """k_v (B, D); NaN without an image."""
        return normalize(features.image - self.image_mean, dim=-1)

    def question_keys(self, features: Features) -> Tensor:
        """k_q (B, 2 · D)."""
        shown = features.shown
        text = normalize(features.alone - self.text_means[shown.long()], dim=-1)
        centred = features.asked - self.asked_mean
        asked = normalize(centred - (centred @ self.axes.T) * self.shrinking @ self.axes, dim=-1)
        return torch.cat([text, torch.where(shown[:, None], asked, text)], 1)


def _within(states: Tensor, meanings: Sequence[str]) -> Tensor:
    """The states (n, D) without the mean of those that have the same meaning."""
    left = states.clone()
    for meaning in sorted(set(meanings)):
        same = torch.tensor([each == meaning for each in meanings], device=states.device)
        left[same] -= states[same].mean(0)
    return left


def _spectrum(centred: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (n',) and eigenvectors (n', D) of the covariance of ``centred`` (n, D).

    They are computed from the n × n Gram matrix, so that the width D costs little. Directions
    without variance are left out.
    """
    values, vectors = torch.linalg.eigh(centred @ centred.T / len(centred))
    kept = values > values[-1] * 1e-6
    return values[kept], normalize(vectors[:, kept].T @ centred, dim=-1)
